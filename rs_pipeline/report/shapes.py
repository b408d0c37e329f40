"""Polygons of a run for a web page: the largest first, no finer than a screen shows, in little room."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer

from rs_pipeline.errors import OutputError
from rs_pipeline.geopackage import plain_path, quoted
from rs_pipeline.grid import Grid
from rs_pipeline.layers import COVERAGE_LAYER
from rs_pipeline.vectorize import COVERAGE_STATES, UNOBSERVED

MAX_POLYGONS = 20_000
"""Of a page, shared by its layers."""
MAX_POINTS = 300_000
_SCREEN_PX = 4096
"""Points closer than the map's width over this are drawn as one, unless the run's pixels are coarser."""
_COARSEST_PX = 2048
"""Where there are too many points, they are thinned out up to here; then the smallest polygons are left out, never the largest."""
_BATCH = 1000
_METRES_PER_DEGREE = 111_320.0
_COLUMNS = ("id", "area_m2", "score_mean", "edge_not_observed", "scene", "datetime")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A layer that a page shows."""

    name: str
    """What the page calls it."""
    colour: str
    """As CSS has it."""
    table: str
    """Layer of the GeoPackage."""
    where: str = "1"
    """SQL condition on its rows."""


def wanted_layers(summary: Mapping[str, Any]) -> list[Wanted]:
    """The layers of a run, the classes in their order, then what was not observed."""
    layers = [Wanted(c["name"], "#{:02x}{:02x}{:02x}".format(*c["colour"]), c["name"]) for c in summary["classes"]]
    state = COVERAGE_STATES[UNOBSERVED]
    if summary["pixels"]["not_observed"]:
        layers.append(Wanted(state, "#808080", COVERAGE_LAYER, f"state = '{state}'"))
    return layers


