import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.tiles import TilePlan


def grid_of(height, width):
    return Grid(CRS(32632), Affine(0.5, 0, 1000, 0, -0.5, 9000), height, width)


@st.composite
def plans(draw):
    tile = draw(st.integers(1, 70))
    return TilePlan(grid_of(draw(st.integers(1, 150)), draw(st.integers(1, 150))), tile, draw(st.integers(0, tile // 2)))


@given(plans())
@settings(max_examples=60, deadline=None)
def test_law_1_cores_cover_every_pixel_once_and_lie_in_halos_in_the_grid(plan):
    covered = np.zeros(plan.grid.shape, int)
    for tile in plan.tiles():
        covered[tile.core.slices()] += 1
        assert tile.halo.contains(tile.core)
        assert tile.context.contains(tile.halo)
        assert plan.grid.window.contains(tile.context)
    assert (covered == 1).all()


@given(plans())
@settings(max_examples=30, deadline=None)
def test_every_tile_is_read_in_one_shape(plan):
    shapes = {tile.context.shape for tile in plan.tiles()}
    assert shapes == {(min(plan.tile_px, plan.grid.height), min(plan.tile_px, plan.grid.width))}


@given(plans(), st.data())
@settings(max_examples=60, deadline=None)
def test_tiles_meeting_a_window_are_those_whose_halo_does(plan, data):
    row, col = data.draw(st.integers(0, plan.grid.height - 1)), data.draw(st.integers(0, plan.grid.width - 1))
    window = Window(row, col, data.draw(st.integers(1, plan.grid.height - row)), data.draw(st.integers(1, plan.grid.width - col)))
    expected = [t for t in plan.tiles() if t.halo.intersection(window)]
    assert list(plan.tiles_meeting(window)) == expected


def test_no_pixel_lies_in_more_than_four_halos():
    plan = TilePlan(grid_of(90, 90), 20, 10)
    depth = np.zeros(plan.grid.shape, int)
    for tile in plan.tiles():
        depth[tile.halo.slices()] += 1
    assert depth.max() == 4


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_law_1_under_an_aoi_its_pixels_are_covered_and_far_tiles_are_left_out(seed):
    rng = np.random.default_rng(seed)
    grid = grid_of(100, 120)
    centre = 1000 + rng.uniform(0, 60), 9000 - rng.uniform(0, 50)
    aoi = shapely.Point(centre).buffer(rng.uniform(1, 20)).difference(shapely.Point(centre).buffer(0.5))
    plan = TilePlan(grid, 32, 8, aoi)
    kept = {tile.index for tile in plan.tiles()}
    for tile in TilePlan(grid, 32, 8).tiles():
        box = shapely.box(*grid.crop(tile.core).bounds)
        assert (tile.index in kept) == aoi.intersects(box)
    assert plan.count() == len(kept)


def test_the_lattice_is_the_same_whatever_the_aoi():
    grid = grid_of(100, 120)
    aoi = shapely.box(1030, 8960, 1050, 8980)
    assert {t.index: t for t in TilePlan(grid, 32, 8, aoi).tiles()}.items() <= {t.index: t for t in TilePlan(grid, 32, 8).tiles()}.items()


def test_the_digest_changes_with_anything_that_moves_a_pixel():
    plans = [
        TilePlan(grid_of(100, 120), 32, 8),
        TilePlan(grid_of(100, 121), 32, 8),
        TilePlan(grid_of(100, 120), 33, 8),
        TilePlan(grid_of(100, 120), 32, 9),
        TilePlan(grid_of(100, 120), 32, 8, shapely.box(1000, 8950, 1010, 9000)),
    ]
    assert len({p.digest for p in plans}) == len(plans)
    assert plans[0].digest == TilePlan(grid_of(100, 120), 32, 8).digest


def test_a_hundred_thousand_by_a_hundred_thousand_grid_costs_nothing_to_plan():
    plan = TilePlan(grid_of(100_000, 100_000), 512, 64)
    assert plan.count() == plan.rows * plan.cols == 224**2
    assert plan.tile(plan.count() - 1).core.row_stop == 100_000


def test_an_overlap_of_more_than_half_a_tile_is_refused():
    with pytest.raises(UsageError, match="an overlap of 0…16 px"):
        TilePlan(grid_of(10, 10), 32, 17)
    with pytest.raises(UsageError, match="an overlap"):
        TilePlan(grid_of(10, 10), 32, -1)
    with pytest.raises(IndexError):
        TilePlan(grid_of(10, 10), 32, 8).tile(1)
