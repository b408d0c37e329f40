"""The pieces of one block: connected pixels of one label, found on runs of equal pixels, all labels at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NOWHERE = -1
"""Piece of a pixel that belongs to none."""


class Runs(NamedTuple):
    """Runs of pixels equal in label and source along the rows of a block, in row-major order; arrays of one length."""

    start: NDArray[np.int64]
    """Flat index of the first pixel."""
    length: NDArray[np.int64]
    """Pixels."""
    label: NDArray[np.uint8]
    """Label of every pixel; 0 belongs to no object."""
    piece: NDArray[np.int32]
    """Piece, 0…n-1, numbered by first pixel; NOWHERE for label 0."""
    of_pixel: NDArray[np.int32]
    """Not per run: the run of every pixel, flat."""

    def at(self, pixels: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pieces of pixels, given by flat index."""
        return self.piece[self.of_pixel[pixels]]


def find_runs(labels: NDArray[np.uint8], sources: NDArray[np.uint8]) -> tuple[Runs, int]:
    """The runs of a block of labels and sources (h, w), and how many 4-connected pieces they make.

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
    component = groups_of(_links(labels, start, label, of_pixel), len(start))
    piece, pieces = _numbered(component, label)
    length = np.diff(start, append=height * width)
    return Runs(start, length, label, piece, of_pixel), pieces


def groups_of(pairs: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Group number, from 0, of each of `count` things, of which pairs (2, n) are known to belong together."""
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    found: NDArray[np.int32] = group
    return found


def _links(labels: NDArray[np.uint8], start: NDArray[np.int64], label: NDArray[np.uint8], of_pixel: NDArray[np.int32]) -> NDArray[np.int32]:
    """(2, n) pairs of runs that touch along a pixel's side and hold the same label.

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
    return np.stack([np.concatenate(ones), np.concatenate(others)])


def _numbered(component: NDArray[np.int32], label: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Components of object runs numbered 0…n-1 by their first run; NOWHERE for the rest."""
    runs = np.flatnonzero(label)
    first = np.empty(len(component), np.int64)
    first[component[runs[::-1]]] = runs[::-1]  # the last one written, the lowest run, stays
    leads = np.zeros(len(component), bool)
    leads[first[component[runs]]] = True
    number = np.cumsum(leads, dtype=np.int32) - 1
    piece = np.full(len(component), NOWHERE, np.int32)
    piece[runs] = number[first[component[runs]]]
    return piece, int(leads.sum())


class Fragments(NamedTuple):
    """What is known of pieces, or of parts of them, from one source each; arrays of one length."""

    piece: NDArray[np.int32]
    """Piece."""
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
    sides: NDArray[np.int64]
    """Sides of pixels along the outline."""
    unseen_sides: NDArray[np.int64]
    """Those of them beside a pixel that was not observed."""

    def take(self, index: NDArray[Any]) -> Fragments:
        """The entries at `index` (positions or a mask)."""
        return Fragments(*(array[index] for array in self))

    def merged(self) -> Fragments:
        """One entry per piece and source, in that order."""
        key = self.piece.astype(np.int64) * 256 + self.source
        rows = self.take(np.argsort(key))
        heads = np.flatnonzero((np.diff(rows.piece, prepend=NOWHERE) != 0) | (np.diff(rows.source, prepend=rows.source[:1]) != 0))
        return Fragments(
            rows.piece[heads],
            rows.source[heads],
            rows.label[heads],
            np.add.reduceat(rows.pixels, heads),
            np.add.reduceat(rows.score_sum, heads),
            np.minimum.reduceat(rows.first, heads),
            np.add.reduceat(rows.sides, heads),
            np.add.reduceat(rows.unseen_sides, heads),
        )

    @classmethod
    def concatenate(cls, parts: list[Fragments]) -> Fragments:
        """All entries of `parts`, at least one."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
