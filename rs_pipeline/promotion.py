"""An archive's model adapted to its newest items: tried, compared with the current adapter, and promoted only when more consistent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rs_pipeline.adapt import adapt, read_tiles
from rs_pipeline.adapt_settings import AdaptSettings, default_config, load_adapt_settings
from rs_pipeline.adaptation import UnlabelledTiles, as_adaptable
from rs_pipeline.adapters import check_adapter, read_facts
from rs_pipeline.aoi import Aoi, read_aoi
from rs_pipeline.archive import Archive, name_of
from rs_pipeline.archive_books import AdapterBooks
from rs_pipeline.archive_config import ArchiveSettings
from rs_pipeline.catalog import Entry, Scene, find_entries
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import NoSceneError, OutputError, RsSegError, SegmenterError
from rs_pipeline.imagery import query_of
from rs_pipeline.keys import digest
from rs_pipeline.locks import hold
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import find_provider
from rs_pipeline.vocabulary import load_vocabulary

Do = Callable[[str, Callable[[], Any]], Any]
"""Does a stage, given its name; for those who try again, or show what goes on."""
_EPOCH = dt.datetime.min.replace(tzinfo=dt.UTC)


def adapt_archive(archive: Archive, reporter: Reporter, do: Do = lambda _, stage: stage()) -> dict[str, Any]:
    """One trial: adapt to the newest items, compare on the held-out ones, promote the more consistent.

    What is compared is held-out consistency (`rs_pipeline.adaptation.Adaptable.consistency`) on items that no trial learns from, always
    the same ones. A trial that fails is entered, too, and changes nothing.

    Returns
    -------
    The trial as the history has it: `adapter`, `promoted`, `consistency` of `new`, `current` and `plain`, `items`, `error`.

    Raises
    ------
    RsSegError: nothing was tried: the catalog cannot be read, or holds too few items.
    """
    books, held = AdapterBooks(archive.outputs), ExitStack()
    try:
        books.folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(hold(books.folder / "trial.lock"))
    except BlockingIOError as error:
        raise OutputError("one trial at a time", f"another at {books.folder}", "Wait for it.") from error
    except OSError as error:
        raise OutputError(
            "a folder for the archive's adapters", f"{books.folder} ({error})", "Check permissions and disk space."
        ) from error
    with held:
        return _try(archive, books, reporter, do)


def open_for_trial(settings: ArchiveSettings) -> Archive:
    """An archive whose adapter is to be made anew: what was promoted before is not put on, whether it still fits or not.

    Raises
    ------
    RsSegError: as `rs_pipeline.archive.Archive.of`.
    """
    return Archive.of(settings.model_copy(update={"adapt": settings.adapt.model_copy(update={"use": False})}))


def _try(archive: Archive, books: AdapterBooks, reporter: Reporter, do: Do) -> dict[str, Any]:
    chosen = archive.settings.adapt
    adapting = load_adapt_settings(chosen.config or default_config(archive.run.model), rows=[chosen.settings])
    learned, held = do("choose", lambda: _choose(archive, books))
    reporter.note(f"to learn from: {', '.join(learned)}; held out: {', '.join(held)}")
    number, current = len(books.history()) + 1, books.current()
    # By what decides it, too: what a killed trial left is gone on with only where it is the same.
    what = digest({"items": {name: entry.version for name, entry in learned.items()}, "settings": adapting.model_dump(mode="json")})
    out = books.folder / f"adapter-{number:04}-{what[:8]}.safetensors"
    trial: dict[str, Any] = {
        "number": number,
        "finished": "",
        "adapter": str(out),
        "items": list(learned),
        "held_out": list(held),
        "promoted": False,
        "consistency": {"new": None, "current": None, "plain": None},
        "error": None,
    }
    run = archive.run.model_copy(update={"adapter": None, "datetime": None})
    try:
        made = do("adapt", lambda: adapt(run, adapting, out, reporter, scenes=_open(learned, reporter)))
        trial["learned"] = {key: made[key] for key in ("consistency_before", "consistency", "steps", "tiles", "bytes")}
        trial["consistency"] = do("compare", lambda: _compare(archive, current, adapting, held, out, reporter))
    except RsSegError as error:
        trial["error"] = str(error)
        reporter.note(f"no adapter: {error}")
    scores = trial["consistency"]
    rivals = [score for score in (scores["current"], scores["plain"]) if score is not None]
    trial["promoted"] = scores["new"] is not None and scores["new"] > max(rivals, default=-1.0)
    trial["finished"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    books.enter(trial)
    return trial


def _choose(archive: Archive, books: AdapterBooks) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The newest items, and those that are held out: fixed when the first trial is made.

    Raises
    ------
    CatalogError: the catalog cannot be read. NoSceneError: there are too few items, or a held-out one is gone.
    """
    settings = archive.settings.adapt
    area = read_aoi(archive.run.aoi) if archive.run.aoi is not None else None
    entries, names = _newest_first(archive.run, area), books.held_out()
    if names is None:
        if len(entries) <= settings.held_out:
            came = f"{len(entries)}, of which {settings.held_out} are to be held out"
            raise NoSceneError("items to learn from, and items to hold out", came, "Add items, or lower adapt.held_out.")
        names = list(entries)[: settings.held_out]
        books.keep_held_out(names)
    # They stay what they are when they are older than what the archive looks back to.
    known = entries if all(name in entries for name in names) else _newest_first(archive.run.model_copy(update={"datetime": None}), area)
    gone = [name for name in names if name not in known]
    if gone:
        fix = f"Bring it back, or delete {books.folder / 'held-out.json'}: others are chosen, and older trials cannot be compared."
        raise NoSceneError("the items that adapters are compared on", f"a catalog without {', '.join(gone)}", fix)
    learned = {name: entry for name, entry in entries.items() if name not in names}
    if not learned:
        raise NoSceneError("items to learn from", "none but those that are held out", "Add items.")
    return dict(list(learned.items())[: settings.newest]), {name: known[name] for name in names}


