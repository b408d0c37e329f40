"""Rows of a layer in the CRS that a file wants, made of the grid's own geometry while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa
import shapely
from pyproj import CRS

from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.reproject import Reprojection
from rs_pipeline.spool import GEOMETRY_COLUMN, Rows

Form = Literal["multi", "any", "apart"]
"""Multi: all are multipolygons; any: polygons and multipolygons; apart: what the antimeridian cuts has a row for each of its parts."""


def rows_in_crs(layer: Rows, grid: Grid, crs: CRS, form: Form) -> Rows:
    """Rows of a layer in a CRS, with as many in memory at once as the layer's batches have; in the grid's own CRS, as they are.

    Parameters
    ----------
    layer: of polygons and multipolygons in the grid's CRS.
    """
    return layer if crs == grid.crs else _MovedRows(layer, Reprojection(grid, crs), form)


class _MovedRows:
    """Rows that are moved batch by batch; none is lost, and none has an empty geometry (`Reprojection`)."""

    def __init__(self, layer: Rows, move: Reprojection, form: Form) -> None:
        self.rows = layer.rows
        self.geometry_type = "MultiPolygon" if form == "multi" else "Unknown"
        self._layer, self._move, self._form = layer, move, form

    @contextmanager
    def read(self) -> Iterator[pa.RecordBatchReader]:
        """All rows, in the layer's order.

        Raises
        ------
        OutputError: the CRS cannot express the place; told whatever the reader, such as GDAL, makes of it.
        """
        told: list[OutputError] = []
        with self._layer.read() as stored:

            def batches() -> Iterator[pa.RecordBatch]:
                try:
                    yield from map(self._moved, stored)
                except OutputError as error:
                    told.append(error)
                    raise

            try:
                yield pa.RecordBatchReader.from_batches(stored.schema, batches())
            finally:
                if told:
                    raise told[0]

    def _moved(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        at = batch.schema.get_field_index(GEOMETRY_COLUMN)
        shapes = self._move(shapely.from_wkb(batch.column(at)))
        if self._form == "multi":
            single = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
            shapes[single] = shapely.multipolygons(shapes[single, None])
        elif self._form == "apart" and self._move.is_apart(shapes).any():
            shapes, row = shapely.get_parts(shapes, return_index=True)
            batch = batch.take(pa.array(row))
        return batch.set_column(at, batch.schema.field(at), pa.array(shapely.to_wkb(shapes), pa.binary()))
