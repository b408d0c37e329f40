"""The report of a run: one page with a map and its figures, complete in itself, that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rs_pipeline.errors import OutputError
from rs_pipeline.plan import RunPlan
from rs_pipeline.products import REPORT, write_whole
from rs_pipeline.quicklook import web_picture
from rs_pipeline.report.page import build_page


def draw_report(plan: RunPlan, folder: Path, summary: Mapping[str, Any]) -> str:
    """The page of a run.

    Parameters
    ----------
    folder: holds its products, not yet under the run's name.
    summary: what `run.json` will say.

    Raises
    ------
    RsSegError: scenes or products cannot be read.
    """
    return build_page(folder, summary, web_picture(plan))


def write_report(folder: Path, page: str) -> None:
    """Write `report.html`.

    Raises
    ------
    OutputError: it cannot be written.
    """
    try:
        write_whole(folder / REPORT, page)
    except OSError as error:
        came, fix = f"{folder / REPORT} ({error})", "Free disk space, or say --set report=false."
        raise OutputError("room to write the report", came, fix) from error
