"""An archive worked through: each new or changed item of its catalog becomes a run of its own, once."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import shapely

from rs_pipeline.aoi import read_aoi
from rs_pipeline.archive_config import ArchiveSettings, load_archive
from rs_pipeline.catalog import Entry, find_entries
from rs_pipeline.catalog_products import add_product
from rs_pipeline.clean import clean
from rs_pipeline.config import RunSettings, load_settings
from rs_pipeline.errors import AoiError, ConfigError, OutputError, RsSegError
from rs_pipeline.keys import TILE_FORMAT, digest
from rs_pipeline.ledger import Key, Ledger, Row, Status
from rs_pipeline.locks import hold
from rs_pipeline.plan import query_of
from rs_pipeline.products import read_manifest
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import find_provider
from rs_pipeline.vocabulary import load_vocabulary

LEDGER = "archive.sqlite"
Do = Callable[[RunSettings], dict[str, Any]]
"""Makes a run of its settings and gives the content of its `run.json`."""
_NOT_OF_PRODUCTS = {
    "aoi", "source", "catalog", "collections", "datetime", "max_cloud_cover", "scenes", "per_scene", "roots",
    "out", "outputs", "store", "overwrite", "workers", "prompt_batch",
}  # fmt: skip
"""Settings that decide which items are found, or how they are computed, not what comes out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item, this time."""

    item: str
    status: Status | Literal["busy"]
    """`busy`: another process is at it."""
    out: str
    """Run folder."""
    seconds: float = 0.0
    product: str | None = None
    error: str | None = None
    classes: tuple[dict[str, Any], ...] = ()
    """Layers, as `run.json` has them."""

    @property
    def is_trouble(self) -> bool:
        """True where something is left to do."""
        return self.status in {"partial", "failed"}


@dataclass(frozen=True, slots=True)
class Agenda:
    """The items of an archive, as its catalog has them now."""

    todo: tuple[Entry, ...]
    """New or changed, or failed before."""
    done: tuple[Row, ...]
    """Published already with these settings, or outside the area."""
    given_up: tuple[Row, ...]
    """Failed as often as they may."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's settings and what follows from them."""

    settings: ArchiveSettings
    run: RunSettings
    """Of its runs; source, folder and the like are each item's own."""
    key: str
    """Digest of all settings that decide the products."""

    @classmethod
    def of(cls, settings: ArchiveSettings) -> Self:
        """Read what the settings name: area, vocabulary, model.

        Raises
        ------
        RsSegError: one of them is not there or makes no sense.
        """
        run = load_settings({"outputs": f"outputs/{settings.name}", **settings.run})
        for name in ("out", "per_scene", "scenes"):
            if settings.run.get(name):
                came = f"run.{name} in archive {settings.name}"
                raise ConfigError("runs of one item each, in folders named by them", came, "Leave it out.")
        if settings.look_back_days is not None:
            if run.datetime is not None:
                came = f"look_back_days and run.datetime in archive {settings.name}"
                raise ConfigError("dates once", came, "Leave one of them out.")
            start = dt.datetime.now(dt.UTC) - dt.timedelta(days=settings.look_back_days)
            run = run.model_copy(update={"datetime": f"{start.isoformat(timespec='seconds')}/.."})
        info = find_provider(run.model).info()
        area = shapely.to_wkb(read_aoi(run.aoi).geometry) if run.aoi is not None else b""
        facts = {
            "format": TILE_FORMAT,
            "run": run.model_dump(mode="json", exclude=_NOT_OF_PRODUCTS),
            "area": hashlib.sha256(area).hexdigest(),
            "classes": load_vocabulary(run.vocabulary).class_set(run.classes).to_list(),
            "model": [info.name, info.weights_sha256, info.code_version],
        }
        return cls(settings, run, digest(facts))

    @property
    def outputs(self) -> Path:
        """Folder of its runs."""
        return Path(self.run.outputs).absolute()

    @property
    def ledger(self) -> Ledger:
        """What became of its items."""
        return Ledger(self.outputs / LEDGER)

    def key_of(self, entry: Entry) -> Key:
        """What an item is entered under."""
        return Key(name_of(entry), entry.version, self.key)

    def folder_of(self, entry: Entry) -> Path:
        """Run folder of an item: the newest settings' run, in the place of the one before."""
        return self.outputs / name_of(entry)

    @contextmanager
    def claim(self, entry: Entry) -> Iterator[None]:
        """Keep other processes off an item.

        Raises
        ------
        BlockingIOError: one is at it.
        OutputError: the folder cannot be written.
        """
        path = self.outputs / ".claims" / f"{name_of(entry).replace('/', '--')}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = hold(path)
            lock.__enter__()
        except BlockingIOError:
            raise
        except OSError as error:
            fix = "Check permissions and disk space."
            raise OutputError("a folder for the archive's runs", f"{self.outputs} ({error})", fix) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)


def open_archive(changes: Path | dict[str, Any]) -> Archive:
    """The archive of a YAML file, or of what such a file holds.

    Raises
    ------
    RsSegError: it is not what it should be.
    """
    return Archive.of(load_archive(changes))


