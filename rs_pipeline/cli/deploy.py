"""`rs-seg deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def deploy_command(
    archive: Annotated[Path, typer.Option(help="The archive's YAML file, as configs/archives/demo.yaml. Deploy again after changing it.")],
    cron: Annotated[str, typer.Option(help="When to run: minute, hour, day, month, day of the week, as '0 3 * * *'.")],
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, as Europe/Berlin.")] = "UTC",
    adapt: Annotated[bool, typer.Option("--adapt", help="Adapt the archive's model on this schedule, instead of segmenting it.")] = False,
    pool: Annotated[str, typer.Option(help="Work pool of process workers, made where there is none.")] = "local",
) -> None:
    """Put an archive on a schedule of the Prefect server at PREFECT_API_URL; a worker of the pool then runs it."""
    from rs_pipeline.archive_config import load_archive
    from rs_pipeline.flows import flow_named

    name = flow_named("deploy")(load_archive(archive), cron=cron, timezone=timezone, pool=pool, adapt=adapt)
    typer.echo(f"{name} at '{cron}' {timezone}; its worker: prefect worker start --pool {pool} --type process")
