"""A GeoPackage of squared outlines, styled as the class layers are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from rs_pipeline.classes import Class
from rs_pipeline.geopackage import write_geopackage
from rs_pipeline.grid import Grid
from rs_pipeline.moved_rows import rows_in_crs
from rs_pipeline.spool import GEOMETRY_COLUMN, GEOMETRY_FIELD, Spool, as_output_error, scratch_beside
from rs_pipeline.squares import square_outlines
from rs_pipeline.styles import class_style, write_styles
from rs_pipeline.vectorize import Features

SQUARES = "squares.gpkg"
_AT_ONCE = 10_000
"""Objects that are squared together: some 50 MB."""
_SCHEMA = pa.schema(
    [
        GEOMETRY_FIELD,
        ("class", pa.string()),
        ("object", pa.int64()),
        ("area_m2", pa.float64()),
        ("iou", pa.float64()),
        ("squared", pa.bool_()),
    ]
)


@dataclass(slots=True)
class SquaresSummary:
    """What a layer of squared outlines holds."""

    count: int = 0
    squared: int = 0
    """Others keep an outline of their own."""
    area_m2: float = 0.0


def square_layer(name: str) -> str:
    """Name of the layer of a class's squared outlines."""
    return f"{name}_squares"


def write_squares(
    path: Path, grid: Grid, classes: Sequence[Class], features: Iterable[Features], crs: CRS | None = None
) -> dict[str, SquaresSummary]:
    """Write a layer of squared outlines of each class, one for each object; gives their sums by class.

    Batches are written as they come: memory does not grow with their number. Layers that stay empty are there too. In another CRS than
    the grid's all layers are multipolygons, since the antimeridian may cut one in two, and areas stay those on the grid.

    Attributes: `object`, id of the polygon of pixels that share sides; `area_m2` of the outline; `iou`, intersection over union with the
    object; `squared`, false where the object keeps an outline of its own.

    Parameters
    ----------
    path: the GeoPackage to make; one that is there is replaced.
    grid: metric; its pixels were traced.
    features: objects of pixels that share sides, not simplified; others than of `classes` are passed over.
    crs: of the layers; None: the grid's.

    Raises
    ------
    OutputError: the file cannot be written, or the CRS cannot express the place.
    """
    sums = {item.name: SquaresSummary() for item in classes}
    with as_output_error(path):
        path.unlink(missing_ok=True)
    with scratch_beside(path) as scratch:
        spool = Spool(scratch)
        with as_output_error(path):
            for name in sums:
                spool.create(square_layer(name), _SCHEMA, "Polygon")
        for batch in features:
            for item in classes:
                chosen = np.flatnonzero(batch.value == item.value)
                for start in range(0, len(chosen), _AT_ONCE):
                    table = _squares(batch, chosen[start : start + _AT_ONCE], item.name, grid.gsd_m, sums[item.name])
                    with as_output_error(path):
                        spool.add(square_layer(item.name), table)
        with as_output_error(path):
            layers = {name: rows_in_crs(layer, grid, crs or grid.crs, "multi") for name, layer in spool.close().items()}
            write_geopackage(path, layers, crs or grid.crs)
            styles = {square_layer(item.name): class_style("class", item.name, item.colour, sums[item.name].area_m2) for item in classes}
            write_styles(path, GEOMETRY_COLUMN, styles)
    return sums


def _squares(batch: Features, chosen: NDArray[np.int64], name: str, step_m: float, total: SquaresSummary) -> pa.Table:
    """Rows of some objects of a batch, all of the class `name`, counted into its sums."""
    polygons = shapely.from_wkb(batch.geometry.take(pa.array(chosen)).to_numpy(zero_copy_only=False))
    found = square_outlines(polygons, step_m)
    areas = shapely.area(found.geometry)
    total.count += len(chosen)
    total.squared += int(found.squared.sum())
    total.area_m2 += float(areas.sum())
    wkb = pa.array(shapely.to_wkb(found.geometry), pa.binary())
    return pa.table([wkb, [name] * len(chosen), batch.id[chosen], areas, found.iou, found.squared], schema=_SCHEMA)
