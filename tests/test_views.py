"""Test-time augmentation: views come back where they came from, nothing unseen gets in, and no views at all is the tile as it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from rs_model.chain import Chain
from rs_model.segmenter import PromptedSegmenter
from rs_model.views import View, mean_over_views, views_of
from small_sam3 import SIDE, small_full

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import ConfigError
from rs_pipeline.options import TtaSettings

PLAIN, FLIPPED = TtaSettings(scales=(1.0,), flips=False), TtaSettings(scales=(1.0,), flips=True)
sizes, seeds = st.integers(5, 40), st.integers(0, 999)


def images_of(seed, height, width, count=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator), torch.ones(count, height, width, dtype=torch.bool)


def pointwise(images):
    """Two classes, each pixel by itself."""
    return images[:, :2] * 0.5 + 0.2


def lopsided(images):
    """A model that sees left and top otherwise than right and bottom."""
    return torch.sigmoid(images.cumsum(-1)[:, :2] - images.cumsum(-2)[:, 1:] * 0.7)


@given(seeds, sizes, sizes)
def test_one_scale_of_1_and_no_flips_is_the_model_itself_bit_for_bit(seed, height, width):
    images, valid = images_of(seed, height, width)
    assert views_of(PLAIN) == (View(1.0, ()),)
    assert torch.equal(mean_over_views(lopsided, images, valid, views_of(PLAIN)), lopsided(images))


@given(seeds, sizes, sizes)
def test_flips_change_nothing_for_a_model_that_looks_at_pixels_one_by_one(seed, height, width):
    images, valid = images_of(seed, height, width)
    torch.testing.assert_close(mean_over_views(pointwise, images, valid, views_of(FLIPPED)), pointwise(images))


@given(seeds, sizes, sizes, st.sampled_from([(-1,), (-2,), (-2, -1)]))
def test_with_flips_a_mirrored_tile_scores_the_mirrored_map_whatever_the_model(seed, height, width, axes):
    images, valid = images_of(seed, height, width)
    views = views_of(FLIPPED)
    mirrored = mean_over_views(lopsided, images.flip(axes), valid, views)
    torch.testing.assert_close(mirrored, mean_over_views(lopsided, images, valid, views).flip(axes))


@given(seeds, sizes, sizes, st.sets(st.sampled_from([0.25, 0.5, 0.8, 1.0, 1.5, 2.0]), min_size=1), st.booleans(), st.booleans())
@limits(max_examples=40)
def test_maps_come_back_at_the_tiles_size_and_in_range_and_a_flat_tile_stays_flat(seed, height, width, scales, flips, fixed):
    views = views_of(TtaSettings(scales=tuple(sorted(scales)), flips=flips))
    assert len(views) == len(scales) * (4 if flips else 1)
    images, valid = images_of(seed, height, width)
    found = mean_over_views(lopsided, images, valid, views, fixed_input=fixed)
    assert found.shape == (2, 2, height, width)
    assert 0 <= found.min() <= found.max() <= 1
    flat = torch.full_like(images, 0.6)
    torch.testing.assert_close(mean_over_views(pointwise, flat, valid, views, fixed_input=fixed), pointwise(flat))


@given(seeds, st.sampled_from([0.25, 0.5, 0.7, 1.5, 3.0]))
def test_what_was_not_seen_does_not_darken_the_pixels_beside_it(seed, scale):
    valid = torch.from_numpy(np.random.default_rng(seed).random((1, 24, 31)) < 0.6)
    shown = []
    images = torch.where(valid[:, None], 0.75, 0.0).expand(1, 3, 24, 31).contiguous()
    mean_over_views(lambda view: shown.append(view) or pointwise(view), images, valid, (View(scale, ()),))
    values = torch.cat([view.flatten() for view in shown])
    assert torch.all((values == 0) | ((values - 0.75).abs() < 1e-4))


@pytest.mark.parametrize(("scale", "windows"), [(0.5, 1), (1.0, 1), (1.5, 4), (2.0, 4)])
def test_a_model_of_one_input_size_is_shown_windows_of_the_tiles_own_size(scale, windows):
    images, valid = images_of(0, 20, 30)
    shown = []
    mean_over_views(lambda view: shown.append(view.shape) or pointwise(view), images, valid, (View(scale, ()),), fixed_input=True)
    assert shown == [(2, 3, 20, 30)] * windows


def test_a_model_of_any_size_is_shown_the_whole_tile_at_each_scale():
    images, valid = images_of(0, 20, 30)
    shown = []
    views = views_of(TtaSettings(scales=(0.5, 1.0, 2.0), flips=False))
    mean_over_views(lambda view: shown.append(tuple(view.shape[-2:])) or pointwise(view), images, valid, views)
    assert shown == [(10, 15), (20, 30), (40, 60)]


@pytest.mark.parametrize("fixed", [False, True])
def test_scales_of_a_smooth_tile_agree_with_the_tile_itself(fixed):
    rows, cols = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    images = torch.stack([rows, cols, rows * cols])[None]
    valid, views = torch.ones(1, 48, 64, dtype=torch.bool), (View(2.0, ()), View(0.5, (-1,)))
    found = mean_over_views(pointwise, images, valid, views, fixed_input=fixed)
    torch.testing.assert_close(found, pointwise(images), atol=0.02, rtol=0)


@pytest.mark.parametrize("text", ["scales=[]", "scales=[0]", "scales=[5]", "scales=[1, 1]", "scales=[nan]", "flips=sometimes"])
def test_settings_that_make_no_sense_are_refused(text):
    with pytest.raises(ConfigError, match="tta"):
        load_settings(sets=[f"scoring.tta.{text}"])


# --- in the segmenter: SAM 3, whose input size is fixed

CLASSES = ClassSet(tuple(Class(i, word, (word,), (0, 0, 0), 0.5) for i, word in enumerate(("road", "roof"), 1)))


@pytest.fixture(scope="module")
def model():
    return small_full()


def segment(model, images, valid, *sets):
    options = load_settings(sets=["device=cpu", "refine.preset=none", "scoring.absent_below=0", *sets]).options
    return PromptedSegmenter(model, Chain(options.refine), options, torch.device("cpu")).segment(images, valid, CLASSES)


def test_the_default_is_one_pass_over_the_tile_as_it_is(model, monkeypatch):
    images, valid = (part.numpy() for part in images_of(0, SIDE, SIDE))
    shown = []
    monkeypatch.setattr(model, "fit", lambda images, fit=model.fit: shown.append(images) or fit(images))
    plain = segment(model, images, valid)
    assert len(shown) == 1
    assert np.array_equal(shown[0].numpy(), images)
    assert segment(model, images, valid, "scoring.tta.scales=[1]", "scoring.tta.flips=false").tobytes() == plain.tobytes()


def test_flips_are_the_mean_of_four_passes(model):
    images, valid = (part.numpy() for part in images_of(0, SIDE, SIDE, 1))
    axes = [(), (3,), (2,), (2, 3)]
    alone = [np.flip(segment(model, np.flip(images, a).copy(), valid), a) for a in axes]
    found = segment(model, images, valid, "scoring.tta.flips=true")
    np.testing.assert_allclose(found, np.mean(alone, 0), atol=1e-6)
    assert np.abs(found - alone[0]).max() > 1e-4


@pytest.mark.parametrize("height", [SIDE, 33])
def test_scales_reach_a_model_whose_input_size_is_fixed(model, height):
    images, valid = (part.numpy() for part in images_of(1, height, SIDE, 1))
    plain, halved, doubled = (segment(model, images, valid, f"scoring.tta.scales=[{scale}]") for scale in (1, 0.5, 2))
    assert plain.shape == halved.shape == doubled.shape == (1, 2, height, SIDE)
    assert np.abs(plain - halved).max() > 1e-4
    assert np.abs(plain - doubled).max() > 1e-4


def test_what_is_not_valid_does_not_leak_into_any_view(model):
    images, valid = (part.numpy() for part in images_of(2, SIDE, SIDE, 1))
    valid[:, :20] = False
    spoiled = np.where(valid[:, None], images, np.nan).astype(np.float32)
    sets = ("scoring.tta.scales=[0.5, 1, 2]", "scoring.tta.flips=true")
    np.testing.assert_array_equal(segment(model, spoiled, valid, *sets), segment(model, np.where(valid[:, None], images, 0), valid, *sets))
