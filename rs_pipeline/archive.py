"""An archive worked through: each new or changed item of its catalog becomes a run of its own, once."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import shapely

from rs_pipeline.adapters import check_adapter, read_facts
from rs_pipeline.aoi import read_aoi
from rs_pipeline.archive_books import BOOKS, current_adapter
from rs_pipeline.archive_config import ArchiveSettings, load_archive
from rs_pipeline.catalog import Entry, find_entries
from rs_pipeline.catalog_products import add_product
from rs_pipeline.clean import clean
from rs_pipeline.config import RunSettings, load_settings
from rs_pipeline.errors import CatalogError, ConfigError, NothingThereError, OutputError, RasterError, RsSegError, SegmenterError
from rs_pipeline.imagery import query_of
from rs_pipeline.keys import PRODUCT_FORMAT, TILE_FORMAT, adapter_facts, digest, refine_facts
from rs_pipeline.ledger import Key, Ledger, Row, Status
from rs_pipeline.locks import hold
from rs_pipeline.products import is_whole, read_manifest
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import find_provider
from rs_pipeline.stac_assets import Image
from rs_pipeline.vocabulary import load_vocabulary

Do = Callable[[RunSettings], dict[str, Any]]
"""Makes a run of its settings and gives the content of its `run.json`."""
_NOT_OF_PRODUCTS = {
    "aoi", "source", "catalog", "collections", "datetime", "max_cloud_cover", "scenes", "per_scene", "roots",
    "out", "outputs", "store", "overwrite", "workers", "prompt_batch", "refine", "report", "adapter",
}  # fmt: skip
"""Settings that decide which items are found, or how they are computed, and those that count by what they name."""
_LONGEST_NAME = 120


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
        return self.status in {"partial", "failed"} or (self.status == "done" and self.error is not None)


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
        if settings.adapt.use and run.adapter is None:
            run = run.model_copy(update={"adapter": current_adapter(Path(run.outputs).absolute())})
        info, classes = find_provider(run.model).info(), load_vocabulary(run.vocabulary).class_set(run.classes)
        if run.adapter is not None:  # here, or each item would fail of it
            check_adapter(read_facts(Path(run.adapter)), info.weights_sha256, classes)
        area = shapely.to_wkb(read_aoi(run.aoi).geometry) if run.aoi is not None else b""
        facts = {
            "format": [TILE_FORMAT, PRODUCT_FORMAT],
            "run": run.model_dump(mode="json", exclude={**dict.fromkeys(_NOT_OF_PRODUCTS, True), "scoring": {"feedback"}}),
            **refine_facts(run.refine),
            **adapter_facts(run.options),
            "area": hashlib.sha256(area).hexdigest(),
            "classes": classes.to_list(),
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
        return Ledger(self.outputs / BOOKS / "items.sqlite")

    def key_of(self, entry: Entry) -> Key:
        """What an item is entered under."""
        return Key(name_of(entry), entry.version, self.key)

    def has_settled(self, row: Row) -> bool:
        """True where nothing is left to do: there is no pixel of the area, or the very run is where it was published."""
        if row.status != "done" or (row.product is None and self.settings.products is not None):
            return row.status == "outside"
        folder = Path(row.out)
        manifest = read_manifest(folder)
        return manifest is not None and manifest.get("run_key") == row.run_key and is_whole(folder, manifest)

    def folder_of(self, entry: Entry) -> Path:
        """Run folder of an item: the newest settings' run, in the place of the one before."""
        return self.outputs / name_of(entry)

    @contextmanager
    def claim(self, entry: Entry) -> Iterator[None]:
        """Keep other processes of this host off an item.

        Raises
        ------
        BlockingIOError: one is at it.
        OutputError: the folder cannot be written.
        """
        path = self.outputs / BOOKS / f"{hashlib.sha256(name_of(entry).encode()).hexdigest()[:32]}.lock"
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold(path))
            except BlockingIOError:
                raise
            except OSError as error:
                fix = "Check permissions and disk space."
                raise OutputError("a folder for the archive's runs", f"{self.outputs} ({error})", fix) from error
            yield


def open_archive(changes: Path | dict[str, Any]) -> Archive:
    """The archive of a YAML file, or of what such a file holds.

    Raises
    ------
    RsSegError: it is not what it should be.
    """
    return Archive.of(load_archive(changes))


