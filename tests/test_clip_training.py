"""Training of the small CLIP: the loss falls, equal meanings do not repel, a killed run ends where a whole one does."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from rs_model import clip_training
from rs_model.checkpoint import read_state
from rs_model.clip import OWN, load_dense_clip
from rs_model.clip_dense import DenseClip
from rs_model.clip_recipe import read_clip_recipe
from rs_model.clip_training import ClipRun, contrast
from rs_model.labels import IGNORE
from rs_model.mixture import Batch, read_mixture
from rs_model.scenes import DUBAI_COLOURS, DUBAI_TILES, read_dubai
from rs_model.weights import WEIGHTS
from safetensors.torch import load_file
from torch.nn import functional as F

from rs_pipeline.errors import ConfigError, TrainingError

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "train" / "rs-clip.yaml"
CPU = torch.device("cpu")
TOWERS = {"patch_px": 16, "width": 32, "layers": 2, "head_width": 16, "text_width": 16, "text_layers": 1, "text_heads": 2, "joint": 16}
SMALL = {
    "steps": 4, "crop_px": 64, "crops": 4, "windows": [1, 2, 4], "checkpoint_every": 2, "learning_rate": 0.01, "towers": TOWERS,
    "mix": {"dubai": {"weight": 1, "zoom": [0.5, 2.0]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A Dubai-shaped folder in which every class has its colour; tiles that do not train cannot be read at all."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    colours = np.array([*DUBAI_COLOURS], np.uint8)
    for tile in (tile for tiles in DUBAI_TILES.values() for tile in tiles):
        folder = root / "dubai_mbrsc" / f"Tile {tile}"
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        mask = colours[np.kron(rng.integers(0, 5, (5, 6)), np.ones((60, 60), int))]
        Image.fromarray(mask).save(folder / "masks" / "image_part_001.png")
        Image.fromarray(mask // 2 + rng.integers(0, 60, mask.shape, np.uint8)).save(folder / "images" / "image_part_001.jpg")
        if tile not in DUBAI_TILES["train"]:
            for path in folder.rglob("image_part*"):
                path.write_bytes(b"not to be opened")
    return root


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe.yaml")


def write_recipe(path, **changes):
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE.read_text()) | SMALL | changes))
    return path


def run_of(path, data, steps=None):
    read = read_clip_recipe(path, steps)
    return ClipRun(read, read_mixture(data, read), None)


def test_the_loss_falls_and_windows_find_their_captions(data, recipe):
    run = run_of(recipe, data, 60)
    losses = [run.advance(run.mixture.batch(0, step)) for step in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert run.model.logit_scale.exp() <= run.recipe.most_scale + 1e-4


def test_a_killed_run_ends_with_the_weights_of_a_whole_one(data, recipe, tmp_path, monkeypatch):
    whole = clip_training.train(recipe, data=data, out=tmp_path / "whole", resume=False)

    def advance(run, batch, usual=ClipRun.advance):
        if run.step == 3:
            raise KeyboardInterrupt
        return usual(run, batch)

    monkeypatch.setattr(ClipRun, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        clip_training.train(recipe, data=data, out=tmp_path / "killed", resume=False)
    monkeypatch.undo()
    assert read_state(tmp_path / "killed").step == 2
    resumed = clip_training.train(recipe, data=data, out=tmp_path / "killed", resume=True)
    one, other = load_file(whole / WEIGHTS), load_file(resumed / WEIGHTS)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (resumed / "config.json").read_text() == (whole / "config.json").read_text()
    clip = load_dense_clip(OWN, str(resumed / WEIGHTS), 64, "sclip", CPU)
    assert clip.features(torch.rand(1, 3, 64, 64)).shape == (1, 4, 4, 16)
    assert one["visual.proj"].dtype == torch.float16


def test_a_checkpoint_is_not_overwritten_without_resume_nor_continued_with_another_recipe(data, recipe, tmp_path):
    clip_training.train(recipe, data=data, out=tmp_path, resume=False, steps=1)
    with pytest.raises(TrainingError, match="--resume"):
        clip_training.train(recipe, data=data, out=tmp_path, resume=False, steps=1)
    with pytest.raises(TrainingError, match="this recipe"):
        clip_training.train(recipe, data=data, out=tmp_path, resume=True, steps=2)


def test_places_that_calibrate_or_are_held_out_do_not_train(data, recipe):
    with pytest.raises(TrainingError):
        list(read_dubai(data, "calibration"))
    scenes = run_of(recipe, data).mixture.scenes
    assert {scene.name.split("/")[0] for scene in scenes["dubai"]} == {f"dubai {tile}" for tile in DUBAI_TILES["train"]}


def test_windows_are_seen_as_dense_clip_sees_patches_and_the_crop_as_the_tower_sees_an_image(data, recipe):
    run = run_of(recipe, data)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole, halves, patches = run._windows(images)
        assert torch.allclose(whole, run.model.encode_image(images), atol=1e-5)
        assert torch.allclose(halves, patches.view(2, 2, 2, 2, 2, -1).mean((2, 4)).flatten(0, 2), atol=1e-5)
    open_clip.set_model_preprocess_cfg(run.model, {"mean": [0.0] * 3, "std": [1.0] * 3})
    dense = DenseClip(run.model, run.tokenizer, run.recipe.attention, CPU).features(images)
    assert torch.allclose(F.normalize(patches, dim=-1), dense.flatten(0, 2), atol=1e-5)


def test_a_batch_of_which_nothing_is_known_teaches_nothing(data, recipe):
    run = run_of(recipe, data)
    nothing = Batch(np.zeros((4, 3, 64, 64), np.float32), np.full((4, 64, 64), IGNORE, np.uint8), (), ())
    assert run.loss(nothing).item() == 0


def logits(rows, texts, seed=0):
    found = torch.randn(rows, texts, generator=torch.Generator().manual_seed(seed))
    return found, found.T


def test_where_all_meanings_differ_it_is_clips_own_loss():
    images, texts = (F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(s)), dim=-1) for s in (0, 1))
    loss = open_clip.ClipLoss()
    own = contrast(*loss.get_logits(images, texts, 10.0), torch.eye(6, dtype=torch.bool))
    assert torch.allclose(own, loss(images, texts, 10.0), atol=1e-6)


def test_captions_of_equal_meaning_are_not_negatives_of_each_other():
    meanings = torch.tensor([0, 0, 1])
    same = meanings[:, None] == meanings
    agreed = torch.where(same, 20.0, -20.0)
    one_by_one = torch.where(torch.eye(3, dtype=torch.bool), 20.0, -20.0)
    best, worse = contrast(agreed, agreed.T, same), contrast(one_by_one, one_by_one.T, same)
    assert best < worse
    assert torch.allclose(best, 2 / 3 * torch.log(torch.tensor(2.0)), atol=1e-4), "two alike can be no surer than a half each"


def test_a_text_that_no_window_shows_is_a_negative_and_nothing_more():
    same = torch.tensor([[True, False, False], [False, True, False]])
    per_window, per_text = logits(2, 3)
    expected = (F.cross_entropy(per_window, torch.tensor([0, 1])) + F.cross_entropy(per_text[:2], torch.tensor([0, 1]))) / 2
    assert torch.allclose(contrast(per_window, per_text, same), expected, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"stesp": 3}, {"model": "rs-tiny"}, {"crop_px": 70}, {"windows": []}, {"windows": [3]}, {"most_scale": 200}, {"mix": {}},
        {"towers": TOWERS | {"head_width": 5}}, {"mix": {"mars": {"weight": 1, "zoom": [1, 2]}}},
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused(tmp_path, change):
    with pytest.raises(ConfigError):
        read_clip_recipe(write_recipe(tmp_path / "r.yaml", **change), None)


def test_the_shipped_recipe_is_valid_and_of_the_shipped_weights():
    assert read_clip_recipe(RECIPE, None).steps > 500
    assert read_clip_recipe(RECIPE, 3).steps == 3
