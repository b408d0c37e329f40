"""Rows of the layers as Arrow tables: their fields and types, which docs/outputs.md explains."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.grid import Grid
from rs_pipeline.mending import polygon_parts
from rs_pipeline.spool import GEOMETRY_COLUMN, GEOMETRY_FIELD
from rs_pipeline.vectorize import COVERAGE_STATES, Features

CLASS_SCHEMA = pa.schema(
    [
        GEOMETRY_FIELD,
        ("id", pa.int64()),
        ("class", pa.string()),
        ("area_m2", pa.float64()),
        ("score_mean", pa.float64()),
        ("edge_not_observed", pa.float64()),
        ("scene", pa.string()),
        ("datetime", pa.timestamp("ms", tz="UTC")),
    ]
)
COVERAGE_SCHEMA = pa.schema([GEOMETRY_FIELD, ("state", pa.string()), ("area_m2", pa.float64())])
SCENES_SCHEMA = pa.schema(
    [
        GEOMETRY_FIELD,
        ("id", pa.string()),
        ("datetime", pa.timestamp("ms", tz="UTC")),
        ("gsd_m", pa.float64()),
        ("href", pa.string()),
        ("item", pa.string()),
        ("pixels", pa.int64()),
        ("area_m2", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class SceneFootprint:
    """A scene as the layer `scenes` shows it."""

    id: str
    datetime: str | None
    """ISO 8601; a time without zone is UTC."""
    gsd_m: float
    """Metres per pixel of the scene itself."""
    href: str
    """Path or URL of the image."""
    item: str | None
    """Path or URL of its STAC item."""
    outline: BaseGeometry
    """Of its pixels, in the grid's CRS; an empty one makes no feature."""
    pixels: int
    """Pixels of the grid that were taken from it."""


SceneColumns = tuple[NDArray[np.object_], NDArray[np.datetime64]]
"""Ids, and times in UTC, by source index, 0…255; None and NaT where there is no scene."""


def scene_columns(scenes: Sequence[SceneFootprint]) -> SceneColumns:
    """What features say of the scene they come from."""
    ids = np.full(NOT_OBSERVED + 1, None, dtype=object)
    times = np.full(NOT_OBSERVED + 1, np.datetime64("NaT"), "datetime64[ms]")
    for index, scene in enumerate(scenes):
        ids[index] = scene.id
        if scene.datetime is not None:
            moment = dt.datetime.fromisoformat(scene.datetime)
            times[index] = np.datetime64(moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment, "ms")
    return ids, times


def class_table(batch: Features, chosen: NDArray[np.int64], name: str, scenes: SceneColumns) -> pa.Table:
    """Some objects of a batch, (rows,) by CLASS_SCHEMA: those of the class `name`."""
    ids, times = scenes
    source = batch.source[chosen]
    columns = [
        batch.geometry.take(pa.array(chosen)),
        batch.id[chosen],
        [name] * len(chosen),
        batch.area_m2[chosen],
        batch.score_mean[chosen],
        batch.edge_not_observed[chosen],
        ids[source],
        times[source],
    ]
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, CLASS_SCHEMA, strict=True)]
    return pa.table(arrays, schema=CLASS_SCHEMA)


def coverage_table(batch: Features) -> pa.Table:
    """Polygons of `polygonize_coverage`, (rows,) by COVERAGE_SCHEMA."""
    states = [COVERAGE_STATES[int(value)] for value in batch.value]
    return pa.table([batch.geometry, states, batch.area_m2], schema=COVERAGE_SCHEMA)


def scenes_table(scenes: Sequence[SceneFootprint], grid: Grid) -> pa.Table:
    """Where the scenes lie, cut to the grid, (rows,) by SCENES_SCHEMA; those that only touch it are left out."""
    _, times = scene_columns(scenes)
    frame = shapely.box(*grid.bounds)
    cut = [polygon_parts(shapely.intersection(scene.outline, frame)) for scene in scenes]
    rows = [
        {
            GEOMETRY_COLUMN: shapely.to_wkb(shapely.multipolygons(parts)),
            "id": scene.id,
            "datetime": times[index].item(),
            "gsd_m": scene.gsd_m,
            "href": scene.href,
            "item": scene.item,
            "pixels": scene.pixels,
            "area_m2": scene.pixels * abs(grid.transform.determinant),
        }
        for index, (scene, parts) in enumerate(zip(scenes, cut, strict=True))
        if len(parts)
    ]
    return pa.Table.from_pylist(rows, schema=SCENES_SCHEMA)