def _newest_first(run: RunSettings, area: Aoi | None) -> dict[str, Entry]:
    found = find_entries(run.source or (run.catalog,), query_of(run, area))
    return {name_of(entry): entry for entry in sorted(found, key=lambda e: (e.datetime or _EPOCH, name_of(e)), reverse=True)}


def _open(entries: dict[str, Entry], reporter: Reporter) -> list[Scene]:
    """Their scenes; one that cannot be read is left out and told of.

    Raises
    ------
    RsSegError: none can be read.
    """
    scenes: list[Scene] = []
    trouble: RsSegError | None = None
    for name, entry in entries.items():
        try:
            scenes.append(entry.open())
        except RsSegError as error:
            reporter.note(f"{name} is left out: {error}")
            trouble = error
    if not scenes and trouble is not None:
        raise trouble
    return scenes


def _compare(
    archive: Archive, current: dict[str, Any] | None, adapting: AdaptSettings, held: dict[str, Entry], new: Path, reporter: Reporter
) -> dict[str, float | None]:
    """Held-out consistency of the new adapter, the current one, and the plain model; None for a current one that no longer fits."""
    run = archive.run.model_copy(update={"adapter": None, "datetime": None})
    provider = as_adaptable(find_provider(run.model), run.model)
    info, classes = provider.info(), load_vocabulary(run.vocabulary).class_set(run.classes)
    scenes: Sequence[Scene] = _open(held, reporter)
    tiles: UnlabelledTiles = read_tiles(run, adapting, info, reporter, scenes)

    def consistency(adapter: str | None) -> float:
        return provider.consistency(run.model_copy(update={"adapter": adapter}).options, classes, tiles, None)

    found = None
    if current is not None:
        try:
            check_adapter(read_facts(Path(current["adapter"])), info.weights_sha256, classes)
            found = consistency(current["adapter"])
        except SegmenterError as error:
            reporter.note(f"the current adapter does not count: {error}")
    return {"new": consistency(str(new)), "current": found, "plain": consistency(None)}
