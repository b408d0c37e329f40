"""Two dates of one place in one go: a run of each, and what changed between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

    Parameters
    ----------
    do: makes a run of its settings and gives the content of its `run.json`; a run that is complete already is not to be done again.

    Returns
    -------
    `runs`: what `do` gave, `settings.datetime` first; `changes`: what `compare_runs` gave.

    Raises
    ------
    RsSegError: as `settings_of_dates`, or one of the runs or the comparison cannot be done; what is finished stays.
    """
    runs = []
    for dated in settings_of_dates(settings, other):
        reporter.note(f"run of {dated.datetime}")
        runs.append(do(dated))
    a, b = (Path(run["out"]) for run in runs)
    rules = Rules(min_area_m2=settings.vectors.min_area_m2, connectivity=settings.vectors.connectivity)
    changes = compare_runs(a, b, a.parent / CHANGES, rules, overwrite=True, reporter=reporter)
    for note in changes["notes"]:
        reporter.note(note)
    return {"runs": runs, "changes": changes}


def _name(settings: RunSettings, other: str) -> str:
    classes = re.sub(r"[^a-z0-9]+", "-", "-".join(settings.classes))[:60].strip("-")
    facts = {key: value for key, value in settings.model_dump(mode="json", exclude=_HOW).items() if value not in (None, [])}
    vectors = {key: value for key, value in settings.vectors.decisive().items() if key not in _DELIVERY}
    return f"{classes}-{digest({'settings': facts, 'vectors': vectors, 'other': other})[:8]}"
