"""`rs-seg status`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rs_pipeline.survey import RunStatus

DEFAULT = Path("outputs")
FolderArgument = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help="A run folder, or a folder of runs or of folders of runs. Default: outputs.")
]
StoreOption = Annotated[str | None, typer.Option(help="Path or URL of the tile store, where a run was told one with --set store=…")]
_SHOWN_FAILURES = 3
_WIDEST = 10_000


def status_command(
    folder: FolderArgument = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout, nothing else there.")] = False,
) -> None:
    """Runs and how far they are: finished, partial (some tiles failed), unfinished, moved (finished, its folder gone from where it was)."""
    from rs_pipeline.survey import survey, survey_store

    found = survey_store(store) if store is not None and folder is None else survey(folder or DEFAULT, store)
    if as_json:
        typer.echo(json.dumps([asdict(status) | {"left": status.left} for status in found], ensure_ascii=False))
        return
    _print(found)


def _print(found: Sequence[RunStatus]) -> None:
    # Folders may be called [so] or :so:, which is no markup.
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("run", "state", "tiles", "empty", "failed", "left", "store", box=None, header_style="bold")
    for s in found:
        state = f"{s.state}, at work" if s.held else s.state
        counts = (f"{s.done + s.empty} of {s.planned}", str(s.empty), str(len(s.failed)), str(s.left))
        table.add_row(short(s.out), state, *counts, size(s.store_bytes) if s.store is not None else "-")
    whole = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, whole)  # names are for copying, and states for reading
    console.print(table)
    for s in found:
        for failure in s.failed[:_SHOWN_FAILURES]:
            console.print(f"{short(s.out)}: tile {failure['index']} failed: {failure['error']}", soft_wrap=True)
        if s.state in {"unfinished", "partial"} and not s.held:
            what = "only these are tried" if s.state == "partial" else "it goes on from there"
            console.print(f"{short(s.out)} ({', '.join(s.classes)}): give the same command again, {what}", soft_wrap=True)


def short(path: str) -> str:
    """Relative to where the user stands, if it is below."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
