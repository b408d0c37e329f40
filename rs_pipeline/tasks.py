"""Tiles cut into tasks for workers: long ones while there is much to do, single batches near the end. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

_SHARES = 3
"""A task is at most this part of what its worker would still get of the tiles that are left."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is sent at once: tiles, computed batch after batch."""

    indices: tuple[int, ...]
    batch_size: int
    """Tiles per forward pass."""

    def batches(self) -> Iterator[tuple[int, ...]]:
        """The tiles, a forward pass at a time."""
        for start in range(0, len(self.indices), self.batch_size):
            yield self.indices[start : start + self.batch_size]

    def halves(self) -> tuple[Task, ...]:
        """Two tasks of half the tiles, in batches of half the size; one for a single tile, none for none."""
        if len(self.indices) <= 1:
            return (self,) * len(self.indices)
        middle, smaller = (len(self.indices) + 1) // 2, max(1, self.batch_size // 2)
        return Task(self.indices[:middle], smaller), Task(self.indices[middle:], smaller)

    def without(self, done: Container[int]) -> Task:
        """The task without some of its tiles."""
        return Task(tuple(index for index in self.indices if index not in done), self.batch_size)


class Cutter:
    """Cuts tiles into tasks of whole batches, in their order, as they are asked for.

    A scheduler takes milliseconds over a task, so many workers need long ones; but whoever gets the last task keeps the
    others waiting, so tasks shrink as the end comes near. A job with few tiles for its workers has one batch in each task.

    Parameters
    ----------
    indices: the tiles.
    batch_size: tiles per forward pass.
    most_tiles: of one task; a batch is never cut.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, most_tiles: int) -> None:
        self._indices, self._batch_size = indices, batch_size
        self._most_batches = max(1, most_tiles // batch_size)
        self._next = 0

    def __bool__(self) -> bool:
        """True while tiles are left."""
        return self._next < len(self._indices)

    def cut(self, workers: int) -> Task:
        """The next task, for one of so many workers."""
        left = len(self._indices) - self._next
        batches = min(self._most_batches, max(1, left // (workers * _SHARES * self._batch_size)))
        start, self._next = self._next, self._next + batches * self._batch_size
        return Task(tuple(self._indices[start : self._next]), self._batch_size)
