"""GeoParquet 1.1 with a bounding box per row, which readers skip by: https://geoparquet.org/releases/v1.1.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from rs_pipeline.spool import GEOMETRY_COLUMN

VERSION = "1.1.0"
BBOX_COLUMN = "bbox"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_BBOX = pa.field(BBOX_COLUMN, pa.struct([pa.field(side, pa.float64(), nullable=False) for side in _SIDES]))
_ROW_GROUP_BYTES = 2**24


def write_geoparquet(path: Path, rows: pa.RecordBatchReader, crs: CRS) -> int:
    """Write rows, in their order, in groups of some 16 MB.

    Parameters
    ----------
    rows: the column `geometry` holds WKB of polygons and multipolygons.

    Returns
    -------
    How many rows the file says it has.

    Raises
    ------
    pyarrow.ArrowException, OSError: it cannot be written.
    """
    schema = pa.schema([pa.field(GEOMETRY_COLUMN, pa.binary()) if f.name == GEOMETRY_COLUMN else f for f in rows.schema]).append(_BBOX)
    types: set[str] = set()
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for table in _groups(rows):
            shapes = shapely.from_wkb(table.column(GEOMETRY_COLUMN))
            bounds = shapely.bounds(shapes)
            types.update(shape.geom_type for shape in shapes[np.unique(shapely.get_type_id(shapes), return_index=True)[1]])
            extent = np.concatenate([np.fmin(extent[:2], bounds[:, :2].min(axis=0)), np.fmax(extent[2:], bounds[:, 2:].max(axis=0))])
            file.write_table(pa.table([*table.columns, _boxes(bounds)], schema=schema))
        file.add_key_value_metadata({"geo": json.dumps(_metadata(crs, types, extent))})
    return int(pq.read_metadata(path).num_rows)


def _groups(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in rows:
        waiting.append(batch)
        if sum(b.nbytes for b in waiting) >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _boxes(bounds: NDArray[np.float64]) -> pa.StructArray:
    return pa.StructArray.from_arrays([pa.array(side) for side in bounds.T], fields=list(_BBOX.type))


def _metadata(crs: CRS, types: set[str], extent: NDArray[np.float64]) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(types),
        "crs": crs.to_json_dict(),
        "covering": {"bbox": {side: [BBOX_COLUMN, side] for side in _SIDES}},
    }
    if types:
        column["bbox"] = extent.tolist()
    return {"version": VERSION, "primary_column": GEOMETRY_COLUMN, "columns": {GEOMETRY_COLUMN: column}}
