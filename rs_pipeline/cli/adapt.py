"""`rs-seg adapt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def adapt_command(
    classes: Annotated[str, typer.Option(help="Class names, separated by commas: at least two.")],
    out: Annotated[Path, typer.Option(help="The adapter file to write, NAME.safetensors.")],
    aoi: Annotated[
        str | None, typer.Option(help="GeoJSON, GeoPackage or Shapefile, or minx,miny,maxx,maxy in lon/lat. Default: the whole source.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="GeoTIFF, folder of them, or STAC catalog; may be repeated. Default: the configured catalog.")
    ] = None,
    datetime: Annotated[str | None, typer.Option(help="FROM/TO (either may be empty), or one day.")] = None,
    base: Annotated[str | None, typer.Option(help="The model to adapt: installed model, or folder of weights. Default: rs-tiny.")] = None,
    config: Annotated[str | None, typer.Option(help="File of configs/adapt/, or a path. Default: the one that fits the model.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of these settings; may be repeated.")] = None,
    run_config: Annotated[Path | None, typer.Option(help="YAML of run settings, for how imagery is read: bands, nodata, gsd_m.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the checkpoint beside --out, or refuse to where there is one.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")] = False,
) -> None:
    """Adapt a model to imagery without labels; `rs-seg run --adapter OUT` takes the result.

    What it may not make worse is how far the model says the same of two views of tiles that are held out; it refuses to write an adapter
    that does. Exit codes: 0 done, 1 error, 2 usage.
    """
    from rs_pipeline.adapt import adapt
    from rs_pipeline.adapt_settings import default_config, load_adapt_settings
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.config import load_settings

    settings = load_settings(
        run_config,
        {
            "aoi": aoi,
            "classes": tuple(name.strip() for name in classes.split(",") if name.strip()),
            "source": tuple(source) if source else None,
            "datetime": datetime,
            "model": base,
        },
    )
    adapting = load_adapt_settings(config or default_config(settings.model), sets or ())
    with TerminalReporter() as reporter:
        made = adapt(settings, adapting, out, reporter, resume=resume)
    typer.echo(json.dumps(made, ensure_ascii=False)) if as_json else _print(made)


def _print(made: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(
        f"held-out consistency {made['consistency_before']:.4f} → {made['consistency']:.4f}, "
        f"best at step {made['best_step']} of {made['steps']}",
        soft_wrap=True,
    )
    console.print(f"{made['adapter']} ({made['bytes'] / 1e6:.1f} MB), curves in {made['curves'][1]}", soft_wrap=True)
