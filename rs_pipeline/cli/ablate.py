"""`rs-seg ablate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def ablate_command(
    config: Annotated[Path, typer.Option(help="The grid, for example configs/ablate/losses.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder of the labelled data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for results, adapters and the table; finished rows in it are kept.")] = Path(
        "runs/ablations"
    ),
    model: Annotated[str | None, typer.Option(help="The model that is adapted. Default: the grid's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")] = False,
) -> None:
    """Adapt and refine a model in many ways, each with the same seeds and budget, and print what became of its scores.

    Writes NAME.md and NAME.csv, NAME that of the grid's file: several grids may share a folder, and the rows they have in common. A
    command that was stopped goes on when it is given again. Exit codes: 0 done, 1 error, 2 usage.
    """
    from rs_pipeline.ablation import Ablation, find_ground, load_ablation
    from rs_pipeline.ablation_table import as_csv, as_markdown, table_of
    from rs_pipeline.ablation_table import as_json as table_as_json
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.errors import OutputError

    settings = load_ablation(config, model)
    ablation = Ablation(settings, find_ground(data), out)
    with TerminalReporter() as reporter:
        lines = table_of(ablation.run(reporter))
    try:
        for name, text in ((f"{config.stem}.md", as_markdown(lines)), (f"{config.stem}.csv", as_csv(lines))):
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError("a folder for the table", f"{out} ({error})", "Give another --out.") from error
    if as_json:
        found = {"title": settings.title, "model": ablation.info.weights_sha256, "rows": table_as_json(lines)}
        typer.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(f"{settings.title}\n\n{as_markdown(lines)}")
