"""The runs of a folder, and of the folders in it: finished, partial, or unfinished, and what their tile stores hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rs_pipeline.errors import OutputError
from rs_pipeline.groups import NAME, group_names
from rs_pipeline.locks import is_held
from rs_pipeline.places import Place, open_place
from rs_pipeline.plan import STORES
from rs_pipeline.products import MANIFEST, leftovers, read_manifest
from rs_pipeline.records import RunRecord, read_records
from rs_pipeline.store import TileStore

Wanted = Callable[[str], bool]
"""Whether a run is meant, by its run folder."""
State = Literal["finished", "partial", "unfinished", "moved"]
"""`moved`: it was finished, and its folder is no longer where it was."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is."""

    out: str
    """Run folder, absolute."""
    state: State
    classes: tuple[str, ...]
    planned: int
    """Tiles; so are `done`, those with data, and `empty`, those without."""
    done: int
    empty: int
    failed: tuple[dict[str, Any], ...]
    """Index and error of each tile that failed."""
    store: str | None
    """Where its tiles are; None where they are no longer kept."""
    store_bytes: int
    held: bool
    """A process of this machine is at work on it."""

    @property
    def left(self) -> int:
        """Tiles to compute, were it run again."""
        return self.planned - self.done - self.empty


@dataclass(frozen=True, slots=True)
class Shelf:
    """The tiles of one plan, scenes and model, and the runs that used them."""

    base: Place
    records: tuple[RunRecord, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which runs somebody means who names a folder."""

    folder: Path
    """Absolute."""
    is_run: bool
    """Only the run that is there, or will be; otherwise those in the folder, and in folders of it that hold runs in their turn."""
    homes: tuple[Path, ...]
    """Folders that hold them."""

    def has(self, out: str) -> bool:
        """Whether the run of a run folder is meant."""
        path = Path(out)
        return path == self.folder if self.is_run else self.folder in path.parents[:2]

    def runs(self) -> list[Path]:
        """Where run folders may be, sorted."""
        return [self.folder] if self.is_run else sorted(path for home in self.homes for path in home.iterdir())

    def leftovers(self) -> list[Path]:
        """Half-written run folders, as `products.leftovers`."""
        return [path for home in self.homes for path in leftovers(home, self.folder.name if self.is_run else "*")]

    def stores(self, named: str | None) -> list[tuple[Place, Wanted | None]]:
        """Where their tiles are, and which runs of each store are meant by their run folders; None: all.

        Parameters
        ----------
        named: path or URL of the one store. None: `.tiles` beside the runs, and beside the folder of two that were compared.

        Raises
        ------
        StoreError: a URL that nothing installed can read.
        """
        if named is not None:
            return [(open_place(named), self.has if self.is_run else None)]
        beside = self.homes[0]
        wanted: dict[Path, Wanted | None] = dict.fromkeys((beside, beside.parent), self.has)
        wanted |= dict.fromkeys(() if self.is_run else self.homes, None)
        return [(open_place(home / STORES), runs) for home, runs in wanted.items()]


def read_shelves(stores: Place) -> list[Shelf]:
    """All that is in a tile store.

    Raises
    ------
    StoreError: it cannot be read.
    """
    return [read_shelf(stores.at(name)) for name in stores.folders() if NAME.fullmatch(name)]


def read_shelf(base: Place) -> Shelf:
    """One of them."""
    return Shelf(base, tuple(read_records(base)), tuple(group_names(base)))


def state_of(record: RunRecord) -> State:
    """How the run of a record stands, seen from its run folder."""
    manifest = read_manifest(Path(record.out))
    if manifest is not None and manifest.get("run_key") == record.run_key:
        return _state_in(manifest)
    return "moved" if record.finished else "unfinished"


def scope_of(folder: Path) -> Scope:
    """Which runs are meant by a folder that holds runs, or is one, or will be."""
    folder = folder.absolute()
    if not folder.is_dir() or _read_run(folder) is not None:
        return Scope(folder, True, (folder.parent,))
    below = (path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and os.access(path, os.R_OK | os.X_OK))
    return Scope(folder, False, (folder, *(path for path in below if path.is_dir() and not (path / MANIFEST).exists())))


def survey(folder: Path, store: str | None = None) -> list[RunStatus]:
    """The runs in a folder and in the folders of it, or the one that is there or will be.

    Parameters
    ----------
    store: path or URL of their tile store. None: as `Scope.stores`.

    Raises
    ------
    OutputError: there is neither a run nor a store of one.
    StoreError: the store cannot be read.
    """
    scope = scope_of(folder)
    manifests = {path: manifest for path in scope.runs() if (manifest := _read_run(path)) is not None}
    shelves = [(shelf, wanted) for place, wanted in scope.stores(store) for shelf in read_shelves(place)]
    found = [_of_folder(path, manifest, [shelf for shelf, _ in shelves]) for path, manifest in manifests.items()]
    keys = {manifest["run_key"] for manifest in manifests.values()}
    found += [status for shelf, wanted in shelves for status in _of_shelf(shelf, keys, wanted)]
    if not found:
        raise nothing_of_ours(str(folder))
    return found


def survey_store(store: str) -> list[RunStatus]:
    """The runs that a tile store knows, wherever they go to.

    Raises
    ------
    OutputError: it knows none.
    StoreError: it cannot be read.
    """
    found = [status for shelf in read_shelves(open_place(store)) for status in _of_shelf(shelf, set(), None)]
    if not found:
        raise nothing_of_ours(store)
    return found


def nothing_of_ours(where: str) -> OutputError:
    """The error for a place that no run was ever in."""
    return OutputError("a run folder, a folder that holds runs, or a tile store", f"nothing of the kind at {where}", "Check the path.")


def _read_run(folder: Path) -> dict[str, Any] | None:
    manifest = read_manifest(folder)
    is_ours = manifest is not None and manifest.get("product") == "rs-seg" and manifest.keys() >= {"run_key", "tiles", "classes"}
    return manifest if is_ours else None


def _state_in(manifest: dict[str, Any]) -> State:
    return "partial" if manifest["tiles"]["failed"] else "finished"


def _of_folder(folder: Path, manifest: dict[str, Any], shelves: list[Shelf]) -> RunStatus:
    """A run whose folder is there."""
    tiles = manifest["tiles"]
    its_own = [(shelf, record) for shelf in shelves for record in shelf.records if record.run_key == manifest["run_key"]]
    its_own.sort(key=lambda found: found[1].out != str(folder))  # the same run may be in several folders
    shelf, record = its_own[0] if its_own else (None, None)
    kept = [] if shelf is None or record is None else [g for g in record.groups if g in shelf.groups]
    return RunStatus(
        out=str(folder),
        state=_state_in(manifest),
        classes=tuple(c["name"] for c in manifest["classes"]),
        planned=tiles["planned"],
        done=tiles["reused"] + tiles["computed"],
        empty=tiles["empty"],
        failed=tuple(tiles["failed"]),
        store=shelf.base.where if shelf is not None and kept else None,
        store_bytes=sum(shelf.base.at(group).size() for group in kept) if shelf is not None else 0,
        held=_is_written(folder),
    )


def _of_shelf(shelf: Shelf, known: set[str], wanted: Wanted | None) -> Iterator[RunStatus]:
    """The runs of which there is a record and nothing else; `known` are the keys of those whose folder was found."""
    for record in shelf.records:
        if wanted is not None and not wanted(record.out):
            continue
        state = state_of(record)
        if record.run_key in known and state != "unfinished":
            continue
        manifest = _read_run(Path(record.out))
        if manifest is not None and state == "moved":
            continue  # another run took its place
        if manifest is not None and state != "unfinished":
            yield _of_folder(Path(record.out), manifest, [shelf])
            continue
        kept = [shelf.base.at(group) for group in record.groups if group in shelf.groups]
        done = [TileStore(group).done() for group in kept] if len(kept) == len(record.groups) else []
        everywhere = set.intersection(*(set(d) for d in done)) if done else set()
        with_data = sum(all(d[index] for d in done) for index in everywhere)
        yield RunStatus(
            out=record.out,
            state=state,
            classes=record.classes,
            planned=record.planned,
            done=with_data,
            empty=len(everywhere) - with_data,
            failed=(),
            store=shelf.base.where if kept else None,
            store_bytes=sum(group.size() for group in kept),
            held=_is_written(Path(record.out)),
        )


def _is_written(folder: Path) -> bool:
    return any(is_held(part) for part in leftovers(folder.parent, folder.name))
