"""`rs-seg catalog`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True)

DEFAULT = Path("data_catalog/catalog.json")
CatalogOption = Annotated[Path, typer.Option(help="The catalog's JSON file.")]


@app.command("add")
def add_command(
    sources: Annotated[list[str], typer.Argument(help="GeoTIFFs, or folders of them.")],
    catalog: CatalogOption = DEFAULT,
    datetime: Annotated[str | None, typer.Option(help="When they were taken. Default: what the file or its name says.")] = None,
) -> None:
    """Put GeoTIFFs into the catalog; an image that is there already is written anew, not doubled."""
    from rs_pipeline.catalog import parse_interval
    from rs_pipeline.catalog_write import add_scenes
    from rs_pipeline.errors import UsageError

    taken = parse_interval(datetime)
    if datetime is not None and (taken.start is None or "/" in datetime):
        raise UsageError("one date or time for --datetime", datetime, "Write when the images were taken, as 2026-01-31.")
    added, renewed = add_scenes(catalog, sources, taken.start)
    typer.echo(f"{len(added)} added, {len(renewed)} renewed in {catalog}")


@app.command("list")
def list_command(
    catalog: CatalogOption = DEFAULT,
    aoi: Annotated[str | None, typer.Option(help="Only scenes that meet it; as for `rs-seg run`.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Only scenes of FROM/TO.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Scenes of the catalog."""
    from rs_pipeline.aoi import read_aoi
    from rs_pipeline.catalog import find_scenes, parse_interval
    from rs_pipeline.extent import LON_LAT

    area = read_aoi(aoi).in_crs(LON_LAT) if aoi is not None else None
    scenes = find_scenes([str(catalog)], parse_interval(datetime), area)
    if as_json:
        rows = [{"id": s.id, "datetime": s.iso_datetime, "gsd_m": round(s.info.gsd_m, 4), "href": s.info.href} for s in scenes]
        typer.echo(json.dumps(rows))
        return
    table = Table("scene", "date", "pixels", "size", "bands", "CRS", box=None, header_style="bold")
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = True, "fold"  # ids are for copying
    for s in scenes:
        size = f"{s.info.height} x {s.info.width}"
        table.add_row(s.id, s.iso_datetime or "-", f"{s.info.gsd_m:.3g} m", size, f"{s.info.count} {s.info.dtype}", s.info.crs.to_string())
    Console(highlight=False).print(table)


@app.command("validate")
def validate_command(catalog: CatalogOption = DEFAULT) -> None:
    """Check the catalog against the STAC schemas, and that every image is there and can be read."""
    from rs_pipeline.catalog import read_items
    from rs_pipeline.catalog_write import validate_catalog
    from rs_pipeline.errors import CatalogError

    problems = validate_catalog(catalog)
    if problems:
        raise CatalogError("a valid catalog", f"{len(problems)} problems: {'; '.join(problems)}", "Mend or remove these items.")
    typer.echo(f"{len(read_items(catalog))} items, all valid")
