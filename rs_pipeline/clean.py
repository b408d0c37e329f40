"""Room made: tile stores that no run needs any more, and what killed runs left."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rs_pipeline.errors import StoreError
from rs_pipeline.locks import hold
from rs_pipeline.places import LocalPlace, Place, open_place
from rs_pipeline.plan import STORES
from rs_pipeline.records import RunRecord
from rs_pipeline.survey import Shelf, Wanted, read_shelf, read_shelves, scope_of, state_of, survey, survey_store

_AT_WORK = "a process is at work on it"


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that is gone, or would be."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A store that stays."""

    path: str
    run: str | None
    """Folder of the run that needs it, where that is why."""
    why: str


@dataclass(slots=True)
class Cleaned:
    """What was removed and what was not."""

    removed: list[Removed] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        """Bytes of all that was removed."""
        return sum(removed.bytes for removed in self.removed)


def clean(folder: Path | None, store: str | None = None, *, abandoned: bool = False, dry_run: bool = False) -> Cleaned:
    """Remove the tile stores of finished runs, and half-written run folders; nothing that a process holds.

    Parameters
    ----------
    folder: holds runs, or folders of runs, or is one. None: only the store is looked at, whoever its runs are.
    store: path or URL of the tile store. None: as `Scope.stores`.
    abandoned: also stores of runs that never finished, or that have failed tiles left.
    dry_run: only say what would go.

    Raises
    ------
    OutputError: there is nothing of ours.
    StoreError: the store cannot be read or removed, or is one of which nobody can know who is at work.
    """
    scope = scope_of(folder) if folder is not None else None
    places: list[tuple[Place, Wanted | None]] = scope.stores(store) if scope is not None else [(open_place(store or STORES), None)]
    for place, _ in places:
        if abandoned and not place.has_locks:
            came = f"{place.where}, which does not say who is at work on it"
            raise StoreError("a local tile store for --all", came, "Remove it with the object store's own tools.")
    shelves = [(shelf, only) for place, only in places for shelf in read_shelves(place) if _is_meant(shelf, only)]
    halves = scope.leftovers() if scope is not None else []
    if not shelves and not halves:
        survey(folder, store) if folder is not None else survey_store(places[0][0].where)  # says so where no run is there either
    cleaned = Cleaned()
    for shelf, only in shelves:
        _clean_shelf(shelf.base, cleaned, only=only, abandoned=abandoned, dry_run=dry_run)
    for half in halves:
        _remove_half_written(half, cleaned, dry_run=dry_run)
    for place, _ in places:
        if not dry_run and not place.folders() and not any(place.names()):
            place.remove_empty()
    return cleaned


def _is_meant(shelf: Shelf, only: Wanted | None) -> bool:
    return only is None or any(only(record.out) for record in shelf.records)


def _clean_shelf(base: Place, cleaned: Cleaned, *, only: Wanted | None, abandoned: bool, dry_run: bool) -> None:
    """Remove of a store what no run needs, unless a process is at work on it."""
    with ExitStack() as locks:
        try:
            if not dry_run:
                locks.enter_context(base.hold())
            is_free = not (dry_run and base.is_held())
        except BlockingIOError:
            is_free = False
        if is_free:
            _sweep(read_shelf(base), cleaned, only=only, abandoned=abandoned, dry_run=dry_run)
        else:
            cleaned.kept.append(Kept(base.where, None, _AT_WORK))


def _sweep(shelf: Shelf, cleaned: Cleaned, *, only: Wanted | None, abandoned: bool, dry_run: bool) -> None:
    """`_clean_shelf`, with the store held."""
    if not shelf.groups and not shelf.records and only is None:
        # Of an older version, or of a run that was killed as it began.
        _remove(shelf.base, None if abandoned else _needed_by([], shelf.base), cleaned, dry_run=dry_run)
        return
    for group in shelf.groups:
        users = [record for record in shelf.records if group in record.groups]
        if only is None or any(only(record.out) for record in users):
            place = shelf.base.at(group)
            _remove(place, None if abandoned else _needed_by(users, place), cleaned, dry_run=dry_run)
    if not dry_run:
        _close(read_shelf(shelf.base))


def _needed_by(users: list[RunRecord], place: Place) -> Kept | None:
    """Why tiles stay; None where every run that used them is finished."""
    if not users:
        return Kept(place.where, None, "no run says that it is its own; --all removes it")
    waiting = [(record, state) for record in users if (state := state_of(record)) in {"unfinished", "partial"}]
    return Kept(place.where, waiting[0][0].out, f"is {waiting[0][1]}; --all removes it") if waiting else None


def _close(shelf: Shelf) -> None:
    """Take away the records of runs that have no tiles left, and the store where there are none at all."""
    for record in shelf.records:
        if set(record.groups).isdisjoint(shelf.groups):
            record.remove(shelf.base)
    if not shelf.groups:
        shelf.base.remove()


def _remove(place: Place, kept: Kept | None, cleaned: Cleaned, *, dry_run: bool) -> None:
    if kept is not None:
        cleaned.kept.append(kept)
        return
    cleaned.removed.append(Removed(place.where, place.size()))
    if not dry_run:
        place.remove()


def _remove_half_written(folder: Path, cleaned: Cleaned, *, dry_run: bool) -> None:
    try:
        with hold(folder, patience_s=0):
            _remove(LocalPlace(folder), None, cleaned, dry_run=dry_run)
    except FileNotFoundError:
        return  # its run has just ended
    except BlockingIOError:
        cleaned.kept.append(Kept(str(folder), None, _AT_WORK))
