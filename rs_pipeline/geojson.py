"""GeoJSON (RFC 7946): GDAL takes twice as long to write the same layers."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from rs_pipeline.mending import mend
from rs_pipeline.spool import GEOMETRY_COLUMN


def write_geojson(path: Path, rows: pa.RecordBatchReader, digits: int) -> int:
    """Write rows, in their order, one feature per line; polygons that rounding breaks are mended, and none becomes empty (`mend`).

    Parameters
    ----------
    rows: the column `geometry` holds WKB in EPSG:4326; the column `id` is the feature's id, too.
    digits: of coordinates, after the point.

    Returns
    -------
    How many features were written.

    Raises
    ------
    OSError: it cannot be written.
    """
    written = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for batch in rows:
            shapes = _rounded(shapely.from_wkb(batch.column(GEOMETRY_COLUMN)), digits)
            facts = batch.drop_columns([GEOMETRY_COLUMN]).to_pylist()
            for properties, geometry in zip(facts, shapely.to_geojson(shapes), strict=True):
                text = json.dumps(properties, ensure_ascii=False, default=_iso)
                head = f'{{"type": "Feature", "id": {json.dumps(properties["id"])}'
                file.write(f'{"," if written else ""}\n{head}, "properties": {text}, "geometry": {geometry}}}')
                written += 1
        file.write("\n]}\n")
    return written


def _rounded(shapes: NDArray[Any], digits: int) -> NDArray[Any]:
    """Valid shapes of rounded coordinates, outer rings counterclockwise."""
    rounded = shapely.transform(shapes, lambda points: np.round(points, digits))
    mend(rounded)
    oriented: NDArray[Any] = shapely.orient_polygons(rounded)
    return oriented


def _iso(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
