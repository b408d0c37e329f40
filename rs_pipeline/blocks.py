"""A label raster, block by block: each block is taken apart into pieces, sums and corners without knowing of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.components import NOWHERE, Fragments, Runs, find_runs
from rs_pipeline.grid import Grid, Window
from rs_pipeline.lattice import Points, corners_at, find_points, is_node, straight_at, touches_at
from rs_pipeline.rings import KEEP, Corners
from rs_pipeline.simplify import kept_corners


class Planes(NamedTuple):
    """Pixels of a block, all (h, w) uint8."""

    labels: NDArray[np.uint8]
    """0 belongs to no object; 255 neither, and was not observed."""
    scores: NDArray[np.uint8]
    """Score of each pixel for its own class."""
    sources: NDArray[np.uint8]


class Rules(NamedTuple):
    """What makes an object, and how much of its outline is kept."""

    connectivity: int
    """4: pixels that share a side belong together; 8: a corner will do."""
    tolerance_px: float
    """Of the simplification of outlines, `simplify.kept_corners`; 0: none."""


class Parts(NamedTuple):
    """What a block says of its pieces, numbered from 0; those of the pixels above and left of it are among them."""

    window: Window
    pieces: int
    fragments: Fragments
    corners: Corners
    """In rows and columns of the grid's lattice."""
    touches: NDArray[np.int32]
    """(2, n) pairs of pieces that make one object, though they share no side."""
    frame: NDArray[np.int32]
    """(width + 1 + height,) pieces of the pixels above, from the one above left, and then of those on the left; NOWHERE for none."""
    bottom: NDArray[np.int32]
    """(width,) pieces of the last row."""
    right: NDArray[np.int32]
    """(height,) pieces of the last column."""


def framed_blocks(grid: Grid, read: Callable[[Window], Planes], block_px: int) -> Iterator[tuple[Window, Planes]]:
    """The blocks of a grid, row by row, each with the pixels above and left of it, and at the grid's end with a row or column more.

    What lies outside the grid counts as not observed.
    """
    above = np.full(grid.width + 1, NOT_OBSERVED, np.uint8)  # from the pixel left of the grid
    for row in range(0, grid.height, block_px):
        height = min(block_px, grid.height - row)
        below = np.full_like(above, NOT_OBSERVED)
        left = np.full(height, NOT_OBSERVED, np.uint8)
        for col in range(0, grid.width, block_px):
            window = Window(row, col, height, min(block_px, grid.width - col))
            planes = read(window)
            yield window, _framed(grid, window, planes, above[col : window.col_stop + 1], left)
            below[col + 1 : window.col_stop + 1] = planes.labels[-1]
            left = planes.labels[:, -1].copy()
        above = below


def _framed(grid: Grid, window: Window, planes: Planes, above: NDArray[np.uint8], left: NDArray[np.uint8]) -> Planes:
    height, width = window.shape
    shape = (height + 1 + (window.row_stop == grid.height), width + 1 + (window.col_stop == grid.width))
    framed = Planes(np.full(shape, NOT_OBSERVED, np.uint8), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
    for target, plane in zip(framed, planes, strict=True):
        target[1 : height + 1, 1 : width + 1] = plane
    framed.labels[0, : width + 1] = above
    framed.labels[1 : height + 1, 0] = left
    return framed


def take_apart(grid: Grid, window: Window, framed: Planes, rules: Rules) -> Parts:
    """The pieces of a framed block."""
    height, width = window.shape
    labels = np.where(framed.labels == NOT_OBSERVED, np.uint8(0), framed.labels)
    runs, pieces = find_runs(labels, framed.sources)
    points = find_points(labels, runs, seams=rules.tolerance_px > 0)
    corners = corners_at(points)
    if rules.tolerance_px > 0:
        corners = _simplified(corners, points, labels[1 : height + 1, 1 : width + 1], rules.tolerance_px)
    stride = labels.shape[1]
    lefts = np.arange(1, height + 1) * stride
    frame = runs.at(np.concatenate([np.arange(width + 1), lefts]))
    bottom, right = runs.at(height * stride + np.arange(1, width + 1)), runs.at(lefts + width)
    touches = touches_at(points) if rules.connectivity == 8 else np.empty((2, 0), np.int32)
    placed = corners._replace(row=corners.row + np.int32(window.row_off), col=corners.col + np.int32(window.col_off))
    return Parts(window, pieces, _fragments(grid, window, runs, framed, pieces), placed, touches, frame, bottom, right)


def _simplified(corners: Corners, points: Points, labels: NDArray[np.uint8], tolerance_px: float) -> Corners:
    """Corners that know which of them stay, and with them the points that outlines go straight through and stay at, too."""
    kept = kept_corners(labels, tolerance_px)
    nodes = is_node(points)
    kept[points.row[nodes], points.col[nodes]] = True
    corners.bits[kept[corners.row, corners.col]] |= KEEP
    on_seam = (points.row == 0) | (points.col == 0)
    return Corners.concatenate([corners, straight_at(points.take(nodes | on_seam))])


def _fragments(grid: Grid, window: Window, runs: Runs, framed: Planes, pieces: int) -> Fragments:
    """Sums of the block's own pixels, and of the sides that nobody else counts."""
    row, col = np.divmod(runs.start, framed.labels.shape[1])
    chosen = np.flatnonzero(runs.piece != NOWHERE)
    row, col, piece = row[chosen], col[chosen], runs.piece[chosen]
    is_own = (row > 0) & (col > 0)
    scores = np.add.reduceat(framed.scores.ravel(), runs.start, dtype=np.int64)[chosen]
    first = (row - 1 + window.row_off) * grid.width + col - 1 + window.col_off
    first[~is_own] = np.iinfo(np.int64).max
    source = framed.sources.ravel()[runs.start[chosen]]
    nothing = np.zeros(len(chosen), np.int64)
    entries = Fragments(piece, source, runs.label[chosen], runs.length[chosen] * is_own, scores, first, nothing, nothing).merged()
    heads = np.flatnonzero(np.diff(entries.piece, prepend=NOWHERE))
    sides, unseen_sides = _sides(framed.labels, runs, pieces)
    entries.sides[heads], entries.unseen_sides[heads] = sides, unseen_sides
    return entries


def _sides(labels: NDArray[np.uint8], runs: Runs, pieces: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sides of pixels along each piece's outline, and those of them beside a pixel that was not observed.

    A side between two pixels of the frame is another block's to count.
    """
    stride = labels.shape[1]
    beside, above = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    beside[0] = False
    above[:, 0] = False
    row, col = np.divmod(np.flatnonzero(beside), stride - 1)
    upright = row * stride + col
    level = np.flatnonzero(above)
    one, other = np.concatenate([upright, level]), np.concatenate([upright + 1, level + stride])
    flat = labels.ravel()
    mine = np.concatenate([runs.at(one), runs.at(other)])
    unseen = np.concatenate([flat[other], flat[one]]) == NOT_OBSERVED
    is_piece = mine != NOWHERE
    mine, unseen = mine[is_piece], unseen[is_piece]
    return np.bincount(mine, minlength=pieces), np.bincount(mine[unseen], minlength=pieces)
