"""`rs-seg archive`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True)

_PARTIAL = 3
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The archive's YAML file, as configs/archives/demo.yaml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]


@app.command("run")
def run_command(
    config: ConfigArgument,
    retry: Annotated[bool, typer.Option("--retry", help="Also items that failed as often as they may.")] = False,
    flow: Annotated[bool, typer.Option("--flow", help="As a Prefect flow run: retries, artifacts, several items at a time.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment each item of an archive that is new, changed, or failed before.

    Exit codes: 0 done, 1 error, 2 usage, 3 some items failed or have failed tiles.
    """
    from rs_pipeline.archive_config import load_archive

    settings = load_archive(config)
    if flow:
        from rs_pipeline.flows import flow_named

        found = flow_named("run-archive")(settings, retry=retry)
    else:
        from rs_pipeline.archive import Archive, run_archive
        from rs_pipeline.cli.progress import TerminalReporter
        from rs_pipeline.plan import plan_run
        from rs_pipeline.run import execute

        with TerminalReporter() as reporter:
            found = run_archive(Archive.of(settings), lambda run: execute(plan_run(run), reporter), reporter, retry=retry)
    _print_json(found) if as_json else _print_items(found)
    if found["status"] != "complete":
        raise typer.Exit(_PARTIAL)


@app.command("adapt")
def adapt_command(
    config: ConfigArgument,
    flow: Annotated[bool, typer.Option("--flow", help="As a Prefect flow run, with artifacts.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Adapt the archive's model to its newest items, and promote the adapter where it is more consistent than the current one.

    Exit codes: 0 done, promoted or not; 1 error, or no adapter came of it; 2 usage.
    """
    from rs_pipeline.archive_config import load_archive

    settings = load_archive(config)
    if flow:
        from rs_pipeline.flows import flow_named

        trial = flow_named("adapt-archive")(settings)
    else:
        from rs_pipeline.cli.progress import TerminalReporter
        from rs_pipeline.promotion import adapt_archive, open_for_trial

        with TerminalReporter() as reporter:
            trial = adapt_archive(open_for_trial(settings), reporter)
    _print_json(trial) if as_json else _print_trial(trial)
    if trial["error"] is not None:
        raise typer.Exit(1)


@app.command("status")
def status_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """What of an archive is done, to do, and given up; the catalog is asked, nothing is computed."""
    from dataclasses import asdict

    from rs_pipeline.archive import find_agenda, name_of, open_archive

    archive = open_archive(config)
    agenda = find_agenda(archive)
    if as_json:
        to_do, rows = [name_of(entry) for entry in agenda.todo], {"done": agenda.done, "given_up": agenda.given_up}
        _print_json(
            {"archive": archive.settings.name, "to_do": to_do} | {key: [asdict(row) for row in value] for key, value in rows.items()}
        )
        return
    console = Console(highlight=False, markup=False, emoji=False)
    counts = f"{len(agenda.done)} done, {len(agenda.todo)} to do, {len(agenda.given_up)} given up"
    console.print(f"{archive.settings.name}: {len(agenda.done) + len(agenda.todo) + len(agenda.given_up)} items, {counts}", soft_wrap=True)
    known = archive.ledger.rows()
    for entry in agenda.todo:
        before = known.get(archive.key_of(entry))
        console.print(f"{name_of(entry)}: {f'{before.status}, {before.error}' if before else 'new'}", soft_wrap=True)
    for row in agenda.given_up:
        console.print(f"{row.item}: given up after {row.attempts} times: {row.error}", soft_wrap=True)


def _print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False))


def _print_trial(trial: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    scores = ", ".join(f"{name} {'-' if score is None else f'{score:.4f}'}" for name, score in trial["consistency"].items())
    console.print(f"trial {trial['number']}: consistency on {', '.join(trial['held_out'])}: {scores}", soft_wrap=True)
    verdict = "promoted" if trial["promoted"] else "not more consistent, kept the current one"
    console.print(trial["error"] or f"{verdict}: {trial['adapter']}", soft_wrap=True)


def _print_items(found: dict[str, Any]) -> None:
    # Ids may be called [so] or :so:, which is no markup.
    console = Console(highlight=False, markup=False, emoji=False)
    if found["items"]:
        table = Table("item", "status", "layers", box=None, header_style="bold")
        table.columns[0].no_wrap, table.columns[0].overflow = True, "fold"  # ids are for copying
        for item in found["items"]:
            layers = ", ".join(f"{layer['name']} {layer['area_m2'] / 1e4:,.1f} ha" for layer in item["classes"])
            table.add_row(item["item"], item["status"], layers)
        console.print(table)
    for item in (*found["items"], *found["given_up"]):
        if item["error"] and item["status"] != "outside":
            console.print(f"{item['item']}: {item['error']}", soft_wrap=True)
    counts = f"{len(found['items'])} tried now, {found['already_done']} done before, {len(found['given_up'])} given up"
    console.print(f"{found['archive']}: {found['found']} items: {counts}; {found['status']}; runs in {found['outputs']}", soft_wrap=True)
