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
    from rs_pipeline.segmenter import find_provider, known_models

    for name in known_models():
        info = find_provider(name).info()
        typer.echo(f"{name}\t{info.gsd_range_m[0]:g}…{info.gsd_range_m[1]:g} m\t{info.description}")


@app.command("show")
def show_command(model: Annotated[str, typer.Argument(help="Installed model, folder of weights, or package.module:callable.")]) -> None:
    """Everything a model says of itself, as JSON."""
    from rs_pipeline.segmenter import find_provider

    typer.echo(json.dumps(asdict(find_provider(model).info()), indent=2, ensure_ascii=False))
