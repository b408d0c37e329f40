"""Training: readers give the labels the masks hold, held-out places stay unread, a killed run ends where a whole one does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rs_model import score, train
from rs_model.augment import cut, disturb, turn
from rs_model.checkpoint import NAME, read_state
from rs_model.labels import CLASSES, IGNORE, MEANING, NO, NOT_BUILDING, SEALED, UNKNOWN, YES
from rs_model.losses import choice_loss, mask_loss, presence_of, targets_of, total_loss
from rs_model.mixture import read_mixture
from rs_model.provider import tiny_provider
from rs_model.recipe import read_recipe
from rs_model.scenes import (
    BANEPA_EAST_X,
    BANEPA_SOUTH_Y,
    DUBAI_COLOURS,
    DUBAI_HELD_OUT_TILE,
    DUBAI_TRAIN_TILES,
    Scene,
    dubai_codes,
    read_banepa,
    read_chesapeake,
    read_dubai,
    stretch,
)
from rs_model.train import Run, one_cycle

from rs_pipeline.errors import ConfigError, TrainingError

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "train" / "rs-tiny.yaml"
DATA = ROOT.parent / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not in ../shared/data")
building, land, road, vegetation, water = range(5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A Dubai-shaped folder of noise whose held-out tile cannot be read at all."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    colours = np.array([*DUBAI_COLOURS, (155, 155, 155)], np.uint8)
    for tile in (*DUBAI_TRAIN_TILES, DUBAI_HELD_OUT_TILE):
        for kind in ("images", "masks"):
            (root / "dubai_mbrsc" / f"Tile {tile}" / kind).mkdir(parents=True)
        folder = root / "dubai_mbrsc" / f"Tile {tile}"
        mask = colours[np.kron(rng.integers(0, 6, (5, 6)), np.ones((20, 20), int))]
        Image.fromarray(mask).save(folder / "masks" / "image_part_001.png")
        Image.fromarray(mask // 2 + rng.integers(0, 90, mask.shape, np.uint8)).save(folder / "images" / "image_part_001.jpg")
    for path in (root / "dubai_mbrsc" / f"Tile {DUBAI_HELD_OUT_TILE}").rglob("image_part*"):
        path.write_bytes(b"not to be opened")
    return root


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe.yaml")


def write_recipe(path, **changes):
    small = {"steps": 4, "crop_px": 64, "crops": 2, "checkpoint_every": 2, "mix": {"dubai": {"weight": 1, "zoom": [0.5, 2.0]}}}
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE.read_text()) | small | changes))
    return path


class KilledError(Exception):
    pass


def stop_before(monkeypatch, step):
    def advance(run, batch, whole=Run.advance):
        if run.step == step:
            raise KilledError
        return whole(run, batch)

    monkeypatch.setattr(Run, "advance", advance)


def test_a_killed_run_ends_with_the_weights_of_a_whole_one(data, recipe, tmp_path, monkeypatch):
    whole = train.train(recipe, data=data, out=tmp_path / "whole", resume=False)
    stop_before(monkeypatch, 3)
    with pytest.raises(KilledError):
        train.train(recipe, data=data, out=tmp_path / "killed", resume=False)
    monkeypatch.undo()
    assert read_state(tmp_path / "killed").step == 2
    resumed = train.train(recipe, data=data, out=tmp_path / "killed", resume=True)
    assert tiny_provider(resumed).info() == tiny_provider(whole).info()
    summary = json.loads((whole / "config.json").read_text())["training"]
    assert summary["recipe"]["seed"] == 7
    assert set(summary["versions"]) == {"python", "torch", "transformers", "timm"}
    assert len(summary["data_sha256"]) == 64


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
    [{"stesp": 3}, {"steps": 0}, {"learning_rate": "fast"}, {"crop_px": 65}, {"mix": {"mars": {"weight": 1, "zoom": [1, 2]}}}, {"mix": {}}],
)
def test_a_bad_recipe_is_refused(tmp_path, change):
    with pytest.raises(ConfigError):
        read_recipe(write_recipe(tmp_path / "r.yaml", **change), None)


def test_the_shipped_recipe_is_valid_and_steps_can_be_given():
    assert read_recipe(RECIPE, None).steps > 1000
    assert read_recipe(RECIPE, 3).steps == 3


def test_training_never_opens_the_held_out_tile(data):
    with pytest.raises(TrainingError):
        list(read_dubai(data, held_out=True))
    names = [scene.name for scene in read_dubai(data, held_out=False)]
    assert {int(name.split()[1].split("/")[0]) for name in names} == set(DUBAI_TRAIN_TILES)


def test_a_batch_depends_on_its_step_alone(data, recipe):
    mixture = read_mixture(data, read_recipe(recipe, None))
    first, again, other = mixture.batch(5), mixture.batch(5), mixture.batch(6)
    assert first.words == again.words
    assert first.images.tobytes() == again.images.tobytes()
    assert first.images.tobytes() != other.images.tobytes()
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
        image, labels = turn(*cut(scene, 96, zoom, rng), rng)
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
    trained, held = list(read_banepa(DATA, held_out=False)), list(read_banepa(DATA, held_out=True))
    assert [s.name for s in held] == ["banepa south-east"]
    assert {s.name: s.codes.shape for s in trained} == {"banepa north": (2048, 3072), "banepa south-west": (2048, 1536)}
    assert (BANEPA_EAST_X, BANEPA_SOUTH_Y) == (386693, 220245)
    for scene in (*trained, *held):
        assert set(np.unique(scene.codes)) == {building, NOT_BUILDING}
        assert 0.2 < (scene.codes == building).mean() < 0.6


@real_data
def test_real_masks_hold_only_listed_colours():
    scene = next(iter(read_dubai(DATA, held_out=False)))
    assert scene.name == "dubai 1/image_part_001"
    assert np.bincount(scene.codes.ravel(), minlength=8).tolist() == [2779, 388530, 73093, 4377, 36569, 0, 0, 7920]


@real_data
def test_chesapeake_roofs_and_car_parks_are_not_told_apart():
    scenes = list(read_chesapeake(DATA))
    assert len(scenes) == 16
    assert set(np.unique([s.codes for s in scenes])) == {vegetation, SEALED}
