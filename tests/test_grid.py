import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from rs_pipeline.grid import Grid, Window

windows = st.builds(Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60))


def pixels(window):
    return {(r, c) for r in range(window.row_off, window.row_stop) for c in range(window.col_off, window.col_stop)}


@given(windows, windows)
def test_intersection_holds_the_pixels_of_both(a, b):
    both = a.intersection(b)
    assert (pixels(both) if both else set()) == pixels(a) & pixels(b)
    assert a.contains(b) == (pixels(b) <= pixels(a))


@given(windows, windows)
def test_slices_are_relative_to_the_origin_window(a, origin):
    rows, cols = a.slices(origin)
    assert (rows.start, cols.start) == (a.row_off - origin.row_off, a.col_off - origin.col_off)
    assert (rows.stop - rows.start, cols.stop - cols.start) == a.shape


def test_a_window_or_grid_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel, got height 0"):
        Window(0, 0, 0, 5)
    with pytest.raises(ValueError, match="at least one pixel, got height 5, width 0"):
        Grid(CRS(32632), Affine.identity(), 5, 0)


def test_crop_moves_the_origin_and_keeps_the_pixels():
    grid = Grid(CRS(32632), Affine(0.5, 0, 100, 0, -0.5, 900), 80, 60)
    part = grid.crop(Window(10, 20, 5, 6))
    assert part.transform @ (0, 0) == grid.transform @ (20, 10)
    assert part.shape == (5, 6)
    assert part.bounds == (110.0, 892.5, 113.0, 895.0)
    with pytest.raises(ValueError, match="not inside"):
        grid.crop(Window(79, 0, 2, 2))


def test_a_grid_survives_json():
    grid = Grid(CRS(28992), Affine(0.597164035, 0, 1 / 3, 0, -0.597164035, 7.1), 80, 60)
    assert Grid.from_dict(grid.to_dict()) == grid
    assert grid.gsd_m == pytest.approx(0.597164035)
