import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from rs_pipeline.grid import Grid, Window
from rs_pipeline.mosaic import Block, _weight, blend_block, label_block
from rs_pipeline.tiles import Tile, TilePlan

CLASSES = 2
LAWS = settings(max_examples=50, deadline=None)


def plan_of(height: int, width: int, tile_px: int, overlap_px: int) -> TilePlan:
    return TilePlan(Grid(CRS.from_epsg(32633), Affine(1, 0, 0, 0, -1, 0), height, width), tile_px, overlap_px)


def lattice(plan: TilePlan) -> list[Tile]:
    return [plan.tile(index) for index in range(plan.rows * plan.cols)]


def stitch(plan: TilePlan, tiles: dict[int, np.ndarray], block_px: int) -> Block:
    """The whole grid, block by block, from what each tile holds of its halo."""
    scores = np.zeros((CLASSES, *plan.grid.shape), np.uint8)
    sources = np.zeros(plan.grid.shape, np.uint8)

    def read(tile: Tile, part: Window) -> np.ndarray | None:
        assert tile.halo.contains(part)
        bands = tiles.get(tile.index)
        rows, cols = part.slices(tile.halo)
        return None if bands is None else bands[:, rows, cols]

    for row in range(0, plan.grid.height, block_px):
        for col in range(0, plan.grid.width, block_px):
            window = Window(row, col, min(block_px, plan.grid.height - row), min(block_px, plan.grid.width - col))
            block = blend_block(window, plan, read, CLASSES)
            rows, cols = window.slices()
            scores[:, rows, cols], sources[rows, cols] = block
    return Block(scores, sources)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    tile_px = draw(st.integers(1, 14))
    overlap_px = draw(st.integers(0, tile_px // 2))
    return plan_of(draw(st.integers(1, 32)), draw(st.integers(1, 32)), tile_px, overlap_px)


def seen_by_pointwise_model(plan: TilePlan, seed: int) -> np.ndarray:
    """(K+1, H, W) what a model that looks at one pixel at a time says, with pixels that no tile sees."""
    rng = np.random.default_rng(seed)
    bands = rng.integers(0, 255, (CLASSES + 1, *plan.grid.shape)).astype(np.uint8)
    bands[:, rng.random(plan.grid.shape) < 0.1] = 255
    return bands


def cut(plan: TilePlan, bands: np.ndarray) -> dict[int, np.ndarray]:
    return {tile.index: bands[:, *tile.halo.slices()] for tile in lattice(plan)}


@given(plans())
@LAWS
def test_law_2_weights_sum_to_one_at_every_pixel_the_outer_edge_included(plan: TilePlan) -> None:
    total = np.zeros(plan.grid.shape)
    for tile in lattice(plan):
        weight = _weight(tile, plan, tile.halo) if plan.overlap_px else np.ones(tile.halo.shape)
        assert (weight > 0).all()
        total[tile.halo.slices()] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(plans(), st.integers(1, 40), st.integers(0, 2**32 - 1))
@LAWS
def test_law_3_a_pointwise_model_stitches_to_what_it_says_of_the_whole_grid(plan: TilePlan, block_px: int, seed: int) -> None:
    untiled = seen_by_pointwise_model(plan, seed)
    block = stitch(plan, cut(plan, untiled), block_px)
    np.testing.assert_array_equal(block.scores, untiled[:-1])
    np.testing.assert_array_equal(block.sources, untiled[-1])


@given(plans(), st.integers(1, 40), st.integers(0, 2**32 - 1))
@LAWS
def test_law_5_missing_tiles_leave_exactly_their_cores_unobserved(plan: TilePlan, block_px: int, seed: int) -> None:
    untiled = seen_by_pointwise_model(plan, seed)
    tiles = cut(plan, untiled)
    for tile in lattice(plan):
        if np.random.default_rng(seed + tile.index).random() < 0.4:
            del tiles[tile.index]
            untiled[:, *tile.core.slices()] = 255
    block = stitch(plan, tiles, block_px)
    np.testing.assert_array_equal(block.scores, untiled[:-1])
    np.testing.assert_array_equal(block.sources, untiled[-1])


def disagreeing_tiles(plan: TilePlan, seed: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    tiles = {}
    for tile in lattice(plan):
        bands = rng.integers(0, 255, (CLASSES + 1, *tile.halo.shape)).astype(np.uint8)
        bands[:, rng.random(tile.halo.shape) < 0.1] = 255
        if rng.random() < 0.8:
            tiles[tile.index] = bands
    return tiles


@given(plans(), st.integers(1, 40), st.integers(0, 2**32 - 1))
@LAWS
def test_blocks_do_not_change_a_byte(plan: TilePlan, block_px: int, seed: int) -> None:
    tiles = disagreeing_tiles(plan, seed)
    whole, cut_up = stitch(plan, tiles, 1000), stitch(plan, tiles, block_px)
    assert whole.scores.tobytes() == cut_up.scores.tobytes()
    assert whole.sources.tobytes() == cut_up.sources.tobytes()


def hat(pixel: int, core: tuple[int, int], size: int, overlap_px: int) -> float:
    """Weight along one axis, written as the ramps across the two overlap zones of a core."""
    start, stop = core
    before = overlap_px // 2
    rise = 1.0 if start == 0 else (pixel + 0.5 - (start - before)) / overlap_px
    fall = 1.0 if stop == size else 1 - (pixel + 0.5 - (stop - before)) / overlap_px
    return min(1.0, rise) if rise < 1 else min(1.0, fall)


@given(plans(), st.integers(0, 2**32 - 1))
@LAWS
def test_scores_are_the_weighted_mean_of_the_tiles_that_saw_the_pixel(plan: TilePlan, seed: int) -> None:
    tiles = disagreeing_tiles(plan, seed)
    height, width = plan.grid.shape
    total, weights, seen = np.zeros((CLASSES, height, width)), np.zeros((height, width)), np.zeros((height, width), bool)
    for index, bands in tiles.items():
        tile = plan.tile(index)
        core, halo = tile.core, tile.halo
        rows, cols = range(halo.row_off, halo.row_stop), range(halo.col_off, halo.col_stop)
        row = [hat(r, (core.row_off, core.row_stop), height, plan.overlap_px) if plan.overlap_px else 1.0 for r in rows]
        col = [hat(c, (core.col_off, core.col_stop), width, plan.overlap_px) if plan.overlap_px else 1.0 for c in cols]
        weight = np.outer(row, col) * (bands[0] != 255)
        weights[halo.slices()] += weight
        total[:, *halo.slices()] += weight * bands[:-1]
        seen[core.slices()] = bands[0][core.slices(halo)] != 255
    scores = stitch(plan, tiles, 1000).scores
    np.testing.assert_array_equal(scores[0] != 255, seen)
    assert np.abs(scores[:, seen] - total[:, seen] / weights[seen]).max(initial=0) < 0.501


def test_without_overlap_tiles_are_cut_hard() -> None:
    plan = plan_of(4, 4, 2, 0)
    tiles = {i: np.full((CLASSES + 1, 2, 2), 50 * i, np.uint8) for i in range(4)}
    scores = stitch(plan, tiles, 3).scores
    np.testing.assert_array_equal(scores[0], np.kron([[0, 50], [100, 150]], np.ones((2, 2))))


def test_a_seam_is_a_straight_ramp() -> None:
    plan = plan_of(1, 12, 8, 4)
    tiles = {i: np.full((CLASSES + 1, *plan.tile(i).halo.shape), 80 * i, np.uint8) for i in range(3)}
    np.testing.assert_array_equal(stitch(plan, tiles, 5).scores[0, 0], [0, 0, 10, 30, 50, 70, 90, 110, 130, 150, 160, 160])


def test_the_source_is_that_of_the_tile_in_charge() -> None:
    plan = plan_of(1, 12, 8, 4)
    tiles = {i: np.full((CLASSES + 1, *plan.tile(i).halo.shape), i, np.uint8) for i in range(3)}
    np.testing.assert_array_equal(stitch(plan, tiles, 5).sources[0], np.repeat([0, 1, 2], 4))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.lists(st.floats(0, 1), min_size=5, max_size=5))
@LAWS
def test_labels_are_the_first_best_class_above_its_threshold(seed: int, classes: int, thresholds: list[float]) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 128, (classes, 70, 5)) * 2).astype(np.uint8)
    scores[:, rng.random((70, 5)) < 0.1] = 255
    thresholds = thresholds[:classes]
    best = scores.argmax(axis=0)
    above = scores.max(axis=0) >= np.array(thresholds)[best] * 254
    expected = np.where(scores[0] == 255, 255, np.where(above, best + 1, 0))
    labels = label_block(scores, thresholds)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_a_score_at_its_threshold_is_enough_and_the_first_of_equals_wins() -> None:
    scores = np.array([[[127, 126, 254, 0, 255]], [[127, 0, 254, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(label_block(scores, [0.5, 0.0]), [[1, 0, 1, 0, 255]])
    np.testing.assert_array_equal(label_block(scores, [0.0, 0.0]), [[1, 1, 1, 1, 255]])


def test_the_most_classes_there_can_be_keep_their_labels() -> None:
    scores = np.zeros((254, 1, 254), np.uint8)
    scores[np.arange(254), 0, np.arange(254)] = 1
    np.testing.assert_array_equal(label_block(scores, [0.0] * 254)[0], np.arange(1, 255))


def test_thresholds_must_match_the_classes() -> None:
    with pytest.raises(ValueError, match="one threshold per class, got 1 for 2"):
        label_block(np.zeros((2, 1, 1), np.uint8), [0.5])
