"""`rs-seg models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_command() -> None:
    """Installed models."""
    from rs_pipeline.segmenter import describe_models

    for name, description in describe_models().items():
        typer.echo(f"{name}\t{description}")


@app.command("show")
def show_command(model: Annotated[str, typer.Argument(help="Installed model, folder of weights, or package.module:callable.")]) -> None:
    """Everything a model says of itself, as JSON."""
    from rs_pipeline.segmenter import find_provider

    typer.echo(json.dumps(asdict(find_provider(model).info()), indent=2, ensure_ascii=False))
