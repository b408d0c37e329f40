"""`rs-seg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_command(
    config: Annotated[Path, typer.Option(help="The recipe, for example configs/train/rs-tiny.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the imagery the recipe names.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the checkpoint in --out, or refuse a folder that has one.")
    ] = True,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps, whatever the recipe says.")] = None,
) -> None:
    """Train a model by its recipe; `rs-seg run --model OUT/weights` takes the result."""
    from importlib.metadata import entry_points

    from rs_pipeline.config import read_yaml
    from rs_pipeline.errors import ConfigError

    kind = read_yaml(config).get("model")
    trainers = {e.name: e for e in entry_points(group="rs_pipeline.trainers")}
    if kind not in trainers:
        raise ConfigError(f"a recipe with `model:` one of {', '.join(sorted(trainers))}", f"model: {kind} in {config}", "Mend the recipe.")
    typer.echo(str(trainers[kind].load()(config, data=data, out=out, resume=resume, steps=steps)))
