"""`rs-seg clean`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from rs_pipeline.cli.status import DEFAULT, FolderArgument, StoreOption, short, size


def clean_command(
    folder: FolderArgument = None,
    store: StoreOption = None,
    abandoned: Annotated[bool, typer.Option("--all", help="Also tiles of runs that never finished, or have failed tiles.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")] = False,
) -> None:
    """Remove the tile stores of finished runs, and half-written run folders. Run folders stay; so does what a process holds."""
    from rs_pipeline.clean import clean

    cleaned = clean(folder or (None if store is not None else DEFAULT), store, abandoned=abandoned, dry_run=dry_run)
    if as_json:
        facts = asdict(cleaned) | {"freed_bytes": cleaned.freed_bytes, "dry_run": dry_run}
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False, emoji=False)
    for removed in cleaned.removed:
        console.print(f"{'would remove' if dry_run else 'removed'} {short(removed.path)}, {size(removed.bytes)}", soft_wrap=True)
    for kept in cleaned.kept:
        console.print(f"kept {short(kept.path)}: {short(kept.run) + ' ' if kept.run else ''}{kept.why}", soft_wrap=True)
    console.print(f"{size(cleaned.freed_bytes)} {'to free' if dry_run else 'freed'}")
