"""Training: readers give the labels the masks hold, held-out places stay unread, a killed run ends where a whole one does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rs_model import score, train
from rs_model.augment import cut, disturb, place, turn
from rs_model.checkpoint import NAME, read_state
from rs_model.dense import DenseHead
from rs_model.labels import CLASSES, DRY, IGNORE, MEANING, NO, NOT_BUILDING, NOTHING, SEALED, UNKNOWN, YES
from rs_model.losses import choice_loss, dense_loss, mask_loss, presence_of, targets_of, teacher_loss, total_loss
from rs_model.mixture import Mixture, read_mixture
from rs_model.provider import tiny_provider
from rs_model.recipe import read_recipe
from rs_model.scenes import (
    BANEPA_EAST_X,
    BANEPA_QUARTERS,
    BANEPA_SOUTH_Y,
    DUBAI_COLOURS,
    DUBAI_TILES,
    Scene,
    dubai_codes,
    read_banepa,
    read_chesapeake,
    read_dubai,
    stretch,
)
from rs_model.spectral import label, read_spectral
from rs_model.teacher import UNTAUGHT, Teacher, look_at
from rs_model.tiny import load_tiny
from rs_model.train import Run, one_cycle

from rs_pipeline.errors import ConfigError, TrainingError

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "train" / "rs-tiny.yaml"
DATA = ROOT.parent / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not in ../shared/data")
building, land, road, vegetation, water = range(5)
DENSE, PROMPTED, INSTANCES, WORDS, TOGETHER = range(5)
"""Phases of the recipe below."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A Dubai-shaped folder of noise whose tiles that do not train cannot be read at all."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    colours = np.array([*DUBAI_COLOURS, (155, 155, 155)], np.uint8)
    for tile in (tile for tiles in DUBAI_TILES.values() for tile in tiles):
        for kind in ("images", "masks"):
            (root / "dubai_mbrsc" / f"Tile {tile}" / kind).mkdir(parents=True)
        folder = root / "dubai_mbrsc" / f"Tile {tile}"
        mask = colours[np.kron(rng.integers(0, 6, (5, 6)), np.ones((20, 20), int))]
        Image.fromarray(mask).save(folder / "masks" / "image_part_001.png")
        Image.fromarray(mask // 2 + rng.integers(0, 90, mask.shape, np.uint8)).save(folder / "images" / "image_part_001.jpg")
    for tile in (*DUBAI_TILES["calibration"], *DUBAI_TILES["test"]):
        for path in (root / "dubai_mbrsc" / f"Tile {tile}").rglob("image_part*"):
            path.write_bytes(b"not to be opened")
    return root


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe.yaml")


PHASE = {"steps": 3, "crop_px": 64, "crops": 2, "learning_rate": 0.001, "warmup": 0.1}


def write_recipe(path, **changes):
    text = {"steps": 3, "phrases": 16, "learning_rate": 0.002}
    mix = {"dubai": {"weight": 1, "zoom": [0.5, 2.0]}}
    small = {
        "threads": 1,
        "text": text,
        "phases": [
            {"lesson": "dense", **PHASE},
            {"lesson": "prompted", "instance_weight": 0.2, **PHASE},
            {"lesson": "instances", **PHASE},
            {"lesson": "words", "instance_weight": 0.2, **PHASE},
            {"lesson": "together", "instance_weight": 1.0, "teacher_weight": 1.0, "blend": 0.5, **PHASE},
        ],
        "checkpoint_every": 2,
        "mix": mix,
    }
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE.read_text()) | small | changes))
    return path


class KilledError(Exception):
    pass


def stop_before(monkeypatch, phase, step):
    def advance(run, batch, whole=Run.advance):
        if (run.index, run.step) == (phase, step):
            raise KilledError
        return whole(run, batch)

    monkeypatch.setattr(Run, "advance", advance)


@pytest.mark.parametrize(
    ("phase", "step", "kept"),
    [(DENSE, 2, 2), (PROMPTED, 0, 3), (PROMPTED, 2, 2), (INSTANCES, 0, 3), (WORDS, 2, 2), (TOGETHER, 0, 3), (TOGETHER, 2, 2)],
)
def test_a_run_killed_in_any_phase_ends_with_the_weights_of_a_whole_one(data, recipe, tmp_path, monkeypatch, phase, step, kept):
    whole = train.train(recipe, data=data, out=tmp_path / "whole", resume=False)
    stop_before(monkeypatch, phase, step)
    with pytest.raises(KilledError):
        train.train(recipe, data=data, out=tmp_path / "killed", resume=False)
    monkeypatch.undo()
    assert read_state(tmp_path / "killed").step == kept
    resumed = train.train(recipe, data=data, out=tmp_path / "killed", resume=True)
    assert tiny_provider(resumed).info() == tiny_provider(whole).info()
    summary = json.loads((whole / "config.json").read_text())["training"]
    assert summary["recipe"]["seed"] == 7
    assert set(summary["versions"]) == {"python", "torch", "transformers", "timm"}
    assert len(summary["data_sha256"]) == 64
    assert load_tiny(whole).has_trained_queries


