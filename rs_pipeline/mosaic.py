"""Tiles become one picture: scores are blended across overlaps and turned into labels. Pure, one output block at a time.

A tile's weight is the product of a row ramp and a column ramp. Along one axis the ramp is the share of a window of
`overlap_px` pixels around the pixel that falls into the tile's core, the outermost cores reaching to infinity. Shares of
a partition sum to 1 at every pixel, so nothing fades at the outer edge of the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, SCORE_MAX
from rs_pipeline.grid import Window
from rs_pipeline.tiles import Tile, TilePlan

ReadScores = Callable[[Tile, Window], NDArray[np.uint8] | None]
"""(tile, part of its halo) to (K+1, h, w) uint8: K bands of scores 0…254 (255 not observed), then the scene's index (255
none). None where the tile holds nothing: skipped, failed, or without data."""

_SLAB_ROWS = 64


class Block(NamedTuple):
    """One block of the stitched picture."""

    scores: NDArray[np.uint8]
    """(K, h, w): 0…254 means 0…1; 255 in every band where the pixel was not observed."""
    sources: NDArray[np.uint8]
    """(h, w): index of the scene that the tile in charge of the pixel saw; 255 none."""


class _Held(NamedTuple):
    """A tile and what was read of it."""

    tile: Tile
    part: Window
    bands: NDArray[np.uint8]


def blend_block(window: Window, plan: TilePlan, read_scores: ReadScores, classes: int) -> Block:
    """The stitched scores of `window`, the same whatever windows the grid is cut into.

    A pixel is observed where the tile whose core holds it is there and saw it. Its score is the mean of the tiles that saw
    it, weighted by their ramps and rounded to the nearest integer (half to even); equal scores come out unchanged.

    Parameters
    ----------
    window: pixels to stitch, inside `plan.grid`.
    plan: the tiling.
    read_scores: reads part of a tile; asked once per tile whose halo meets the window.
    classes: number of classes, K.
    """
    scores = np.full((classes, *window.shape), NOT_OBSERVED, np.uint8)
    sources = np.full(window.shape, NOT_OBSERVED, np.uint8)
    tiles = list(plan.tiles_meeting(window))
    held = list(_read(tiles, window, read_scores))
    for cell in _cells(tiles, window):
        over = [h for h in held if h.part.contains(cell)]
        # A cell lies in one core only: the cuts are at every edge of every core.
        owner = next((h for h in over if h.tile.core.contains(cell)), None)
        if owner is None:
            continue
        rows, cols = cell.slices(window)
        own = _cut(owner, cell)
        sources[rows, cols] = own[-1]
        if len(over) == 1:
            scores[:, rows, cols] = own[:-1]
        else:
            _blend_cell(cell, plan, over, own[0] == NOT_OBSERVED, scores[:, rows, cols])
    return Block(scores, sources)


def label_block(scores: NDArray[np.uint8], thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Labels (h, w) uint8 of a block of scores (K, h, w): the class that scores highest, the first where several do.

    0 where the highest score lies below its class's threshold (0…1, one per class); 255 where the pixel was not observed.
    """
    if len(thresholds) != len(scores):
        raise ValueError(f"expected one threshold per class, got {len(thresholds)} for {len(scores)} classes")
    least = np.zeros(256, np.uint8)
    # A score is an integer, so `score < threshold * 254` is `score < ceil(threshold * 254)`.
    least[1 : len(scores) + 1] = np.ceil(np.asarray(thresholds, np.float64) * SCORE_MAX)
    labels = np.empty(scores.shape[1:], np.uint8)
    for top in range(0, len(labels), _SLAB_ROWS):
        _label_slab(scores[:, top : top + _SLAB_ROWS], least, labels[top : top + _SLAB_ROWS])
    return labels


