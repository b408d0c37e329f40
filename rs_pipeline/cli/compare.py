"""`rs-seg compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rs_pipeline.cli.status import short


def compare_command(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder: before.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder: after.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make. Default: changes-A-B beside RUN_A.")] = None,
    tolerance: Annotated[
        str, typer.Option(help="How far outlines may be misplaced: metres (2m) or pixels (1px); thinner changes along them are none.")
    ] = "1px",
    min_area: Annotated[float, typer.Option(min=0, help="Smallest polygon that is kept, square metres.")] = 0.0,
    connectivity: Annotated[int, typer.Option(help="4: pixels that share a side are one polygon; 8: a corner will do.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that holds another comparison.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON summary on stdout, nothing else there.")] = False,
) -> None:
    """What each class gained and lost from one run to another: changes.gpkg and changes.json.

    Runs of two dates, or of two models, over one place; classes are matched by name.
    """
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.compare import Rules, compare_runs
    from rs_pipeline.errors import UsageError

    if connectivity not in {4, 8}:
        raise UsageError("--connectivity 4 or 8", str(connectivity), "Choose one.")
    rules = Rules(tolerance, min_area, 8 if connectivity == 8 else 4)
    with TerminalReporter() as reporter:
        found = compare_runs(run_a, run_b, out, rules, overwrite=overwrite, reporter=reporter)
        for note in found["notes"]:
            reporter.note(note)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_changes(found)


def print_changes(found: dict[str, Any]) -> None:
    """The table of a comparison."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("class", "A", "B", "gained", "lost", "unchanged", "not comparable", box=None, header_style="bold")
    for row in found["classes"]:
        unknown = row["not_comparable_a_m2"] + row["not_comparable_b_m2"]
        areas = (row["a_m2"], row["b_m2"], row["gained_m2"], row["lost_m2"], row["unchanged_m2"], unknown)
        table.add_row(row["name"], *(_hectares(area) for area in areas))
    console.print(table)
    only = f"{_hectares(found['observed_in_a_only_m2'])} observed in A only, {_hectares(found['observed_in_b_only_m2'])} in B only"
    ignored = sum(row["gained_ignored_m2"] + row["lost_ignored_m2"] for row in found["classes"])
    console.print(f"compared {_hectares(found['compared_m2'])}; {only}", soft_wrap=True)
    thin = f"thinner than {found['rules']['tolerance_m']:.3g} m along an outline"
    console.print(f"left out {_hectares(ignored)}: {thin}, or smaller than {found['rules']['min_area_m2']:g} m²", soft_wrap=True)
    console.print(f"{short(found['out'])}/changes.gpkg", soft_wrap=True)


def _hectares(area_m2: float) -> str:
    return f"{area_m2 / 1e4:,.2f} ha"