def name_of(entry: Entry) -> str:
    """Collection and id of an item as a path; what no folder may be called is written as in a URL."""
    return "/".join(_as_folder(part) for part in (entry.collection, entry.id) if part)


def _as_folder(name: str) -> str:
    safe = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe


def find_agenda(archive: Archive, *, retry: bool = False) -> Agenda:
    """What there is to do.

    Parameters
    ----------
    retry: also items that failed as often as they may.

    Raises
    ------
    CatalogError: the catalog cannot be read. That it holds nothing new, or nothing at all, is none.
    """
    area = read_aoi(archive.run.aoi) if archive.run.aoi is not None else None
    known, todo, done, given_up = archive.ledger.rows(), [], [], []
    for entry in find_entries(archive.run.source or (archive.run.catalog,), query_of(archive.run, area)):
        row = known.get(archive.key_of(entry))
        if row is not None and _is_settled(row):
            done.append(row)
        elif row is not None and row.attempts >= archive.settings.attempts and not retry:
            given_up.append(row)
        else:
            todo.append(entry)
    return Agenda(tuple(todo), tuple(done), tuple(given_up))


def _is_settled(row: Row) -> bool:
    return row.status == "outside" or (row.status == "done" and read_manifest(Path(row.out)) is not None)


def do_item(archive: Archive, entry: Entry, do: Do, reporter: Reporter) -> Outcome:
    """Make the run of an item, put it into the catalog of products, and enter what became of it.

    Whatever happens to one item is its own: nothing is raised but what ends the process.
    """
    start, out = time.monotonic(), archive.folder_of(entry)
    try:
        with archive.claim(entry):
            before = archive.ledger.find(archive.key_of(entry))
            if before is not None and _is_settled(before):  # while this one waited for its turn
                return Outcome(before.item, before.status, before.out, product=before.product)
            tried = _try(archive, entry, out, do)
            seconds = round(time.monotonic() - start, 3)
            _enter(archive, entry, tried, seconds, before)
    except BlockingIOError:
        return Outcome(name_of(entry), "busy", str(out))
    if tried.status == "done" and not archive.settings.keep_tiles:
        with suppress(RsSegError):  # room is made by `rs-seg clean`, too
            clean(out, archive.run.store)
    if tried.error is not None:
        reporter.note(f"{name_of(entry)} {tried.status}: {tried.error}")
    return Outcome(name_of(entry), tried.status, str(out), seconds, tried.product, tried.error, tried.classes)


class _Tried(NamedTuple):
    status: Status
    error: str | None = None
    product: str | None = None
    classes: tuple[dict[str, Any], ...] = ()


def _try(archive: Archive, entry: Entry, out: Path, do: Do) -> _Tried:
    try:
        scene = entry.open(verify=archive.settings.verify_checksums)
        source = entry.item_href or scene.info.href
        summary = do(archive.run.model_copy(update={"source": (source,), "out": str(out), "overwrite": True, "datetime": None}))
        product = add_product(Path(archive.settings.products), out) if archive.settings.products is not None else None
    except AoiError as error:
        return _Tried("outside", str(error))
    except Exception as error:  # noqa: BLE001 - a damaged item may raise anything, and the next one shall have its turn
        words = str(error) if isinstance(error, RsSegError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _Tried("failed", words)
    failed = summary["tiles"]["failed"]
    trouble = f"{len(failed)} of {summary['tiles']['planned']} tiles failed, the first: {failed[0]['error']}" if failed else None
    return _Tried("partial" if failed else "done", trouble, product, tuple(summary["classes"]))


def _enter(archive: Archive, entry: Entry, tried: _Tried, seconds: float, before: Row | None) -> None:
    key = archive.key_of(entry)
    attempts = 1 + (before.attempts if before is not None else 0)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    out = str(archive.folder_of(entry))
    archive.ledger.enter(Row(key.item, key.version, key.settings, tried.status, attempts, now, seconds, out, tried.product, tried.error))


def run_archive(archive: Archive, do: Do, reporter: Reporter, *, retry: bool = False) -> dict[str, Any]:
    """Do what there is to do, one item after another.

    Returns
    -------
    What `describe` gives.

    Raises
    ------
    CatalogError: the catalog cannot be read.
    """
    agenda = find_agenda(archive, retry=retry)
    outcomes = []
    for number, entry in enumerate(agenda.todo, 1):
        reporter.note(f"item {number} of {len(agenda.todo)}: {name_of(entry)}")
        outcomes.append(do_item(archive, entry, do, reporter))
    return describe(archive, agenda, outcomes)


def describe(archive: Archive, agenda: Agenda, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A run over an archive, JSON-ready; `status` is complete, partial or failed."""
    trouble = sum(outcome.is_trouble for outcome in outcomes) + len(agenda.given_up)
    status = "complete" if not trouble else "partial" if trouble < len(outcomes) + len(agenda.done) + len(agenda.given_up) else "failed"
    return {
        "archive": archive.settings.name,
        "outputs": str(archive.outputs),
        "settings": archive.key,
        "status": status,
        "found": len(agenda.todo) + len(agenda.done) + len(agenda.given_up),
        "already_done": len(agenda.done),
        "items": [asdict(outcome) for outcome in outcomes],
        "given_up": [asdict(row) for row in agenda.given_up],
    }