def pack_layers(package: Path, grid: Grid, wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """The polygons of a GeoPackage, ready for JSON.

    Each layer has its `total` of polygons, shown or not; columns of those shown, the largest first, texts as places in `texts` of
    their column; `unit`, degrees; `origin`, longitude and latitude. Its `shapes` have for each polygon its parts, each a list of
    rings: whole numbers of units east and north, the first from the origin, each other from the one before. The first point of a
    ring is not repeated.

    Raises
    ------
    OutputError: the GeoPackage cannot be read.
    """
    try:
        counts = [_count(package, layer) for layer in wanted]
        shares = share_out(MAX_POLYGONS, counts)
        points = MAX_POINTS // max(1, len(wanted))
        packed = [_pack_layer(package, grid, layer, share, points) for layer, share in zip(wanted, shares, strict=True)]
    except (DataSourceError, DataLayerError, sqlite3.Error, OSError) as error:
        raise OutputError(f"layers that can be read in {package}", str(error), "Run again.") from error
    return [layer | {"total": count} for layer, count in zip(packed, counts, strict=True)]


def share_out(budget: int, needs: Sequence[int]) -> list[int]:
    """A budget for several: who needs less than an even share leaves the rest to the others."""
    shares = [0] * len(needs)
    order = sorted(range(len(needs)), key=lambda i: needs[i])
    for place, i in enumerate(order):
        shares[i] = min(needs[i], budget // (len(order) - place))
        budget -= shares[i]
    return shares


def _count(package: Path, layer: Wanted) -> int:
    with closing(sqlite3.connect(f"{package.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        ((count,),) = connection.execute(f"SELECT count(*) FROM {quoted(layer.table)} WHERE {layer.where}")  # noqa: S608 - quoted
    return int(count)


def _pack_layer(package: Path, grid: Grid, layer: Wanted, most: int, most_points: int) -> dict[str, Any]:
    width_m = max(grid.shape) * grid.gsd_m
    tolerance = max(grid.gsd_m, width_m / _SCREEN_PX)
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    parts = [np.empty(0, object)]
    for columns, geometries in _largest(package, layer, most, grid.crs):
        # Batch by batch: the polygons of the largest runs, whole, would not fit into memory.
        parts.append(_simplified(geometries, tolerance))
        for name in _COLUMNS:
            rows[name] += columns.get(name, [None] * len(geometries))
    order = np.argsort(-np.asarray(rows["area_m2"], np.float64), kind="stable")
    shapes = np.concatenate(parts)[order]
    while _points(shapes) > most_points and tolerance < width_m / (1 if _points(shapes[:1]) > most_points else _COARSEST_PX):
        tolerance *= 2
        shapes = _simplified(shapes, tolerance)
    shapes = shapes[np.cumsum(shapely.get_num_coordinates(shapes)) <= most_points]
    return {
        "name": layer.name,
        "colour": layer.colour,
        "tolerance_m": tolerance,
        **{name: _short([values[i] for i in order[: len(shapes)]]) for name, values in rows.items()},
        **_in_degrees(shapes, grid, tolerance),
    }


def _points(shapes: NDArray[np.object_]) -> int:
    return int(shapely.get_num_coordinates(shapes).sum())


def _simplified(shapes: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    # Keeping the topology takes twenty times as long, and only those that would vanish need it to be seen.
    simple: NDArray[np.object_] = shapely.simplify(shapes, tolerance, preserve_topology=False)
    gone = shapely.is_empty(simple)
    simple[gone] = shapely.simplify(shapes[gone], tolerance)
    return simple


def _largest(package: Path, layer: Wanted, most: int, crs: CRS) -> Iterator[tuple[dict[str, list[Any]], NDArray[np.object_]]]:
    """Columns, and geometries in a CRS, of the largest polygons of a layer, in batches."""
    table = quoted(layer.table)
    # Ids are sorted, not rows: those hold the geometries.
    chosen = f"SELECT fid FROM {table} WHERE {layer.where} ORDER BY area_m2 DESC, fid LIMIT {most}"  # noqa: S608 - quoted
    sql = f"SELECT * FROM {table} WHERE fid IN ({chosen})"  # noqa: S608 - quoted
    with (
        plain_path(package) as path,
        pyogrio.raw.open_arrow(path, sql=sql, batch_size=_BATCH, use_pyarrow=True) as (about, batches),
    ):
        for batch in batches:
            columns = {name: batch.column(name).to_pylist() for name in _COLUMNS if name in batch.schema.names}
            geometries = shapely.from_wkb(batch.column(about["geometry_name"]).to_numpy(zero_copy_only=False))
            yield columns, _in_crs(geometries, CRS.from_user_input(about["crs"]), crs)


def _in_crs(geometries: NDArray[np.object_], given: CRS, crs: CRS) -> NDArray[np.object_]:
    """Layers may be delivered in a CRS that is not the grid's."""
    if given == crs:
        return geometries
    points = np.column_stack(Transformer.from_crs(given, crs, always_xy=True).transform(*shapely.get_coordinates(geometries).T))
    moved: NDArray[np.object_] = shapely.set_coordinates(geometries, points)
    return moved


def _in_degrees(shapes: NDArray[np.object_], grid: Grid, tolerance: float) -> dict[str, Any]:
    unit = 10.0 ** math.floor(math.log10(tolerance / _METRES_PER_DEGREE / 5))
    to_degrees = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform
    origin = np.array(to_degrees(*(grid.transform @ (grid.width / 2, grid.height / 2))))
    if not len(shapes):
        return {"unit": unit, "origin": origin.tolist(), "shapes": []}
    # One part or several: written alike.
    multi = np.array([shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in shapes])
    _, points, (ring_at, polygon_at, shape_at) = shapely.to_ragged_array(multi, include_z=False)
    offset = np.column_stack(to_degrees(points[:, 0], points[:, 1])) - origin
    offset[:, 0] = (offset[:, 0] + 180) % 360 - 180
    whole = np.rint(offset / unit).astype(np.int64)
    steps = np.diff(whole, axis=0, prepend=np.zeros((1, 2), np.int64))
    steps[ring_at[:-1]] = whole[ring_at[:-1]]
    flat = steps.ravel().tolist()
    rings = [flat[2 * start : 2 * (stop - 1)] for start, stop in pairwise(ring_at)]
    polygons = [rings[start:stop] for start, stop in pairwise(polygon_at)]
    packed = [polygons[start:stop] for start, stop in pairwise(shape_at)]
    return {"unit": unit, "origin": origin.tolist(), "shapes": packed}


def _short(column: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """Numbers to four digits; texts and times once each, and where they stand."""
    if not any(isinstance(value, str | dt.datetime) for value in column):
        return [float(f"{value:.4g}") if isinstance(value, float) else value for value in column]
    texts = [f"{value:%Y-%m-%d %H:%M} UTC" if isinstance(value, dt.datetime) else value for value in column]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return {"texts": list(places), "places": [places[text] for text in texts]}
