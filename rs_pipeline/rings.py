"""Polygons from their corners: a set of right-angled outlines is known by its corners alone.

Sorted along a row, a piece's corners pair up into its horizontal edges; sorted along a column, into its vertical ones.
Walking the two pairings in turn gives the rings (J. O'Rourke, "Uniqueness of orthogonal connect-the-dots", 1988). So a
corner can be found wherever its 2 x 2 pixels are seen, in any order, and no seam between blocks leaves a trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from rs_pipeline.wkb import Polygons

RIGHT = np.uint8(1)
"""Bit of a corner whose horizontal edge runs to the right; else it runs to the left."""
DOWN = np.uint8(2)
"""Bit of a corner whose vertical edge runs down; else it runs up."""
BELOW = np.uint8(4)
"""Bit of a corner whose object lies below its horizontal edge; else it lies above."""
KEEP = np.uint8(8)
"""Bit of a corner that simplified outlines go through."""
STRAIGHT = np.uint8(16)
"""Bit of a point where an outline does not turn: on a vertical edge with DOWN, else on a horizontal one."""
_KEY_BITS = 63


class Corners(NamedTuple):
    """Corners of pieces, in any order; arrays of one length."""

    piece: NDArray[np.int32]
    """The 4-connected piece, 0…n-1, each with at least one ring."""
    row: NDArray[np.int32]
    """Row of the lattice of pixel corners, 0…height."""
    col: NDArray[np.int32]
    """Column of the lattice of pixel corners, 0…width."""
    bits: NDArray[np.uint8]
    """RIGHT | DOWN | BELOW | KEEP, or those of a STRAIGHT point."""

    def take(self, index: NDArray[Any]) -> Corners:
        """The corners at `index` (positions or a mask)."""
        return Corners(*(array[index] for array in self))

    @classmethod
    def concatenate(cls, parts: list[Corners]) -> Corners:
        """All corners of `parts`, at least one."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def trace_polygons(corners: Corners, transform: Affine, *, simplified: bool = False) -> Polygons:
    """Polygons of pieces 0…n-1 in the CRS units of `transform`.

    Vertices are the corners and nothing else, or, simplified, what is to KEEP of them and the STRAIGHT points. Each ring starts at its
    topmost, then leftmost horizontal edge; outer rings run counter-clockwise on a north-up grid. Where a piece touches itself at a
    pixel's corner, rings meet there and do not cross: the polygons are valid.
    """
    if not len(corners.piece):
        return Polygons(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64))
    is_straight = (corners.bits & STRAIGHT) != 0
    straight, corners = corners.take(is_straight), _sorted_along_rows(corners.take(~is_straight))
    left = np.arange(0, len(corners.piece), 2)
    leftwards = (corners.bits[left] & BELOW) != 0
    starts, ends = left + leftwards, left + ~leftwards
    following = _vertical_partner(corners)[ends] // 2
    order, firsts = _walk(following)

    vertices = corners.take(np.stack([starts[order], ends[order]], axis=1).ravel())
    ring_starts = 2 * firsts
    if simplified:
        vertices, ring_starts = _kept(*_with_straight(vertices, ring_starts, straight))
    closed, ring_offsets = _closed(vertices, ring_starts)
    ring_pieces = vertices.piece[ring_starts]
    polygon_offsets = np.searchsorted(ring_pieces, np.arange(ring_pieces[-1] + 2))
    return Polygons(_to_crs(closed, transform), ring_offsets, polygon_offsets)


def _closed(vertices: Corners, ring_starts: NDArray[np.int64]) -> tuple[Corners, NDArray[np.int64]]:
    """Rings that end where they began, and their offsets."""
    index = np.insert(np.arange(len(vertices.row)), np.append(ring_starts[1:], len(vertices.row)), ring_starts)
    return vertices.take(index), np.append(ring_starts, len(vertices.row)) + np.arange(len(ring_starts) + 1)


def _with_straight(vertices: Corners, ring_starts: NDArray[np.int64], straight: Corners) -> tuple[Corners, NDArray[np.int64]]:
    """Open rings with the points that lie on their edges put in."""
    following = np.arange(1, len(vertices.row) + 1)
    following[np.append(ring_starts[1:], len(vertices.row)) - 1] = ring_starts
    ends = vertices.take(following)
    found = [_points_on(vertices, ends, straight, upright=upright) for upright in (False, True)]
    after = np.concatenate([edges for edges, _ in found])
    place = np.argsort(after, kind="stable")
    after, points = after[place], Corners.concatenate([points for _, points in found]).take(place)
    # Everything behind the vertices; a vertex comes before the points on its edge.
    order = np.argsort(np.concatenate([np.arange(len(vertices.row)), after]), kind="stable")
    return Corners.concatenate([vertices, points]).take(order), ring_starts + np.searchsorted(after, ring_starts)


