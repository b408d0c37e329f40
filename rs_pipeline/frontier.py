"""What a sweep over blocks carries along: the pixels on the frontier and the objects that reach it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rs_pipeline.components import NOWHERE, Fragments, Runs, find_corners, find_runs
from rs_pipeline.grid import Grid, Window
from rs_pipeline.rings import Corners


class Planes(NamedTuple):
    """Pixels of a block, all (h, w) uint8."""

    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]
    """Score of each pixel for its own class."""
    sources: NDArray[np.uint8]


class Frontier:
    """Everything that outlives a block. Objects that may go on have slots, numbered from 0 in each band of blocks."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.band_height = 0
        # Column 0 of these rows is the pixel left of the grid, which is no object.
        self._labels_above = np.zeros(grid.width + 1, np.uint8)
        self._slots_above = np.full(grid.width + 1, NOWHERE, np.int32)
        self._fragments: list[Fragments] = []
        self._corners: list[Corners] = []
        self._slots = 0

    def begin_band(self, height: int) -> None:
        """Go to the next row of blocks, `height` pixels high."""
        self.band_height = height
        self._labels_below = np.zeros_like(self._labels_above)
        self._slots_below = np.full_like(self._slots_above, NOWHERE)
        self._labels_left = np.zeros(height, np.uint8)
        self._slots_left = np.full(height, NOWHERE, np.int32)
        self._joins: list[NDArray[np.int32]] = []

    def add(self, window: Window, planes: Planes) -> tuple[Fragments, Corners]:
        """Take in the next block of the band; gives the objects that end inside it, numbered from 0."""
        framed = self._framed(window, planes)
        runs, objects = find_runs(framed.labels, framed.sources)
        fragments = self._fragments_of(window, runs, framed)
        corners = find_corners(framed.labels, runs)
        corners = corners._replace(row=corners.row + np.int32(window.row_off), col=corners.col + np.int32(window.col_off))
        slot = self._assign_slots(window, runs, objects, framed.labels.shape[1])
        self._keep_edges(window, runs, framed.labels, slot)

        is_open = slot != NOWHERE
        number = np.cumsum(~is_open, dtype=np.int32) - np.int32(1)
        open_fragments, open_corners = fragments.take(is_open[fragments.obj]), corners.take(is_open[corners.obj])
        self._fragments.append(open_fragments._replace(obj=slot[open_fragments.obj]))
        self._corners.append(open_corners._replace(obj=slot[open_corners.obj]))
        closed, outlines = fragments.take(~is_open[fragments.obj]), corners.take(~is_open[corners.obj])
        return closed._replace(obj=number[closed.obj]), outlines._replace(obj=number[outlines.obj])

    def end_band(self) -> tuple[Fragments, Corners]:
        """Join what met in this band; gives the objects that do not reach its last row, numbered from 0."""
        one, other = np.concatenate(self._joins, axis=1)
        graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(self._slots, self._slots))
        groups, group = connected_components(graph, directed=False)
        goes_on = np.zeros(groups, bool)
        reaches = self._slots_below != NOWHERE
        group_below = group[self._slots_below[reaches]]
        goes_on[group_below] = True
        # Both kinds are numbered from 0: those that go on get the slots of the next band.
        number = np.where(goes_on, np.cumsum(goes_on), np.cumsum(~goes_on)).astype(np.int32) - np.int32(1)

        fragments, corners = Fragments.concatenate(self._fragments), Corners.concatenate(self._corners)
        fragments = fragments._replace(obj=group[fragments.obj])
        corners = corners._replace(obj=group[corners.obj])
        parts = []
        for chosen in (goes_on, ~goes_on):
            f, c = fragments.take(chosen[fragments.obj]), corners.take(chosen[corners.obj])
            parts.append((f._replace(obj=number[f.obj]).merged(), c._replace(obj=number[c.obj])))
        (held, held_corners), whole = parts
        self._fragments, self._corners, self._slots = [held], [held_corners], int(goes_on.sum())
        self._labels_above = self._labels_below
        self._slots_above = self._slots_below
        self._slots_above[reaches] = number[group_below]
        return whole

    def _framed(self, window: Window, planes: Planes) -> Planes:
        """The block with the pixels above and left of it, and, at the grid's end, with a row or column of no object."""
        height, width = window.shape
        at_bottom, at_right = window.row_stop == self._grid.height, window.col_stop == self._grid.width
        shape = (height + 1 + at_bottom, width + 1 + at_right)
        framed = Planes(*(np.zeros(shape, np.uint8) for _ in planes))
        for target, plane in zip(framed, planes, strict=True):
            target[1 : height + 1, 1 : width + 1] = plane
        framed.labels[0, : width + 1] = self._labels_above[window.col_off : window.col_stop + 1]
        framed.labels[1 : height + 1, 0] = self._labels_left
        return framed

    def _fragments_of(self, window: Window, runs: Runs, framed: Planes) -> Fragments:
        """Entries of the block's own runs."""
        row, col = np.divmod(runs.start, framed.labels.shape[1])
        own = np.flatnonzero((runs.obj != NOWHERE) & (row > 0) & (col > 0))
        scores = np.add.reduceat(framed.scores.ravel(), runs.start, dtype=np.int64)[own]
        first = (row[own] - 1 + window.row_off) * self._grid.width + col[own] - 1 + window.col_off
        source = framed.sources.ravel()[runs.start[own]]
        return Fragments(runs.obj[own], source, runs.label[own], runs.length[own], scores, first).merged()

    def _assign_slots(self, window: Window, runs: Runs, objects: int, width: int) -> NDArray[np.int32]:
        """The slot of each object of the block, NOWHERE where it ends inside; joins are noted."""
        height, cols = window.shape
        known = np.concatenate([self._slots_above[window.col_off : window.col_stop + 1], self._slots_left])
        frame = np.concatenate([np.arange(cols + 1), np.arange(1, height + 1) * width])
        frame, known = frame[known != NOWHERE], known[known != NOWHERE]
        met = runs.obj[runs.of_pixel[frame]]
        slot = np.full(objects, NOWHERE, np.int32)
        slot[met] = known
        self._joins.append(np.stack([known, slot[met]]))

        edges = []
        if window.row_stop < self._grid.height:
            edges.append(height * width + np.arange(1, cols + 1))
        if window.col_stop < self._grid.width:
            edges.append(np.arange(1, height + 1) * width + cols)
        reaches = np.zeros(objects + 1, bool)  # the last entry takes what is no object
        for edge in edges:
            reaches[runs.obj[runs.of_pixel[edge]]] = True
        new = np.flatnonzero(reaches[:-1] & (slot == NOWHERE))
        slot[new] = np.arange(self._slots, self._slots + len(new))
        self._slots += len(new)
        return slot

    def _keep_edges(self, window: Window, runs: Runs, labels: NDArray[np.uint8], slot: NDArray[np.int32]) -> None:
        """Remember the block's last row and last column for the blocks below and to the right."""
        height, cols = window.shape
        width = labels.shape[1]
        slot = np.append(slot, np.int32(NOWHERE))  # the last entry answers for what is no object
        self._labels_left = labels[1 : height + 1, cols].copy()
        self._slots_left = slot[runs.obj[runs.of_pixel[np.arange(1, height + 1) * width + cols]]]
        if window.row_stop < self._grid.height:
            below = slice(window.col_off + 1, window.col_stop + 1)
            self._labels_below[below] = labels[height, 1 : cols + 1]
            self._slots_below[below] = slot[runs.obj[runs.of_pixel[height * width + np.arange(1, cols + 1)]]]