def _label_slab(scores: NDArray[np.uint8], least: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """`label_block` for a slab that fits the processor's cache; fills `labels`."""
    # Score in the high byte, 255 - class in the low one: the greatest is the highest score, then the first class.
    best = np.zeros(labels.shape, np.uint16)
    for k, band in enumerate(scores):
        np.maximum(best, (band.astype(np.uint16) << 8) | (254 - k), out=best)
    np.subtract(255, best & 255, out=labels, casting="unsafe")
    top = (best >> 8).astype(np.uint8)
    labels[top < least[labels]] = BACKGROUND
    labels[top == NOT_OBSERVED] = NOT_OBSERVED


def _read(tiles: Iterable[Tile], window: Window, read_scores: ReadScores) -> Iterator[_Held]:
    for tile in tiles:
        part = tile.halo.intersection(window)
        bands = read_scores(tile, part) if part else None
        if part and bands is not None:
            yield _Held(tile, part, np.asarray(bands))  # each cut of a memory map would be one again, at a microsecond or two


def _cells(tiles: list[Tile], window: Window) -> Iterator[Window]:
    """Parts of `window` in each of which the same tiles take part and one core holds every pixel."""
    boxes = [box for tile in tiles for box in (tile.core, tile.halo)]
    rows = _cuts((edge for b in boxes for edge in (b.row_off, b.row_stop)), window.row_off, window.row_stop)
    cols = _cuts((edge for b in boxes for edge in (b.col_off, b.col_stop)), window.col_off, window.col_stop)
    for (top, bottom), (left, right) in itertools.product(itertools.pairwise(rows), itertools.pairwise(cols)):
        yield Window(top, left, bottom - top, right - left)


def _cuts(edges: Iterable[int], start: int, stop: int) -> list[int]:
    return sorted({start, stop, *(edge for edge in edges if start < edge < stop)})


def _blend_cell(cell: Window, plan: TilePlan, over: list[_Held], unseen: NDArray[np.bool_], out: NDArray[np.uint8]) -> None:
    """Fill `out` (K, h, w) with the weighted mean of the tiles over a cell, 255 where its owner did not see the pixel."""
    parts = [_cut(h, cell) for h in over]
    weights = [_weight(h.tile, plan, cell) * (part[0] != NOT_OBSERVED) for h, part in zip(over, parts, strict=True)]
    total = np.sum(weights, axis=0)
    # The owner's weight is positive wherever it saw the pixel; elsewhere the value is thrown away below.
    total[unseen] = 1
    weights = [weight / total for weight in weights]
    for k, band in enumerate(out):
        mean = weights[0] * parts[0][k]
        for weight, part in zip(weights[1:], parts[1:], strict=True):
            mean += weight * part[k]
        band[...] = np.rint(mean, out=mean)
        band[unseen] = NOT_OBSERVED


def _cut(held: _Held, cell: Window) -> NDArray[np.uint8]:
    """The bands of a tile at the pixels of `cell`."""
    rows, cols = cell.slices(held.part)
    return held.bands[:, rows, cols]


def _weight(tile: Tile, plan: TilePlan, cell: Window) -> NDArray[np.float32]:
    """Weight (h, w) float32 of a tile at the pixels of `cell`."""
    core = tile.core
    row = _ramp(core.row_off, core.row_stop, plan.overlap_px, plan.grid.height, np.arange(cell.row_off, cell.row_stop))
    col = _ramp(core.col_off, core.col_stop, plan.overlap_px, plan.grid.width, np.arange(cell.col_off, cell.col_stop))
    return row[:, None] * col


def _ramp(start: int, stop: int, overlap_px: int, size: int, pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Share, float32, of the `overlap_px` around each pixel's centre that falls into the core [start, stop) of one axis."""
    before = overlap_px // 2
    low = -np.inf if start == 0 else float(start)
    high = np.inf if stop == size else float(stop)
    centre = pixels + 0.5
    share: NDArray[np.float64] = np.minimum(centre + before, high) - np.maximum(centre - (overlap_px - before), low)
    return (share / overlap_px).astype(np.float32)
