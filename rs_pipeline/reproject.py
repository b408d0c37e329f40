"""Polygons from one CRS into another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from rs_pipeline.errors import ConfigError, OutputError
from rs_pipeline.grid import Grid

EDGE_PX = 256
"""Longer edges get points of their own, since a straight line is none elsewhere: what is left bends by less than a hundredth of a pixel."""
_TURNS = {"EPSG:4326": 360.0, "EPSG:3857": 2 * 20037508.342789244}
"""Once around the world, for the CRSs whose edge is the antimeridian."""


def read_crs(text: str) -> CRS:
    """A CRS from a code, WKT or PROJ text.

    Raises
    ------
    ConfigError: it is none that places in the plane can have.
    """
    fix = "Give one as EPSG:4326 with --crs."
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError("a coordinate reference system", repr(text), fix) from error
    if not (crs.is_projected or crs.is_geographic):
        raise ConfigError("a projected or geographic CRS", crs.name, fix)
    return crs


def check_place(grid: Grid, target: CRS) -> None:
    """Refuse a CRS that cannot express the place of a grid.

    Raises
    ------
    OutputError: it cannot.
    """
    Reprojection(grid.crs, target, max(grid.shape) * grid.gsd_m)(pa.array([shapely.to_wkb(shapely.box(*grid.bounds))]), multi=False)


class Reprojection:
    """Polygons as WKB into another CRS; they stay valid, and keep apart what the antimeridian cuts.

    Parameters
    ----------
    edge: longest edge that is taken over as it is, in units of `source`.
    """

    def __init__(self, source: CRS, target: CRS, edge: float) -> None:
        self._transformer = Transformer.from_crs(source, target, always_xy=True)
        self._target, self._edge = target, edge
        self._turn = _TURNS.get(target.to_string(), 360.0 if target.is_geographic else None)

    def __call__(self, wkb: pa.BinaryArray, *, multi: bool) -> pa.BinaryArray:
        """The polygons, in their order.

        Parameters
        ----------
        multi: every one as a multipolygon; otherwise only those in several parts.

        Raises
        ------
        OutputError: the CRS cannot express the place.
        """
        moved: NDArray[Any] = shapely.transform(shapely.segmentize(shapely.from_wkb(wkb), self._edge), self._to_target)
        if self._turn is not None:
            _cut_at_the_edge(moved, self._turn)
        mend(moved)
        if multi:
            single = np.flatnonzero(shapely.get_type_id(moved) == shapely.GeometryType.POLYGON)
            moved[single] = shapely.multipolygons(moved[single, None])
        return pa.array(shapely.to_wkb(moved), pa.binary())

    def _to_target(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = np.column_stack(self._transformer.transform(*points.T))
        if not np.isfinite(moved).all():
            name = self._target.to_string()
            raise OutputError("a CRS that can express the place", f"{name}, which cannot", "Choose another --crs or --format.")
        return moved


def mend(shapes: NDArray[Any]) -> None:
    """Make polygons valid whose points were moved, in place; valid ones stay as they are."""
    broken = np.flatnonzero(~shapely.is_valid(shapes))
    shapes[broken] = [_areas(shapely.make_valid(shape)) for shape in shapes[broken]]


def _cut_at_the_edge(shapes: NDArray[Any], turn: float) -> None:
    """Shapes on both sides of the antimeridian become shapes of two parts, in place."""
    left, _, right, _ = shapely.bounds(shapes).T
    world = shapely.box(-turn / 2, -turn, turn / 2, turn)
    for index in np.flatnonzero(right - left > turn / 2):
        east = shapely.transform(shapes[index], lambda p: np.column_stack([p[:, 0] % turn, p[:, 1]]))
        west = shapely.transform(east, lambda p: p - (turn, 0))
        shapes[index] = _areas(shapely.union_all([shapely.make_valid(part).intersection(world) for part in (east, west)]))


def _areas(shape: shapely.Geometry) -> shapely.Geometry:
    """What of a shape is polygons."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type in {"Polygon", "MultiPolygon"}]
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)
