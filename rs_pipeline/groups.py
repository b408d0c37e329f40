"""Which classes have all their tiles in the store already: change a prompt, and only that is computed.

A store has one folder for all that decides scores except the prompts, and in it one for each group of classes that were computed
together. A group that has every tile of its plan is marked so, and lends its classes to whoever asks for their prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import StoreError
from rs_pipeline.grid import Window
from rs_pipeline.job import Job
from rs_pipeline.places import Place
from rs_pipeline.store import TileStore
from rs_pipeline.tiles import Tile

MARKER = "complete"
"""A file in the folder of a group that has all its tiles: the prompts of its bands."""
NAME = re.compile(r"[0-9a-f]{16}")
"""Of a group, and of what holds them."""
Prompts = tuple[str, ...]


class Band(NamedTuple):
    """Where the scores of a class are."""

    group: str
    band: int


@dataclass(frozen=True, slots=True)
class Work:
    """Where each class of a run comes from, and what is left to compute."""

    job: Job
    """The run."""
    bands: tuple[Band, ...]
    """Of each class, in order."""
    todo: Job | None
    """Computes the classes that no marked group has; None where there are none."""
    left: int
    """Tiles of `todo` that are not in the store."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups the run needs."""
        return tuple(dict.fromkeys(band.group for band in self.bands))

    @property
    def store(self) -> TileStore:
        """The tiles of `todo`; where there is nothing to do, those of the first group."""
        return TileStore(self.todo.store if self.todo is not None else self.job.base.at(self.groups[0]))

    @property
    def origins(self) -> dict[str, str]:
        """Class name to `computed` or `reused`."""
        mine = self.todo.group if self.todo is not None else None
        named = zip(self.job.classes.names, self.bands, strict=True)
        return {name: "computed" if band.group == mine else "reused" for name, band in named}

    def mark(self) -> None:
        """Say that the tiles of `todo` are all there.

        Raises
        ------
        StoreError: the store cannot be written.
        """
        if self.todo is not None:
            self.todo.store.write(MARKER, json.dumps({"prompts": [c.prompts for c in self.todo.classes]}).encode())


def group_names(base: Place) -> list[str]:
    """The groups of a store.

    Raises
    ------
    StoreError: the store cannot be read.
    """
    return [name for name in base.folders() if NAME.fullmatch(name)]


def find_work(job: Job) -> Work:
    """What the store has of a run: of all ways to go on, the one that leaves the fewest scores to compute. Writes nothing.

    Raises
    ------
    StoreError: the store cannot be read.
    """
    planned = frozenset(tile.index for tile in job.plan.tiles())
    marked = {name: prompts for name in group_names(job.base) if (prompts := _marked(job.base.at(name))) is not None}
    own = _from_own(job, planned, marked)
    if not own.left:
        return own
    return min(own, _from_all(job, planned, marked), key=lambda work: work.left * len(work.todo.classes) if work.todo is not None else 0)


def _from_own(job: Job, planned: frozenset[int], marked: dict[str, list[Prompts]]) -> Work:
    """All classes from the group of this very run, whether it has all its tiles or not."""
    left = len(planned - TileStore(job.store).done().keys())
    whole = job.group in marked and not left
    return Work(job, tuple(Band(job.group, k) for k in range(len(job.classes))), None if whole else job, left)


def _from_all(job: Job, planned: frozenset[int], marked: dict[str, list[Prompts]]) -> Work:
    """What the marked groups have of the classes, the rest as a group of its own."""
    found: dict[Prompts, Band] = {}
    candidates = dict(marked)
    while wanted := {c.prompts for c in job.classes} - found.keys():
        name = max(candidates, key=lambda name: len(wanted.intersection(candidates[name])), default="")
        prompts = candidates.pop(name, [])
        if wanted.isdisjoint(prompts):
            break
        if planned <= TileStore(job.base.at(name)).done().keys():
            found |= {words: Band(name, prompts.index(words)) for words in wanted.intersection(prompts)}
    missing = [c for c in job.classes if c.prompts not in found]
    if not missing:
        return Work(job, tuple(found[c.prompts] for c in job.classes), None, 0)
    todo = replace(job, classes=ClassSet(tuple(replace(c, value=k) for k, c in enumerate(missing, 1))))
    new = {c.name: Band(todo.group, k) for k, c in enumerate(missing)}
    bands = tuple(new.get(c.name) or found[c.prompts] for c in job.classes)
    return Work(job, bands, todo, len(planned - TileStore(todo.store).done().keys()))


def _marked(group: Place) -> list[Prompts] | None:
    """Prompts of the bands of a group that has all its tiles; None where it has not."""
    text = group.read(MARKER)
    return [tuple(words) for words in json.loads(text)["prompts"]] if text is not None else None


@contextmanager
def held(work: Work) -> Iterator[None]:
    """Keep what a run reads from being cleaned away, and what it writes from other runs.

    Raises
    ------
    StoreError: another process holds it, or the store changed since the work was found.
    """
    with ExitStack() as locks:
        try:
            locks.enter_context(work.job.base.hold(shared=True))
        except BlockingIOError as error:
            raise StoreError("a tile store that nobody cleans", f"another process at {work.job.base.where}", "Wait for it.") from error
        if work.todo is not None:
            locks.enter_context(TileStore(work.todo.store).lock())
        now = find_work(work.job)
        if (now.bands, now.origins) != (work.bands, work.origins):
            raise StoreError("a tile store that stays as it is", f"changes in {work.job.base.where} while the run began", "Run again.")
        yield


class BandReader:
    """The tiles of a run as stitching reads them, whatever groups its classes are in."""

    def __init__(self, work: Work) -> None:
        self._bands = work.bands
        self._stores = {group: TileStore(work.job.base.at(group)) for group in work.groups}
        done = [store.done() for store in self._stores.values()]
        self._seen = frozenset(index for index, has_data in done[0].items() if has_data and all(d.get(index) for d in done))

    def __call__(self, tile: Tile, part: Window) -> NDArray[np.uint8] | None:
        """(K + 1, h, w) uint8; see `rs_pipeline.mosaic.ReadScores`. A tile that one group lacks is not observed.

        Raises
        ------
        StoreError: a tile is not what was written.
        """
        if tile.index not in self._seen:
            return None
        read = {}
        for group, store in self._stores.items():
            scores = store.read(tile, part)
            if scores is None:
                return None
            read[group] = scores
        first = next(iter(read.values()))
        if len(read) == 1 and [b.band for b in self._bands] == list(range(len(first) - 1)):
            return first
        # The last band, the scene of each pixel, is the same in all groups.
        return np.stack([*(read[group][band] for group, band in self._bands), first[-1]])
