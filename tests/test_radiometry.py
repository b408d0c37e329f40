import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_pipeline.radiometry import Collar, Stretch, find_collar, measure_stretch


def test_percentiles_of_valid_pixels_only_band_by_band():
    rng = np.random.default_rng(0)
    sample = rng.uniform(100, 200, (3, 50, 60)).astype(np.float32) * np.array([1, 2, 3], np.float32)[:, None, None]
    valid = rng.random((50, 60)) > 0.3
    sample[:, ~valid] = -9999
    stretch = measure_stretch(sample, valid, 2, 98)
    for band, low, high in zip(sample, stretch.low, stretch.high, strict=True):
        assert (low, high) == pytest.approx(np.percentile(band[valid], (2, 98)), rel=1e-6)


def test_nan_does_not_count_and_no_valid_pixel_gives_no_stretch():
    sample = np.full((3, 4, 4), np.nan, np.float32)
    assert measure_stretch(sample, np.ones((4, 4), bool), 2, 98) is None
    sample[:, 0, :] = [1, 2, 3, 4]
    stretch = measure_stretch(sample, np.ones((4, 4), bool), 0, 100)
    assert (stretch.low, stretch.high) == ((1, 1, 1), (4, 4, 4))
    assert measure_stretch(sample, np.zeros((4, 4), bool), 2, 98) is None


def test_a_band_of_one_value_becomes_half():
    sample = np.full((3, 4, 4), 7, np.float32)
    stretch = measure_stretch(sample, np.ones((4, 4), bool), 2, 98)
    assert stretch.apply(sample, np.ones((4, 4), bool)) == pytest.approx(0.5)


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4))
def test_stretched_values_lie_in_0_1_and_unseen_pixels_are_0(low, span):
    image = np.linspace(low - span, low + 2 * span, 3 * 16, dtype=np.float32).reshape(3, 4, 4)
    valid = np.ones((4, 4), bool)
    valid[0] = False
    image[:, 0] = np.nan
    out = Stretch((low,) * 3, (low + span,) * 3).apply(image, valid)
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert (out[:, 0] == 0).all()


def test_a_stretch_without_room_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        Stretch((1.0,), (1.0,))


@pytest.mark.parametrize(("value", "dtype"), [(0, "uint8"), (255, "uint8"), (65535, "uint16"), (0, "float32")])
def test_a_collar_that_is_not_declared_is_found(value, dtype):
    sample = np.full((3, 40, 50), 100, np.float32)
    sample[:, :, :10] = value
    assert find_collar(sample, np.ones((40, 50), bool), dtype) == Collar(value, 0.2, 0.0)


@pytest.mark.parametrize(("dtype", "elsewhere"), [("uint8", 0.008), ("float32", 0.02)])
def test_what_a_collars_value_means_elsewhere_is_told(dtype, elsewhere):
    sample = np.full((3, 40, 50), 100, np.float32)
    sample[:, :, :10] = 0
    sample[:, 10:14, 20:24] = 0  # a shadow
    sample[0, 30:36, 30:34] = 0  # without red: a colour of an unsigned image, but a float that says nothing
    found = find_collar(sample, np.ones((40, 50), bool), dtype)
    assert found == Collar(0, 0.2, pytest.approx(elsewhere))
    assert not found.is_apart


def test_what_is_declared_inside_small_or_coloured_is_no_collar():
    sample, valid = np.full((3, 40, 50), 100, np.float32), np.ones((40, 50), bool)
    sample[:, 10:30, 10:40] = 0  # a lake without any light, away from the edges
    assert find_collar(sample, valid, "uint8") is None
    sample[:, 0, :15] = 0  # 15 pixels of 2000
    assert find_collar(sample, valid, "uint8") is None
    sample[:2, :, 45:] = 0  # one band says something
    assert find_collar(sample, valid, "uint8") is None
    sample[:, :, :5], valid[:, :5] = 0, False
    assert find_collar(sample, valid, "uint8") is None


def test_a_colour_that_reaches_the_edges_by_chance_is_no_collar():
    patches = np.random.default_rng(2).integers(0, 4, (20, 20))
    sample = np.kron(patches, np.ones((5, 5)))[None].repeat(3, 0).astype(np.float32)
    assert find_collar(sample, np.ones((100, 100), bool), "uint8") is None