def _points_on(vertices: Corners, ends: Corners, straight: Corners, *, upright: bool) -> tuple[NDArray[np.int64], Corners]:
    """The points on the edges of one direction, in the order of the rings, and the edge, by its first vertex, that each lies on."""
    # Rings begin with a horizontal edge, and the two kinds take turns.
    edges = np.arange(int(upright), len(vertices.row), 2)
    points = straight.take(((straight.bits & DOWN) != 0) == upright)
    begin, end, on = (_turned(c) if upright else c for c in (vertices.take(edges), ends.take(edges), points))
    size = 1 + max(int(axis.max(initial=0)) for c in (begin, end, on) for axis in (c.row, c.col))

    def key(of: Corners, col: NDArray[np.int32]) -> NDArray[np.int64]:
        return (of.piece.astype(np.int64) * size + of.row) * size + col

    order = np.argsort(key(on, on.col), kind="stable")
    keys = key(on, on.col)[order]
    low = np.searchsorted(keys, key(begin, np.minimum(begin.col, end.col)), side="right")
    high = np.searchsorted(keys, key(begin, np.maximum(begin.col, end.col)), side="left")
    count = high - low
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    chosen = np.where(np.repeat(end.col > begin.col, count), np.repeat(low, count) + step, np.repeat(high, count) - 1 - step)
    return np.repeat(edges, count), points.take(order[chosen])


def _turned(corners: Corners) -> Corners:
    return corners._replace(row=corners.col, col=corners.row)


def _kept(vertices: Corners, ring_starts: NDArray[np.int64]) -> tuple[Corners, NDArray[np.int64]]:
    """Open rings without the vertices that are not to be kept."""
    keep = (vertices.bits & KEEP) != 0
    before = np.cumsum(keep) - keep
    return vertices.take(keep), before[ring_starts]


def _sorted_along_rows(corners: Corners) -> Corners:
    """The corners by piece, row and column, left ends last at one place: entries 2i and 2i+1 bound a horizontal edge."""
    corners = corners.take(_order(corners.piece, corners.row, corners.col, corners.bits & RIGHT))
    # Two corners of one piece at one place: it touches itself there. It is the gaps that are cut off, not the piece:
    # the two swap their vertical edges, so that the ring around each gap turns back.
    twin = np.flatnonzero((np.diff(corners.piece) == 0) & (np.diff(corners.row) == 0) & (np.diff(corners.col) == 0))
    corners.bits[twin] ^= DOWN
    corners.bits[twin + 1] ^= DOWN
    return corners


def _vertical_partner(corners: Corners) -> NDArray[np.int64]:
    """For each corner the index of the other end of its vertical edge."""
    order = _order(corners.piece, corners.col, corners.row, corners.bits & DOWN)
    partner = np.empty(len(order), np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _order(piece: NDArray[np.int32], major: NDArray[np.int32], minor: NDArray[np.int32], last: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What sorts corners by all four, those that are equal as they came."""
    low_major, low_minor = major.min(), minor.min()
    majors, minors = int(major.max() - low_major) + 1, int(minor.max() - low_minor) + 1
    key = ((piece.astype(np.int64) * majors + (major - low_major)) * minors + (minor - low_minor)) * 4 + last
    bits = len(key).bit_length()
    if int(key.max()) >> (_KEY_BITS - bits):
        return np.argsort(key, kind="stable")
    # Sorting numbers that hold their own place takes a quarter of the time of sorting places by their numbers.
    placed: NDArray[np.int64] = (key << bits) | np.arange(len(key))
    placed.sort()
    return placed & ((1 << bits) - 1)


def _walk(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges in the order of their rings, and where in that order each ring starts: with its first edge.

    `following` is a permutation whose cycles are the rings; rings come in the order of their first edges.
    """
    n = len(following)
    rings, ring = connected_components(_graph(following), directed=True, connection="weak")
    firsts = np.empty(rings, np.int64)
    firsts[ring[::-1]] = np.arange(n - 1, -1, -1)  # the last one written, the lowest index, stays
    firsts.sort()
    # Each ring is cut before its first edge and tied to the next ring: one path through all, walked in compiled code.
    preceding = np.empty(n, np.int64)
    preceding[following] = np.arange(n)
    path = following.copy()
    path[preceding[firsts]] = np.append(firsts[1:], firsts[0])
    order = breadth_first_order(_graph(path), firsts[0], directed=True, return_predecessors=False)
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    return order, position[firsts]


def _graph(following: NDArray[np.int64]) -> csr_array:
    n = len(following)
    return csr_array((np.ones(n, np.int8), following, np.arange(n + 1)), shape=(n, n))


def _to_crs(vertices: Corners, transform: Affine) -> NDArray[np.float64]:
    """Coordinates (n, 2) of lattice points."""
    t = transform
    col, row = vertices.col.astype(np.float64), vertices.row.astype(np.float64)
    return np.stack([t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f], axis=1)
