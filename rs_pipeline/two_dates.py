"""Two dates of one place in one go: a run of each, and what changed between them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rs_pipeline.changes_folder import read_changes
from rs_pipeline.compare import Rules, compare_runs
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.keys import digest
from rs_pipeline.plan import STORES
from rs_pipeline.products import read_manifest
from rs_pipeline.query import parse_interval
from rs_pipeline.reporting import Reporter

CHANGES = "changes"
_HOW = {"out", "outputs", "store", "overwrite", "report", "compile", "prompt_batch", "workers", "vectors"}
_DELIVERY = {"formats", "crs", "lines", "square", "licence"}
"""Of `vectors`. These and `_HOW` do not say what is compared, so they are no part of its folder's name."""


def settings_of_dates(settings: RunSettings, other: str) -> tuple[RunSettings, RunSettings]:
    """Settings of two runs, of `settings.datetime` into OUT/a and of `other` into OUT/b; their tiles go where those of a run OUT would.

    Without `out`, OUT is named by the settings that say what is compared; those that are not used are left out, so that one more in a
    later version is no other comparison. Whether a folder holds these very runs they know themselves.

    Raises
    ------
    UsageError: a date is missing or none, or scenes are to be kept apart.
    OutputError: OUT is a run itself.
    """
    if settings.datetime is None:
        raise UsageError("--datetime beside --compare-to", "none", "Give both, each FROM/TO or one day.")
    if settings.per_scene:
        raise UsageError("--compare-to or --per-scene", "both", "Compare the runs of single scenes with `rs-seg compare`.")
    for dates in (settings.datetime, other):
        parse_interval(dates)
    out = Path(settings.out) if settings.out is not None else Path(settings.outputs) / _name(settings, other)
    if read_manifest(out) is not None:
        raise OutputError("a folder for two runs and their changes", f"{out}, which is a run itself", "Choose another --out.")
    store = settings.store or str(out.absolute().parent / STORES)
    before = settings.model_copy(update={"out": str(out / "a"), "store": store})
    return before, before.model_copy(update={"out": str(out / "b"), "datetime": other})


def run_dates(settings: RunSettings, other: str, do: Callable[[RunSettings], dict[str, Any]], reporter: Reporter) -> dict[str, Any]:
    """Make both runs, and compare them with the tolerance of `Rules` and the settings' least area and connectivity.

    A comparison that is in OUT/changes already is replaced where it is of these runs by these rules, where its runs have been replaced
    since, or with `overwrite`; another one is somebody's, made with rules of his own, and stays.

    Parameters
    ----------
    do: makes a run of its settings and gives the content of its `run.json`; a run that is complete already is not to be done again.

    Returns
    -------
    `runs`: what `do` gave, `settings.datetime` first; `changes`: what `compare_runs` gave.

    Raises
    ------
    RsSegError: as `settings_of_dates`, or one of the runs or the comparison cannot be done, as where another one is in its place; what is
        finished stays.
    """
    runs, folders = [], []
    for dated in settings_of_dates(settings, other):
        reporter.note(f"run of {dated.datetime}")
        runs.append(do(dated))
        folders.append(Path(str(dated.out)).absolute())  # not as the runs have it: they may have been moved since
    a, b = folders
    rules = Rules(min_area_m2=settings.vectors.min_area_m2, connectivity=settings.vectors.connectivity)
    folder = a.parent / CHANGES
    overwrite = settings.overwrite or _is_of_no_use(read_changes(folder) or {}, list(zip(folders, runs, strict=True)), rules)
    changes = compare_runs(a, b, folder, rules, overwrite=overwrite, reporter=reporter)
    for note in changes["notes"]:
        reporter.note(note)
    return {"runs": runs, "changes": changes}


def _is_of_no_use(changes: Mapping[str, Any], runs: Sequence[tuple[Path, Mapping[str, Any]]], rules: Rules) -> bool:
    """Whether a comparison says nothing that the one to be made will not: of these runs by these rules, or of runs that are no more.

    Parameters
    ----------
    changes: content of a `changes.json`; what it lacks speaks for keeping it.
    runs: folder and content of the `run.json` of both.
    """
    try:
        sides = [(changes[name], folder, run) for name, (folder, run) in zip("ab", runs, strict=True)]
        in_these_folders = all(side["out"] == str(folder) for side, folder, _ in sides)
        of_these_runs = all(side["run_key"] == run["run_key"] for side, _, run in sides)
        then = dt.datetime.fromisoformat(changes["finished"])
        is_older = any(then < dt.datetime.fromisoformat(run["finished"]) for _, run in runs)
        by_these_rules = all(changes["rules"][name] == getattr(rules, name) for name in ("tolerance", "min_area_m2", "connectivity"))
    except (LookupError, TypeError, ValueError):
        return False
    return (by_these_rules and (in_these_folders or of_these_runs)) or (in_these_folders and (is_older or not of_these_runs))


def _name(settings: RunSettings, other: str) -> str:
    classes = re.sub(r"[^a-z0-9]+", "-", "-".join(settings.classes))[:60].strip("-")
    facts = {key: value for key, value in settings.model_dump(mode="json", exclude=_HOW).items() if value not in (None, [])}
    vectors = {key: value for key, value in settings.vectors.decisive().items() if key not in _DELIVERY}
    return f"{classes}-{digest({'settings': facts, 'vectors': vectors, 'other': other})[:8]}"
