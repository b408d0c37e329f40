"""`rs-seg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rs_pipeline.cli.catalog import DEFAULT, CatalogOption


def demo_command(
    catalog: CatalogOption = DEFAULT,
    size_px: Annotated[int, typer.Option(help="Side of the scene, pixels of 0.5 m.")] = 4096,
    seed: Annotated[int, typer.Option(help="Another number, another place.")] = 7,
    score: Annotated[Path | None, typer.Option(help="Print how well a run folder agrees with the demo's truth, and make nothing.")] = None,
) -> None:
    """Make the demo scene, its area of interest and its truth, and put the scene into the catalog."""
    folder = catalog.parent / "demo"
    if score is not None:
        _print_score(score, folder / "truth.gpkg")
        return
    from rs_pipeline.catalog_write import add_scenes
    from rs_pipeline.demo import write_demo

    files = write_demo(folder, size_px=size_px, seed=seed)
    add_scenes(catalog, [str(files.scene)], None)
    for path in (files.scene, files.region, files.truth):
        typer.echo(str(path))


def _print_score(run: Path, truth: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from rs_pipeline.evaluate import score_run

    scores = score_run(run, truth)
    table = Table("class", "IoU", "precision", "recall", box=None, header_style="bold")
    for name, row in scores.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("iou", "precision", "recall")))
    Console(highlight=False).print(table)
