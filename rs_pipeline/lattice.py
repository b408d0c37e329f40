"""The lattice of pixel corners of a block: where outlines turn, where they meet, where pieces touch at a point only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.components import NOWHERE, Runs
from rs_pipeline.rings import BELOW, DOWN, KEEP, RIGHT, STRAIGHT, Corners


class Points(NamedTuple):
    """Inner lattice points of a block (h, w) where an outline turns or more than two regions meet; arrays of one length.

    Point (i, j) is the corner that pixels (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1) share; they are called a, b, c, d.
    """

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    pieces: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    """Pieces of a, b, c, d."""
    labels: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
    """Labels of a, b, c, d."""

    def take(self, index: NDArray[Any]) -> Points:
        """The points at `index` (positions or a mask)."""
        (a, b, c, d), (la, lb, lc, ld) = (tuple(array[index] for array in four) for four in (self.pieces, self.labels))
        return Points(self.row[index], self.col[index], (a, b, c, d), (la, lb, lc, ld))


def find_points(labels: NDArray[np.uint8], runs: Runs, *, seams: bool = False) -> Points:
    """The points of a block of labels (h, w).

    Parameters
    ----------
    seams: also the points where an outline crosses the first row or the first column of inner points.
    """
    width = labels.shape[1]
    beside = labels[:, 1:] != labels[:, :-1]
    above = labels[1:] != labels[:-1]
    turns = (beside[:-1] | beside[1:]) & (above[:, :-1] | above[:, 1:])
    if seams:
        turns[0] |= beside[0] | beside[1]
        turns[:, 0] |= above[:, 0] | above[:, 1]
    row, col = (axis.astype(np.int32) for axis in np.divmod(np.flatnonzero(turns), width - 1))
    pixel = row.astype(np.int64) * width + col
    run = [runs.of_pixel[pixel + offset] for offset in (0, 1, width, width + 1)]
    a, b, c, d = (runs.piece[r] for r in run)
    la, lb, lc, ld = (runs.label[r] for r in run)
    return Points(row, col, (a, b, c, d), (la, lb, lc, ld))


def corners_at(points: Points) -> Corners:
    """The corners of every piece.

    Where a piece touches itself at a point only, it gives two corners there, as two pieces would: whether it is one is
    not always known yet.
    """
    a, b, c, d = points.pieces
    parts = []
    # For each of the four pixels: the one beside it, the one above or below it, the one across.
    for own, side, upright, across, bits in ((a, b, c, d, 0), (b, a, d, c, RIGHT), (c, d, a, b, DOWN), (d, c, b, a, RIGHT | DOWN)):
        down = bool(bits & DOWN)
        convex = np.flatnonzero((own != NOWHERE) & (own != side) & (own != upright))
        hollow = np.flatnonzero((side != NOWHERE) & (side == upright) & (side == across) & (side != own))
        for which, piece, below in ((convex, own, down), (hollow, side, not down)):
            code = np.full(len(which), bits | (BELOW if below else 0), np.uint8)
            parts.append(Corners(piece[which], points.row[which], points.col[which], code))
    return Corners.concatenate(parts)


def is_node(points: Points) -> NDArray[np.bool_]:
    """Where more than two edges meet: a simplified outline must still go through there, for all who share it."""
    a, b, c, d = points.labels
    edges = (a != b).astype(np.int8) + (c != d) + (a != c) + (b != d)
    meet: NDArray[np.bool_] = edges > 2
    return meet


def straight_at(points: Points) -> Corners:
    """The pieces that go straight along or across a point, which simplified outlines keep."""
    a, b, c, d = points.pieces
    parts = []
    # Two pixels of one piece side by side, and the two across; then the direction of the edge between them.
    for one, two, three, four, upright in ((a, b, c, d, 0), (c, d, a, b, 0), (a, c, b, d, DOWN), (b, d, a, c, DOWN)):
        which = np.flatnonzero((one != NOWHERE) & (one == two) & (one != three) & (one != four))
        parts.append(Corners(one[which], points.row[which], points.col[which], np.full(len(which), STRAIGHT | KEEP | upright, np.uint8)))
    return Corners.concatenate(parts)


def touches_at(points: Points) -> NDArray[np.int32]:
    """(2, n) pairs of pieces of one label that share a point and no side there."""
    (a, b, c, d), (la, lb, lc, ld) = points.pieces, points.labels
    one = (la == ld) & (a != NOWHERE) & (a != d)
    other = (lb == lc) & (b != NOWHERE) & (b != c)
    return np.stack([np.concatenate([a[one], b[other]]), np.concatenate([d[one], c[other]])])
