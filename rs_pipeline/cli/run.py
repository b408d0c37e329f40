"""`rs-seg run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rs_pipeline.cli.compare import print_changes

if TYPE_CHECKING:
    from rs_pipeline.config import RunSettings

_PARTIAL = 3


def run_command(
    aoi: Annotated[
        str | None, typer.Option(help="GeoJSON, GeoPackage or Shapefile, or minx,miny,maxx,maxy in lon/lat. Default: the whole source.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, separated by commas.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="GeoTIFF, folder of them, or STAC catalog; may be repeated. Default: the configured catalog.")
    ] = None,
    datetime: Annotated[str | None, typer.Option(help="FROM/TO (either may be empty), or one day.")] = None,
    compare_to: Annotated[
        str | None, typer.Option(help="Dates of a second run: both, into OUT/a and OUT/b, and what changed, into OUT/changes.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Run folder. Default: outputs/RUN-ID.")] = None,
    model: Annotated[str | None, typer.Option(help="Installed model, folder of weights, or package.module:callable.")] = None,
    adapter: Annotated[str | None, typer.Option(help="File that `rs-seg adapt` made for this model and these classes.")] = None,
    refine: Annotated[str | None, typer.Option(help="Refinement preset of configs/refine/, or a YAML file. Default: recommended.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel. Default: the model's, or the scene's where coarser.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile, pixels. Default: the model's.")] = None,
    overlap_px: Annotated[int | None, typer.Option(help="Pixels shared by neighbouring tiles. Default: an eighth of a tile.")] = None,
    roads_as_lines: Annotated[bool, typer.Option("--roads-as-lines", help="Centre lines of class road, too, into lines.gpkg.")] = False,
    square: Annotated[
        str | None, typer.Option(help="Classes whose outlines go squared into squares.gpkg, too, separated by commas: building.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Beside layers.gpkg, separated by commas: flatgeobuf, geoparquet, geojson, pmtiles.")
    ] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the layers, as EPSG:4326. Default: that of the run's grid.")] = None,
    cluster: Annotated[str | None, typer.Option(help="in-process, local, cuda, or tcp://HOST:PORT of a Dask scheduler.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes of a local cluster.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Tiles per forward pass. Default: by their size, at most 4.")] = None,
    per_scene: Annotated[bool | None, typer.Option("--per-scene", help="A run of its own for each scene, into OUT/SCENE-ID.")] = None,
    flow: Annotated[bool, typer.Option("--flow", help="As a Prefect flow run: retries per stage, artifacts, logs on its page.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, time a few tiles, print the cost; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON summary on stdout, nothing else there.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML of settings; configs/run.yaml shows all of them.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for any setting; may be repeated.")] = None,
) -> None:
    """Find the scenes that meet an area, segment them, and leave georeferenced class layers.

    Exit codes: 0 done, 1 error, 2 usage, 3 done but some tiles failed and are not observed.
    """
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.config import load_settings

    settings = load_settings(
        config,
        {
            "aoi": aoi,
            "classes": tuple(classes.split(",")) if classes is not None else None,
            "source": tuple(source) if source else None,
            "datetime": datetime,
            "per_scene": per_scene,
            "out": out,
            "model": model,
            "adapter": adapter,
            "refine.preset": refine,
            "gsd_m": gsd,
            "tile_px": tile_px,
            "overlap_px": overlap_px,
            "vectors.formats": _names(formats),
            "vectors.crs": crs,
            "vectors.lines": ("road",) if roads_as_lines else None,
            "vectors.square": _names(square),
            "workers.cluster": cluster,
            "workers.count": workers,
            "workers.batch_size": batch_size,
        },
        sets or (),
    )
    if dry_run:
        _do_dry_run(settings, compare_to, as_json=as_json)
        return
    from rs_pipeline.plan import plan_run
    from rs_pipeline.run import execute

    if compare_to is not None:
        found = _do_dates(settings, compare_to, flow=flow)
    elif flow:
        found = _do_flow(settings)
    else:
        with TerminalReporter() as reporter:
            if settings.per_scene:
                from rs_pipeline.per_scene import each_scene

                found = each_scene(settings, lambda plan: execute(plan, reporter), reporter)
            else:
                found = execute(plan_run(settings), reporter)
    runs = found.get("runs", [found])
    if as_json:
        _print_json(found)
    else:
        for summary in runs:
            _print_summary(summary)
        if "changes" in found:
            print_changes(found["changes"])
    if found.get("failed") or any(summary["tiles"]["failed"] for summary in runs):
        raise typer.Exit(_PARTIAL)


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text is not None else None


def _do_flow(settings: RunSettings) -> dict[str, Any]:
    from rs_pipeline.errors import UsageError
    from rs_pipeline.flows import flow_named

    if settings.per_scene:
        raise UsageError("--flow or --per-scene", "both", "Scenes one by one are an archive: rs-seg archive run CONFIG --flow.")
    found: dict[str, Any] = flow_named("run-aoi")(settings)
    return found


def _do_dates(settings: RunSettings, other: str, *, flow: bool) -> dict[str, Any]:
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.plan import plan_run
    from rs_pipeline.run import execute
    from rs_pipeline.two_dates import run_dates

    with TerminalReporter() as reporter:
        return run_dates(settings, other, _do_flow if flow else lambda dated: execute(plan_run(dated), reporter), reporter)


def _do_dry_run(settings: RunSettings, compare_to: str | None, *, as_json: bool) -> None:
    from rs_pipeline.dry_run import describe_dry_run
    from rs_pipeline.plan import plan_run

    if compare_to is not None:
        from rs_pipeline.two_dates import settings_of_dates

        found = {"runs": [describe_dry_run(plan_run(dated)) for dated in settings_of_dates(settings, compare_to)]}
    elif settings.per_scene:
        from rs_pipeline.cli.progress import TerminalReporter
        from rs_pipeline.per_scene import each_scene

        with TerminalReporter() as reporter:
            found = each_scene(settings, describe_dry_run, reporter)
    else:
        found = describe_dry_run(plan_run(settings))
    if as_json:
        _print_json(found)
        return
    for report in found.get("runs", [found]):
        _print_dry_run(report)


def _print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False))


def _print_summary(summary: dict[str, Any]) -> None:
    from rs_pipeline.line_layers import LINES
    from rs_pipeline.products import REPORT
    from rs_pipeline.square_layers import SQUARES

    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("layer", "polygons", "area", "mean score", box=None, header_style="bold")
    for row in summary["classes"]:
        score = f"{row['score_mean']:.2f}" if row["score_mean"] is not None else "-"
        table.add_row(row["name"], f"{row['polygons']:,}", f"{row['area_m2'] / 1e4:,.1f} ha", score)
    console.print(table)
    tiles, pixels = summary["tiles"], summary["pixels"]
    unseen = pixels["not_observed"] / max(1, pixels["aoi"])
    console.print(
        f"{tiles['planned']} tiles: {tiles['computed']} computed, {tiles['reused']} reused, {tiles['empty']} without data, "
        f"{len(tiles['failed'])} failed; {unseen:.1%} of the area not observed; {sum(summary['seconds'].values()):.0f} s",
        soft_wrap=True,
    )
    for name in sorted({"layers.gpkg", LINES, SQUARES, REPORT} & set(summary["files"])):
        console.print(f"{_short(Path(summary['out']))}/{name}", soft_wrap=True)


def _print_dry_run(report: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    scenes = Table("scene", "date", "pixels", "size", "CRS", box=None, header_style="bold")
    for s in report["scenes"]:
        scenes.add_row(s["id"], s["datetime"] or "-", f"{s['gsd_m']:g} m", f"{s['size_px'][0]} x {s['size_px'][1]}", s["crs"])
    console.print(scenes)
    grid = report["grid"]
    console.print(f"grid    {grid['height']} x {grid['width']} px of {report['gsd_m']:g} m in {grid['crs']}", soft_wrap=True)
    console.print(f"tiles   {report['tiles']['planned']}, of them {report['tiles']['stored']} in the store already")
    console.print(f"workers {report['workers']['kind']}, {report['workers']['count']}")
    console.print(f"memory  {report['memory_bytes'] / 1e9:.1f} GB")
    console.print(f"disk    {report['disk_bytes'] / 1e9:.2f} GB")
    console.print(f"time    {report['seconds']:.0f} s ({report['seconds_per_tile']:.2f} s per tile, timed just now)")
    console.print(f"out     {_short(Path(report['out']))}", soft_wrap=True)
    for note in report["notes"]:
        console.print(f"note: {note}", soft_wrap=True)


def _short(path: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
