"""What a sweep over blocks carries along: the pieces on the frontier, and the objects that reach it."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.blocks import Parts
from rs_pipeline.components import NOWHERE, Fragments, groups_of
from rs_pipeline.grid import Grid
from rs_pipeline.rings import Corners

Rows = TypeVar("Rows", Fragments, Corners)


class Whole(NamedTuple):
    """Objects that are whole, and the pieces they are made of, both numbered from 0."""

    fragments: Fragments
    corners: Corners
    owner: NDArray[np.int32]
    """Object of each piece."""


class Frontier:
    """Everything that outlives a block. Pieces of objects that may go on have slots, numbered from 0 in each band of blocks."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        # From the pixel left of the grid, which is no object.
        self._slots_above = np.full(grid.width + 1, NOWHERE, np.int32)
        self._slots_left = np.empty(0, np.int32)
        self._fragments: list[Fragments] = []
        self._corners: list[Corners] = []
        self._touches = [np.empty((2, 0), np.int32)]
        self._slots = 0

    def begin_band(self, height: int) -> None:
        """Go to the next row of blocks, `height` pixels high."""
        self._slots_below = np.full_like(self._slots_above, NOWHERE)
        self._slots_left = np.full(height, NOWHERE, np.int32)
        self._joins: list[NDArray[np.int32]] = []

    def add(self, parts: Parts) -> Whole:
        """Take in the next block of the band; gives the objects that end inside it."""
        slot = self._assign_slots(parts)
        self._keep_edges(parts, slot)
        is_open = slot != NOWHERE
        # Pieces that touch are both open or both not.
        going_on = is_open[parts.touches[0]]
        self._touches.append(slot[parts.touches[:, going_on]])
        number = np.cumsum(~is_open, dtype=np.int32) - np.int32(1)
        held, closed = is_open[parts.fragments.piece], is_open[parts.corners.piece]
        self._fragments.append(_renumbered(parts.fragments.take(held), slot))
        self._corners.append(_renumbered(parts.corners.take(closed), slot))
        touches = number[parts.touches[:, ~going_on]]
        fragments, corners = parts.fragments.take(~held), parts.corners.take(~closed)
        return Whole(_renumbered(fragments, number), _renumbered(corners, number), _owners(touches, int((~is_open).sum())))

    def end_band(self) -> Whole:
        """Join what met in this band; gives the objects that do not reach its last row."""
        group = groups_of(np.concatenate(self._joins, axis=1), self._slots)
        pieces = int(group.max(initial=-1)) + 1
        touches = group[np.concatenate(self._touches, axis=1)]
        owner = _owners(touches, pieces)
        reaches = self._slots_below != NOWHERE
        group_below = group[self._slots_below[reaches]]
        goes_on = np.isin(owner, owner[group_below])
        # Both kinds are numbered from 0: those that go on get the slots of the next band.
        number = np.where(goes_on, np.cumsum(goes_on), np.cumsum(~goes_on)).astype(np.int32) - np.int32(1)

        fragments = _renumbered(Fragments.concatenate(self._fragments), group)
        corners = _renumbered(Corners.concatenate(self._corners), group)
        parts = []
        for chosen in (goes_on, ~goes_on):
            f, c = fragments.take(chosen[fragments.piece]), corners.take(chosen[corners.piece])
            parts.append((_renumbered(f, number).merged(), _renumbered(c, number)))
        (held, held_corners), (whole, whole_corners) = parts
        stays = goes_on[touches[0]]
        self._fragments, self._corners, self._touches = [held], [held_corners], [_distinct(number[touches[:, stays]])]
        self._slots = int(goes_on.sum())
        self._slots_above = self._slots_below
        self._slots_above[reaches] = number[group_below]
        return Whole(whole, whole_corners, _owners(number[touches[:, ~stays]], int((~goes_on).sum())))

    def _assign_slots(self, parts: Parts) -> NDArray[np.int32]:
        """The slot of each piece of the block, NOWHERE where its object ends inside; joins are noted."""
        window = parts.window
        known = np.concatenate([self._slots_above[window.col_off : window.col_stop + 1], self._slots_left])
        has_slot = known != NOWHERE
        known, met = known[has_slot], parts.frame[has_slot]
        slot = np.full(parts.pieces, NOWHERE, np.int32)
        slot[met] = known
        self._joins.append(np.stack([known, slot[met]]))

        reaches = slot != NOWHERE
        for edge in _open_edges(parts, self._grid):
            reaches[edge[edge != NOWHERE]] = True
        if parts.touches.size:
            owner = _owners(parts.touches, parts.pieces)
            reaches = np.isin(owner, owner[reaches])
        new = np.flatnonzero(reaches & (slot == NOWHERE))
        slot[new] = np.arange(self._slots, self._slots + len(new))
        self._slots += len(new)
        return slot

    def _keep_edges(self, parts: Parts, slot: NDArray[np.int32]) -> None:
        """Remember the block's last row and last column for the blocks below and to the right."""
        slot = np.append(slot, np.int32(NOWHERE))  # the last entry answers for what is no piece
        self._slots_left = slot[parts.right]
        if parts.window.row_stop < self._grid.height:
            self._slots_below[parts.window.col_off + 1 : parts.window.col_stop + 1] = slot[parts.bottom]


def _open_edges(parts: Parts, grid: Grid) -> list[NDArray[np.int32]]:
    """Pieces along the edges where the grid goes on."""
    below = [parts.bottom] if parts.window.row_stop < grid.height else []
    beside = [parts.right] if parts.window.col_stop < grid.width else []
    return below + beside


def _owners(touches: NDArray[np.int32], pieces: int) -> NDArray[np.int32]:
    """Object of each piece, where pairs of pieces touch."""
    return groups_of(touches, pieces) if touches.size else np.arange(pieces, dtype=np.int32)


def _distinct(pairs: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each pair (2, n) once."""
    return np.unique(np.sort(pairs, axis=0), axis=1) if pairs.size else pairs


def _renumbered(rows: Rows, number: NDArray[np.int32]) -> Rows:
    """Rows of pieces that have other numbers now."""
    return rows._replace(piece=number[rows.piece])