def test_a_phase_changes_its_own_parts_alone(data, recipe):
    run = Run(read_recipe(recipe, 1), read_mixture(data, read_recipe(recipe, 1)), None)
    head = run.student.model.head
    for index, phase in enumerate(run.recipe.phases):
        run._begin(index)
        before = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
        run.advance(run.mixture.batch(index, 0))
        learning = {name for part in run.student.learns(phase.lesson) for name in names_in(run.student, part)}
        changed = {name for name, tensor in run.student.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed <= learning
        assert all(changed & names_in(run.student, part) for part in run.student.learns(phase.lesson))
        assert not changed & names_in(run.student, head.text_encoder)


def names_in(student, part):
    (prefix,) = [name for name, module in student.named_modules() if module is part]
    return {name for name in student.state_dict() if name.startswith(f"{prefix}.")}


def test_the_last_phases_hear_mostly_composed_phrases(data, recipe):
    mixture = read_mixture(data, read_recipe(recipe, None))
    words = {phase: [mixture.batch(phase, step).words for step in range(60)] for phase in (PROMPTED, WORDS, TOGETHER)}
    assert {len(w) for drawn in words.values() for w in drawn} == {6}
    named = {phase: np.mean([w[k] == name for w in drawn for k, name in enumerate(CLASSES)]) for phase, drawn in words.items()}
    assert named == pytest.approx({PROMPTED: 0.5, WORDS: 0.25, TOGETHER: 0.25}, abs=0.1)


def test_a_blended_phase_ends_between_its_first_weights_and_its_own(data, tmp_path):
    ended = {}
    for blend in (0.25, 1.0):
        recipe = read_recipe(write_recipe(tmp_path / "r.yaml", phases=[PHASE | {"lesson": "prompted", "blend": blend}]), None)
        (out := tmp_path / str(blend)).mkdir()
        run = Run(recipe, read_mixture(data, recipe), None)
        began = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
        run.to_the_end(out)
        ended[blend] = run.averaged_model()
        last = Run(recipe, run.mixture, read_state(out))
        last.to_the_end(out)  # once is enough
        assert all(torch.equal(tensor, ended[blend][name]) for name, tensor in last.averaged_model().items())
    moved = 0
    for name, tensor in ended[1.0].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(ended[0.25][name], 0.25 * tensor + 0.75 * began[f"model.{name}"])
            moved += not torch.equal(tensor, began[f"model.{name}"])
    assert moved > 100


def test_a_phase_draws_its_sources_by_shares_of_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setattr("rs_model.mixture._render_demo", lambda recipe: read_dubai(data, "train"))
    mix = {name: {"weight": 0.5, "zoom": [0.5, 2.0]} for name in ("dubai", "demo")}
    phases = [PHASE | {"lesson": "prompted"}, PHASE | {"lesson": "words", "shares": {"demo": 1}}]
    path = write_recipe(tmp_path / "own.yaml", mix=mix, phases=phases)
    drawn = []
    mixture = read_mixture(data, read_recipe(path, None))
    monkeypatch.setattr("rs_model.mixture._instances", lambda codes, sources: drawn.append(set(sources)) or [])
    for index in (0, 1):
        for step in range(20):
            mixture.batch(index, step)
    assert set.union(*drawn[:20]) == {"dubai", "demo"}
    assert set.union(*drawn[20:]) == {"demo"}


def test_a_teacher_says_what_lies_in_the_window_turned_as_the_crop_and_nothing_of_collars_or_strange_scenes(data, recipe, monkeypatch):
    mixture = read_mixture(data, read_recipe(recipe, None))
    scenes = mixture.scenes["dubai"]
    maps = {s.name: (np.moveaxis(s.image[..., [0, 1, 2, 0, 1]], -1, 0)).copy() for s in scenes[1:]}
    teacher = Teacher(maps, {s.name: s.codes.shape for s in scenes[1:]})
    monkeypatch.setattr("rs_model.mixture.disturb", lambda image, rng: image.astype(np.float32) / 255)
    known = collars = strange = 0
    for step in range(40):
        batch = mixture.batch(TOGETHER, step, teacher)
        assert batch.taught.shape == (2, 5, 32, 32)
        for image, codes, taught in zip(batch.images, batch.codes, batch.taught, strict=True):
            if (taught == UNTAUGHT).all():
                strange += 1
                continue
            collar = codes[::2, ::2] == NOTHING
            assert (taught[:, collar] == UNTAUGHT).all()
            collars += collar.any()
            known += 1
            halved = image.reshape(3, 32, 2, 32, 2).mean((2, 4))
            assert np.abs(taught[:3] - halved)[:, ~collar].mean() < 0.06
    assert min(known, collars, strange) > 0
    assert mixture.batch(WORDS, 0).taught is None


def test_a_teacher_is_not_heard_where_labels_are_exact(data, tmp_path):
    mix = {name: {"weight": 1, "zoom": [0.5, 2.0]} for name in ("dubai", "banepa")}
    recipe = read_recipe(write_recipe(tmp_path / "own.yaml", mix=mix, phases=[PHASE | {"lesson": "together", "crops": 8}]), None)
    codes = np.full((90, 90), NOT_BUILDING, np.uint8)
    codes[:45] = building
    image = np.full((90, 90, 3), 90, np.uint8)
    heard = {(name, code): [] for name in mix for code in (building, NOT_BUILDING)}
    for name in mix:
        mixture = Mixture({name: [Scene(name, image, codes)]}, recipe)
        teacher = Teacher({name: np.full((5, 45, 45), 51, np.uint8)}, {name: codes.shape})
        for step in range(10):
            batch = mixture.batch(0, step, teacher)
            for codes_of, taught in zip(batch.codes[:, ::2, ::2], batch.taught, strict=True):
                for code in (building, NOT_BUILDING):
                    heard[name, code].extend((taught[:, codes_of == code] != UNTAUGHT).T)
    assert min(len(pixels) for pixels in heard.values()) > 1000
    everywhere, outside, nowhere = np.ones(5, bool), np.array([False, True, True, True, True]), np.zeros(5, bool)
    for key, classes in (
        (("dubai", building), everywhere),
        (("dubai", NOT_BUILDING), everywhere),
        (("banepa", building), nowhere),
        (("banepa", NOT_BUILDING), outside),
    ):
        assert (np.array(heard[key]) == classes).all()


def test_a_teacher_looks_at_scenes_whose_labels_know_less_than_it_does_and_is_the_mean_of_its_views(data, recipe, tmp_path):
    read = read_recipe(recipe, 1)
    run = Run(read, read_mixture(data, read), None)
    train.export(tmp_path / "w", read, run.averaged_model(), "")
    scenes = list(run.mixture.taught_scenes(TOGETHER))
    assert [zoom for _, zoom in scenes] == [1.0] * 3
    scene = scenes[0][0]
    exact = {source: [replace(scene, name=source)] for source in ("banepa", "demo")}
    assert list(Mixture(run.mixture.scenes | exact, read).taught_scenes(TOGETHER)) == scenes
    mirrored = Scene("mirrored", np.ascontiguousarray(scene.image[:, ::-1]), scene.codes)
    teacher = look_at(tmp_path / "w", [(scene, 1.0), (mirrored, 1.0), (Scene("half", scene.image, scene.codes), 0.5)], 512, 1)
    assert teacher.maps[scene.name].shape == (5, *scene.codes.shape)
    assert teacher.maps["half"].shape == (5, 50, 60)
    assert np.abs(teacher.maps[scene.name][..., ::-1].astype(int) - teacher.maps["mirrored"]).max() <= 1


def test_a_run_learns_from_its_teacher(data, tmp_path):
    ended = {}
    for weight in (0.0, 5.0):
        phases = [PHASE | {"lesson": "together", "steps": 1, "learning_rate": 0.01, "teacher_weight": weight}]
        train.train(write_recipe(tmp_path / "r.yaml", phases=phases), data=data, out=tmp_path / str(weight), resume=False)
        ended[weight] = read_state(tmp_path / str(weight)).model
    assert any(not torch.equal(tensor, ended[5.0][name]) for name, tensor in ended[0.0].items())


def test_a_teacher_looks_at_what_its_phase_draws_alone(data, tmp_path, monkeypatch):
    monkeypatch.setattr("rs_model.mixture.read_chesapeake", lambda data: read_dubai(data, "train"))
    mix = {name: {"weight": 1, "zoom": [0.5, 2.0]} for name in ("dubai", "chesapeake")}
    phases = [PHASE | {"lesson": "together"}, PHASE | {"lesson": "together", "teacher_weight": 1, "shares": {"chesapeake": 1, "dubai": 0}}]
    mixture = read_mixture(data, read_recipe(write_recipe(tmp_path / "own.yaml", mix=mix, phases=phases), None))
    assert [len(list(mixture.taught_scenes(index))) for index in (0, 1)] == [6, 3]


def test_what_a_teacher_does_not_say_moves_nothing():
    torch.manual_seed(0)
    logits, taught = torch.randn(2, 6, 8, 8), torch.rand(2, 5, 16, 16)
    taught[:, :, 8:] = UNTAUGHT
    changed = logits.clone()
    changed[:, :, 5:] += 3
    changed[:, 5] -= 7
    assert teacher_loss(changed, taught) == pytest.approx(teacher_loss(logits, taught).item())
    assert teacher_loss(logits, torch.full_like(taught, UNTAUGHT)) == 0
    agreed = torch.logit(taught[:, :, :8, :].clamp(1e-4, 1 - 1e-4))
    assert teacher_loss(agreed, taught[:, :, :8]) < teacher_loss(agreed + 0.3, taught[:, :, :8])


def test_a_recipe_may_name_its_own_tiles_of_dubai(data, tmp_path):
    path = write_recipe(tmp_path / "own.yaml", mix={"dubai": {"weight": 1, "zoom": [0.5, 2.0], "tiles": [8]}})
    assert [scene.name for scene in read_mixture(data, read_recipe(path, None)).scenes["dubai"]] == ["dubai 8/image_part_001"]


def test_a_checkpoint_is_not_overwritten_without_resume_nor_continued_with_another_recipe(data, recipe, tmp_path):
    out = tmp_path / "run"
    train.train(recipe, data=data, out=out, resume=False, steps=1)
    with pytest.raises(TrainingError, match="--resume"):
        train.train(recipe, data=data, out=out, resume=False, steps=1)
    with pytest.raises(TrainingError, match="this recipe"):
        train.train(recipe, data=data, out=out, resume=True, steps=2)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_one_clear_line(data, recipe, tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(TrainingError, match="whole checkpoint") as caught:
        train.train(recipe, data=data, out=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_missing_data_is_one_clear_line(recipe, tmp_path):
    with pytest.raises(TrainingError, match="nowhere"):
        train.train(recipe, data=tmp_path / "nowhere", out=tmp_path / "out", resume=False)
    with pytest.raises(TrainingError, match="dubai_mbrsc"):
        train.train(recipe, data=tmp_path, out=tmp_path / "out", resume=False)


@pytest.mark.parametrize(
    "change",
    [
        {"stesp": 3},
        {"clip_norm": 0},
        {"ema_decay": "slow"},
        {"phases": [PHASE | {"lesson": "dense", "crop_px": 65}]},
        {"phases": [PHASE | {"lesson": "rote"}]},
        {"phases": [PHASE | {"lesson": "dense", "teacher_weight": 1}]},
        {"phases": [PHASE | {"lesson": "instances", "instance_weight": 1}]},
        {"phases": [PHASE | {"lesson": "dense", "shares": {"banepa": 1}}]},
        {"phases": [PHASE | {"lesson": "dense", "shares": {"dubai": 0}}]},
        {"mix": {"banepa": {"weight": 1, "zoom": [1, 2]}}},
        {"phases": [PHASE | {"lesson": "dense", "blend": 0}]},
        {"phases": [PHASE | {"lesson": "dense", "blend": 1.1}]},
        {"phases": []},
        {"mix": {"mars": {"weight": 1, "zoom": [1, 2]}}},
        {"mix": {}},
    ],
)
def test_a_bad_recipe_is_refused(tmp_path, change):
    with pytest.raises(ConfigError):
        read_recipe(write_recipe(tmp_path / "r.yaml", **change), None)


def test_a_bad_recipe_is_named_where_it_is_bad(tmp_path):
    for change, message in (
        ([PHASE | {"lesson": "dense", "teacher_weight": 1}], r"phases\.0: instance_weight and teacher_weight: not in a phase dense"),
        ([PHASE | {"lesson": "dense", "shares": {"mars": 1}}], r"^expected shares of a phase: sources that have a weight \(dubai\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_recipe(write_recipe(tmp_path / "r.yaml", phases=change), None)


def test_the_shipped_recipe_is_valid_and_phases_can_be_shortened():
    whole, short = read_recipe(RECIPE, None), read_recipe(RECIPE, 3)
    assert min(phase.steps for phase in whole.phases) > 1000
    assert {short.text.steps, *(phase.steps for phase in short.phases)} == {3}
    assert [phase.crop_px for phase in short.phases] == [phase.crop_px for phase in whole.phases]
    with pytest.raises(ConfigError):
        read_recipe(RECIPE, 0)


def test_training_opens_no_tile_of_another_split(data):
    for split in ("calibration", "test"):
        with pytest.raises(TrainingError):
            list(read_dubai(data, split))
    names = [scene.name for scene in read_dubai(data, "train")]
    assert {int(name.split()[1].split("/")[0]) for name in names} == set(DUBAI_TILES["train"])


def test_a_place_belongs_to_one_split():
    tiles = [tile for tiles in DUBAI_TILES.values() for tile in tiles]
    assert len(tiles) == len(set(tiles))
    assert len(set(BANEPA_QUARTERS.values())) == len(BANEPA_QUARTERS)


def test_a_batch_depends_on_its_step_alone(data, recipe):
    mixture = read_mixture(data, read_recipe(recipe, None))
    first, again, other = mixture.batch(DENSE, 5), mixture.batch(DENSE, 5), mixture.batch(DENSE, 6)
    assert first.words == again.words
    assert first.images.tobytes() == again.images.tobytes()
    assert first.images.tobytes() != other.images.tobytes()
    assert first.images.tobytes() != mixture.batch(PROMPTED, 5).images.tobytes()
    assert first.images.shape == (2, 3, 64, 64)
    assert 0 <= first.images.min() <= first.images.max() <= 1


def test_mask_colours_become_codes_and_the_rest_is_ignored():
    colours = np.array([[*DUBAI_COLOURS, (155, 155, 155), (0, 0, 0), (226, 169, 42)]], np.uint8)
    names = [*DUBAI_COLOURS.values()]
    assert dubai_codes(colours).tolist() == [[*(CLASSES.index(n) for n in names), IGNORE, IGNORE, IGNORE]]


def test_codes_say_what_is_known():
    assert (MEANING[: len(CLASSES)] == np.eye(5)).all()
    assert MEANING[NOT_BUILDING].tolist() == [NO] + [UNKNOWN] * 4
    assert MEANING[SEALED, [building, road]].tolist() == [UNKNOWN, UNKNOWN]
    assert MEANING[SEALED, [land, vegetation, water]].tolist() == [NO, NO, NO]
    assert (MEANING[IGNORE] == UNKNOWN).all()
    assert MEANING[DRY].tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, NO, NO]


def test_presence_is_known_only_where_the_labels_say_so():
    codes = torch.full((3, 40, 40), NOT_BUILDING)
    codes[1] = land
    codes[1, 0, :2] = water
    codes[1, 1, 0] = road
    codes[2] = IGNORE
    present = presence_of(targets_of(codes)).tolist()
    assert present[0] == [NO] + [UNKNOWN] * 4
    assert present[1] == [NO, YES, UNKNOWN, NO, YES]
    assert present[2] == [UNKNOWN] * 5


def test_unknown_pixels_do_not_move_the_loss():
    torch.manual_seed(0)
    codes = torch.randint(0, 5, (1, 16, 16))
    codes[:, :8] = IGNORE
    logits = torch.randn(1, 5, 16, 16)
    changed = logits.clone()
    changed[:, :, :8] += 5
    for loss in (lambda x: mask_loss(x, targets_of(codes)), lambda x: choice_loss(x, codes)):
        assert loss(logits) == pytest.approx(loss(changed).item())
    nothing = total_loss(torch.randn(1, 5, 4, 4), torch.randn(1, 5), torch.full((1, 16, 16), IGNORE), 0.3)
    assert nothing == 0


def test_crops_keep_image_and_labels_together():
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(0, 5, (8, 9)), np.ones((32, 32), int)).astype(np.uint8)
    scene = Scene("checks", np.repeat(codes[:, :, None] * 50, 3, 2), codes)
    for zoom in (0.3, 1.0, 2.0):
        image, labels = turn(cut(scene, place(scene.codes, 96, zoom, rng), 96), rng)
        assert image.shape == (96, 96, 3)
        assert (np.abs(image[:, :, 0].astype(int) - labels * 50) < 5).mean() > 0.6
    calm = disturb(image, np.random.default_rng(1))
    assert calm.dtype == np.float32
    assert 0 <= calm.min() <= calm.max() <= 1


def test_the_stretch_maps_the_percentiles_of_each_band_to_the_ends():
    ramp = np.stack([np.arange(10_000).reshape(100, 100) * k for k in (1, 3, 7)], -1).astype(np.float32)
    out = stretch(ramp)
    assert (out[0, 0] == 0).all()
    assert (out[-1, -1] == 255).all()
    assert np.abs(out[:, :, 0].astype(int) - out[:, :, 2]).max() <= 1
    assert (stretch(np.full((4, 4, 3), 9, np.uint8)) == 0).all()


def test_the_learning_rate_rises_and_falls_to_nothing():
    curve = [one_cycle(step / 100, 0.1) for step in range(101)]
    assert np.argmax(curve) == 10
    assert curve[10] == pytest.approx(1)
    assert curve[100] == pytest.approx(0)


def test_windows_are_blended_without_a_seam():
    class Level:
        def segment(self, images, valid, classes):
            assert images.shape[2:] == (64, 64)
            return images[:, :1].repeat(len(classes), 1)

    image = np.repeat(np.linspace(0, 255, 150).astype(np.uint8)[None, :, None], 100, 0).repeat(3, 2)
    found = score.predict(Level(), image, score.all_classes(), 64)
    np.testing.assert_allclose(found[2], image[:, :, 0] / 255, atol=1e-5)


@real_data
def test_banepa_quarters_do_not_overlap_and_footprints_lie_on_the_chips():
    quarters = [scene for split in BANEPA_QUARTERS for scene in read_banepa(DATA, split)]
    assert {s.name: s.codes.shape for s in quarters} == {
        "banepa north": (2048, 3072),
        "banepa south-west": (2048, 1536),
        "banepa south-east": (2048, 1536),
    }
    assert (BANEPA_EAST_X, BANEPA_SOUTH_Y) == (386693, 220245)
    for scene in quarters:
        assert set(np.unique(scene.codes)) == {building, NOT_BUILDING}
        assert 0.2 < (scene.codes == building).mean() < 0.6


@real_data
def test_real_masks_hold_only_listed_colours():
    scene = next(iter(read_dubai(DATA, "train")))
    assert scene.name == "dubai 1/image_part_001"
    assert np.bincount(scene.codes.ravel(), minlength=8).tolist() == [2779, 388530, 73093, 4377, 36569, 0, 0, 7920]


@real_data
def test_chesapeake_roofs_and_car_parks_are_not_told_apart():
    scenes = list(read_chesapeake(DATA))
    assert len(scenes) == 16
    assert set(np.unique([s.codes for s in scenes])) == {vegetation, SEALED}


def four_bands(**pixels):
    """(4, 1, n) red, green, blue, near infrared."""
    return np.array(list(pixels.values()), np.uint8).T[:, None]


def test_the_infrared_tells_green_wet_and_dry_ground_and_leaves_the_rest_unknown():
    bands = four_bands(
        meadow=(60, 80, 50, 160), lake=(40, 60, 50, 12), concrete=(210, 215, 200, 120), sand=(170, 150, 130, 160), none=(0, 0, 0, 0)
    )
    assert label(bands, dry=land)[0].tolist() == [vegetation, water, IGNORE, land, IGNORE]
    assert label(bands, dry=DRY)[0, 3] == DRY


@real_data
def test_lakes_and_fields_are_labelled_in_most_years():
    scenes = list(read_spectral(DATA))
    assert len(scenes) == 14
    shares = np.array([np.bincount(s.codes.ravel(), minlength=9)[:9] / s.codes.size for s in scenes])
    farmland = shares[:10]
    assert (farmland[:, water] > 0.05).sum() >= 8
    assert np.median(farmland[:, vegetation]) > 0.4
    assert (shares[:, [building, road]] == 0).all()


def test_the_dense_head_gives_five_logits_at_a_quarter_of_the_size_and_trains_the_pyramid():
    levels = [torch.randn(2, 16, 64 // s, 96 // s, requires_grad=True) for s in (4, 8, 16)]
    logits = DenseHead(16)(levels)
    assert logits.shape == (2, 5, 16, 24)
    dense_loss(logits, torch.randint(0, 5, (2, 64, 96))).backward()
    assert all(level.grad.abs().sum() > 0 for level in levels)
