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
from rs_pipeline.outline import lon_lat_outline

EDGE_PX = 256
"""Longer edges get points of their own, since a straight line is none elsewhere: what is left bends by less than a hundredth of a pixel."""
_TEAR = 50.0
"""Steps so many times as long as most are over an edge of the CRS."""
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


def check_place(grid: Grid, target: CRS, *, lines: bool = False) -> None:
    """Refuse a CRS that cannot express the place of a grid, or that tears it where we do not cut.

    Parameters
    ----------
    lines: whether centre lines go there too, which are never cut.

    Raises
    ------
    OutputError: it cannot.
    """
    place = lon_lat_outline(grid.crs, grid.transform, grid.height, grid.width)
    west, _, east, _ = place.bounds if not place.is_empty else (0.0, 0.0, 0.0, 0.0)
    is_cut = east - west > 180  # it lies on both sides of the antimeridian, or around a pole
    cuts = target.is_geographic or target.to_string() in _TURNS
    holds_pole = is_cut and shapely.unary_union(place).geom_type == "Polygon"
    if grid.crs != target and ((cuts and (holds_pole or (is_cut and lines))) or (not cuts and _is_torn(grid, target))):
        fix = "Leave out --crs, or choose one made for the place."
        raise OutputError("a CRS that holds the place in one piece", f"{target.name}, with an edge in it", fix)
    Reprojection(grid.crs, target, max(grid.shape) * grid.gsd_m)(pa.array([shapely.to_wkb(shapely.box(*grid.bounds))]), multi=False)


def _is_torn(grid: Grid, target: CRS) -> bool:
    """True where neighbours on the grid's outline are far apart in another CRS."""
    outline = shapely.segmentize(shapely.box(*grid.bounds).exterior, max(grid.shape) * grid.gsd_m / 256)
    x, y = Transformer.from_crs(grid.crs, target, always_xy=True).transform(*shapely.get_coordinates(outline).T)
    steps = np.hypot(np.diff(x), np.diff(y))
    return bool(steps.max() > _TEAR * np.median(steps))


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
