"""The objects of one block: connected pixels of one label, found on runs of equal pixels, all labels at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rs_pipeline.rings import BELOW, DOWN, RIGHT, Corners

NOWHERE = -1
"""Object number of a pixel that belongs to none."""


class Runs(NamedTuple):
    """Runs of pixels equal in label and source along the rows of a block, in row-major order; arrays of one length."""

    start: NDArray[np.int64]
    """Flat index of the first pixel."""
    length: NDArray[np.int64]
    """Pixels."""
    label: NDArray[np.uint8]
    """Label of every pixel; 0 belongs to no object."""
    obj: NDArray[np.int32]
    """Object, 0…n-1, numbered by first pixel; NOWHERE for label 0."""
    of_pixel: NDArray[np.int32]
    """Not per run: the run of every pixel, flat."""


def find_runs(labels: NDArray[np.uint8], sources: NDArray[np.uint8]) -> tuple[Runs, int]:
    """The runs of a block of labels and sources (h, w), and how many 4-connected objects they make.

    A run also ends after the first column, which belongs to the neighbour on the left.
    """
    height, width = labels.shape
    begins = np.empty(labels.shape, bool)
    begins[:, :2] = True
    begins[:, 2:] = (labels[:, 2:] != labels[:, 1:-1]) | (sources[:, 2:] != sources[:, 1:-1])
    start = np.flatnonzero(begins)
    of_pixel = np.cumsum(begins, dtype=np.int32)
    of_pixel -= 1
    label = labels.ravel()[start]
    one, other = _links(labels, start, label, of_pixel)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(start), len(start)))
    _, component = connected_components(graph, directed=False)
    obj, objects = _numbered(component, label)
    length = np.diff(start, append=height * width)
    return Runs(start, length, label, obj, of_pixel), objects


def _links(
    labels: NDArray[np.uint8], start: NDArray[np.int64], label: NDArray[np.uint8], of_pixel: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pairs of runs that touch along a pixel's side and hold the same label.

    Two runs one above the other share the column where the later of the two begins, so looking up and down from every
    run's first pixel finds every pair.
    """
    height, width = labels.shape
    flat = labels.ravel()
    run = np.flatnonzero(label)
    first = start[run]
    ones, others = [], []
    for offset, inside in ((-1, first % width > 0), (-width, first >= width), (width, first < (height - 1) * width)):
        here, there = run[inside], first[inside] + offset
        same = flat[there] == label[here]
        ones.append(here[same].astype(np.int32))
        others.append(of_pixel[there[same]])
    return np.concatenate(ones), np.concatenate(others)


def _numbered(component: NDArray[np.int32], label: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Components of object runs numbered 0…n-1 by their first run; NOWHERE for the rest."""
    runs = np.flatnonzero(label)
    first = np.empty(len(component), np.int64)
    first[component[runs[::-1]]] = runs[::-1]  # the last one written, the lowest run, stays
    leads = np.zeros(len(component), bool)
    leads[first[component[runs]]] = True
    number = np.cumsum(leads, dtype=np.int32) - 1
    obj = np.full(len(component), NOWHERE, np.int32)
    obj[runs] = number[first[component[runs]]]
    return obj, int(leads.sum())


def find_corners(labels: NDArray[np.uint8], runs: Runs) -> Corners:
    """The corners of every object at the inner lattice points of a block (h, w): point (i, j) lies under pixel (i, j).

    Rows and columns count from the block's first inner point. Where an object touches itself at a point only, it gives
    two corners there, as two objects would: whether it is one is not always known yet.
    """
    width = labels.shape[1]
    beside = labels[:, 1:] != labels[:, :-1]
    above = labels[1:] != labels[:-1]
    turns = (beside[:-1] | beside[1:]) & (above[:, :-1] | above[:, 1:])
    row, col = (axis.astype(np.int32) for axis in np.divmod(np.flatnonzero(turns), width - 1))
    pixel = row.astype(np.int64) * width + col
    a, b, c, d = (runs.obj[runs.of_pixel[pixel + offset]] for offset in (0, 1, width, width + 1))
    parts = []
    # For each of the four pixels: the one beside it, the one above or below it, the one across.
    for own, side, upright, across, bits in ((a, b, c, d, 0), (b, a, d, c, RIGHT), (c, d, a, b, DOWN), (d, c, b, a, RIGHT | DOWN)):
        down = bool(bits & DOWN)
        convex = np.flatnonzero((own != NOWHERE) & (own != side) & (own != upright))
        hollow = np.flatnonzero((side != NOWHERE) & (side == upright) & (side == across) & (side != own))
        for which, obj, below in ((convex, own, down), (hollow, side, not down)):
            code = np.full(len(which), bits | (BELOW if below else 0), np.uint8)
            parts.append(Corners(obj[which], row[which], col[which], code))
    return Corners.concatenate(parts)


class Fragments(NamedTuple):
    """What is known of objects, or of parts of them, from one source each; arrays of one length."""

    obj: NDArray[np.int32]
    """Object."""
    source: NDArray[np.uint8]
    """Index of the scene; 255 none."""
    label: NDArray[np.uint8]
    """Label of every pixel."""
    pixels: NDArray[np.int64]
    """Count."""
    score_sum: NDArray[np.int64]
    """Sum of the uint8 scores that the pixels have for their own class."""
    first: NDArray[np.int64]
    """Row-major index of the first pixel in the whole grid."""

    def take(self, index: NDArray[Any]) -> Fragments:
        """The entries at `index` (positions or a mask)."""
        return Fragments(*(array[index] for array in self))

    def merged(self) -> Fragments:
        """One entry per object and source, in that order."""
        key = self.obj.astype(np.int64) * 256 + self.source
        rows = self.take(np.argsort(key))
        heads = np.flatnonzero((np.diff(rows.obj, prepend=NOWHERE) != 0) | (np.diff(rows.source, prepend=rows.source[:1]) != 0))
        return Fragments(
            rows.obj[heads],
            rows.source[heads],
            rows.label[heads],
            np.add.reduceat(rows.pixels, heads),
            np.add.reduceat(rows.score_sum, heads),
            np.minimum.reduceat(rows.first, heads),
        )

    @classmethod
    def concatenate(cls, parts: list[Fragments]) -> Fragments:
        """All entries of `parts`, at least one."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
