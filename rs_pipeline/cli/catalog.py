"""`rs-seg catalog`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rs_pipeline.query import Query

app = typer.Typer(no_args_is_help=True)

DEFAULT = Path("data_catalog/catalog.json")
CatalogOption = Annotated[Path, typer.Option(help="The catalog's JSON file.")]
SourceOption = Annotated[str, typer.Option("--catalog", help="The catalog's JSON file, or its web address.")]


@app.command("add")
def add_command(
    sources: Annotated[list[str], typer.Argument(help="GeoTIFFs, or folders of them.")],
    catalog: CatalogOption = DEFAULT,
    datetime: Annotated[str | None, typer.Option(help="When they were taken. Default: what the file or its name says.")] = None,
    cloud_cover: Annotated[float | None, typer.Option(min=0, max=100, help="How much of them clouds hide, percent.")] = None,
    checksum: Annotated[bool, typer.Option(help="Put each file's SHA-256 into its item, for which it is read as a whole.")] = True,
) -> None:
    """Put GeoTIFFs into the catalog. Those that are there and did not change are left alone; those that did are written anew."""
    from rs_pipeline.catalog_write import add_scenes
    from rs_pipeline.errors import UsageError
    from rs_pipeline.query import parse_interval

    taken = parse_interval(datetime)
    if datetime is not None and (taken.start is None or "/" in datetime):
        raise UsageError("one date or time for --datetime", datetime, "Write when the images were taken, as 2026-01-31.")
    done = add_scenes(catalog, sources, taken.start, cloud_cover=cloud_cover, checksum=checksum)
    typer.echo(f"{len(done.added)} added, {len(done.renewed)} renewed, {len(done.unchanged)} unchanged in {catalog}")


@app.command("add-product")
def add_product_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    catalog: CatalogOption = DEFAULT,
) -> None:
    """Put runs into the catalog's collection `products`; one that is there already is written anew."""
    from rs_pipeline.catalog_products import add_product

    for folder in folders:
        typer.echo(f"{folder} is {add_product(catalog, folder)} in {catalog}")


@app.command("list")
def list_command(
    catalog: SourceOption = str(DEFAULT),
    aoi: Annotated[str | None, typer.Option(help="Only scenes that meet it; as for `rs-seg run`.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Only scenes of FROM/TO.")] = None,
    products: Annotated[bool, typer.Option("--products", help="The runs that were put into it, not the scenes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Scenes of the catalog, or the products of runs."""
    from rs_pipeline.aoi import read_aoi
    from rs_pipeline.extent import LON_LAT
    from rs_pipeline.query import Query, parse_interval
    from rs_pipeline.stac_sources import PRODUCTS

    area = read_aoi(aoi).in_crs(LON_LAT) if aoi is not None else None
    query = Query(parse_interval(datetime), area, (PRODUCTS,) if products else ())
    listing = _list_products(catalog, query) if products else _list_scenes(catalog, query)
    if as_json:
        typer.echo(json.dumps(listing.facts))
        return
    table = Table(*listing.columns, box=None, header_style="bold")
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = True, "fold"  # ids are for copying
    for row in listing.rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(table)


class _Listing(NamedTuple):
    """The same twice: for programs, and for people."""

    facts: list[dict[str, Any]]
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _list_scenes(catalog: str, query: Query) -> _Listing:
    from rs_pipeline.catalog import find_scenes

    scenes = find_scenes([catalog], query)
    facts = [{"id": s.id, "datetime": s.iso_datetime, "gsd_m": round(s.info.gsd_m, 4), "href": s.info.href} for s in scenes]
    rows = [
        (
            s.id,
            s.iso_datetime or "-",
            f"{s.info.gsd_m:.3g} m",
            f"{s.info.height} x {s.info.width}",
            f"{s.info.count} {s.info.dtype}",
            s.info.crs.to_string(),
        )
        for s in scenes
    ]
    return _Listing(facts, ("scene", "date", "pixels", "size", "bands", "CRS"), rows)


def _list_products(catalog: str, query: Query) -> _Listing:
    from rs_pipeline.stac_sources import DamagedItem, date_of_item, find_items

    facts, rows = [], []
    for item in find_items(catalog, query):
        if isinstance(item, DamagedItem):
            raise item.error
        taken, classes = date_of_item(item), [*item.properties.get("rs_seg:prompts", {})]
        date = taken.isoformat().replace("+00:00", "Z") if taken else None
        finished = item.properties.get("processing:datetime")
        assets = {key: asset.get_absolute_href() for key, asset in item.assets.items()}
        facts.append({"id": item.id, "datetime": date, "classes": classes, "finished": finished, "assets": assets})
        rows.append((item.id, date or "-", ", ".join(classes), finished or "-", assets.get("layers") or "-"))
    return _Listing(facts, ("product", "scene's date", "classes", "finished", "layers"), rows)


@app.command("validate")
def validate_command(
    catalog: SourceOption = str(DEFAULT),
    verify: Annotated[bool, typer.Option("--verify", help="Hold every byte of local images against their checksums, too.")] = False,
) -> None:
    """Check the catalog against the STAC schemas, and that every image is there and can be read."""
    from rs_pipeline.catalog_check import validate_catalog
    from rs_pipeline.errors import CatalogError

    items, problems = validate_catalog(catalog, verify=verify)
    if problems:
        raise CatalogError("a valid catalog", f"{len(problems)} problems: {'; '.join(problems)}", "Mend or remove these items.")
    typer.echo(f"{items} items, all valid")