def name_of(entry: Entry) -> str:
    """What an item is called in an archive, a path of two parts: its collection and id.

    An image or item without a collection shares its name with others: it is told apart by a digest of where it is. What no folder may be
    called is written as in a URL.
    """
    if entry.collection:
        return f"{_as_folder(entry.collection)}/{_as_folder(entry.id)}"
    where = entry.item_href or (entry.image.href if isinstance(entry.image, Image) else "")
    return f"_/{_as_folder(entry.id)}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def _as_folder(name: str) -> str:
    safe = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    # Unpaired surrogates, which JSON can hold, are in no file's name.
    safe = safe.encode("utf-8", "backslashreplace").decode()
    return safe if len(safe.encode()) <= _LONGEST_NAME else f"{safe[: _LONGEST_NAME // 4]}-{hashlib.sha256(safe.encode()).hexdigest()[:16]}"


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
    known, names = archive.ledger.rows(), set[str]()
    new, again, done, given_up = [], [], [], []
    for found in find_entries(archive.run.source or (archive.run.catalog,), query_of(archive.run, area)):
        entry = _made_damaged(found) if name_of(found) in names else found
        names.add(name_of(found))
        row = known.get(archive.key_of(entry))
        if row is None:
            new.append(entry)
        elif archive.has_settled(row):
            done.append(row)
        elif row.status in {"begun", "partial", "failed"} and row.attempts >= archive.settings.attempts and not retry:
            given_up.append(row)
        else:
            again.append(entry)
    # What has failed before may do worse: it comes last.
    return Agenda((*new, *again), tuple(done), tuple(given_up))


def _made_damaged(entry: Entry) -> Entry:
    """The second of two items of one name, whose runs would go into one folder."""
    came = f"another {entry.id} in {entry.collection}: {entry.item_href}"
    return replace(
        entry, version=f"{entry.item_href}", image=CatalogError("ids that are unique in a collection", came, "Rename one of them.")
    )


def do_item(archive: Archive, entry: Entry, do: Do, reporter: Reporter) -> Outcome:
    """Make the run of an item, put it into the catalog of products, and enter what became of it.

    Whatever happens to one item is its own: nothing is raised but what ends the process.
    """
    name, out = name_of(entry), str(archive.folder_of(entry))
    try:
        with archive.claim(entry):
            outcome = _do_claimed(archive, entry, do)
    except BlockingIOError:
        return Outcome(name, "busy", out)
    except RsSegError as error:  # no room for the table, or for the claim
        outcome = Outcome(name, "failed", out, error=str(error))
    if outcome.status == "done" and not archive.settings.keep_tiles:
        with suppress(RsSegError):  # room is made by `rs-seg clean`, too
            clean(Path(out), archive.run.store)
    if outcome.error is not None:
        reporter.note(f"{name} {outcome.status}: {outcome.error}")
    return outcome


def _do_claimed(archive: Archive, entry: Entry, do: Do) -> Outcome:
    key, out, start = archive.key_of(entry), archive.folder_of(entry), time.monotonic()
    before = archive.ledger.find(key)
    if before is not None and archive.has_settled(before):  # while this one waited for its turn
        return Outcome(key.item, before.status, before.out, product=before.product)
    failures = before.attempts if before is not None and before.status in {"begun", "partial", "failed"} else 0
    row = Row(key.item, key.version, key.settings, "begun", failures + 1, _now(), 0.0, str(out), None, None, "a process died over it")
    archive.ledger.enter(row)
    try:
        tried = _try(archive, entry, out, do)
    except BaseException:  # told to stop: this was no try
        archive.ledger.enter(before) if before is not None else archive.ledger.forget(key)
        raise
    row = replace(
        row,
        status=tried.status,
        attempts=failures + 1 if tried.is_own_failure else failures,
        finished=_now(),
        seconds=round(time.monotonic() - start, 3),
        run_key=tried.run_key,
        product=tried.product,
        error=tried.error,
    )
    archive.ledger.enter(row)
    return Outcome(row.item, row.status, row.out, row.seconds, row.product, row.error, tried.classes)


class _Tried(NamedTuple):
    status: Status
    error: str | None = None
    is_own_failure: bool = False
    """False also of what is not the item's fault."""
    run_key: str | None = None
    product: str | None = None
    classes: tuple[dict[str, Any], ...] = ()


def _try(archive: Archive, entry: Entry, out: Path, do: Do) -> _Tried:
    try:
        scene = entry.open(verify=archive.settings.verify_checksums)
        source = entry.item_href or scene.info.href
        summary = do(archive.run.model_copy(update={"source": (source,), "out": str(out), "overwrite": True, "datetime": None}))
    except NothingThereError as error:
        return _Tried("outside", str(error))
    except RsSegError as error:
        return _Tried("failed", str(error), is_own_failure=isinstance(error, CatalogError | RasterError | SegmenterError))
    except Exception as error:  # noqa: BLE001 - a damaged item may raise anything, and the next one shall have its turn
        return _Tried("failed", f"{type(error).__name__}: {' '.join(str(error).split())}", is_own_failure=True)
    failed, product, trouble = summary["tiles"]["failed"], None, None
    if failed:
        trouble = f"{len(failed)} of {summary['tiles']['planned']} tiles failed, the first: {failed[0]['error']}"
    if archive.settings.products is not None:
        try:
            product = add_product(Path(archive.settings.products), out)
        except RsSegError as error:
            trouble = f"published, but not in the catalog of products: {error}"
    facts = (summary["run_key"], product, tuple(summary["classes"]))
    return _Tried("partial" if failed else "done", trouble, bool(failed), *facts)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


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
