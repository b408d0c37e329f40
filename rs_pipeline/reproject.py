"""Polygons from one CRS into another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.enums import TransformDirection
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import ConfigError, OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.mending import areas, mend, polygon_parts, strip_along

_EDGE_PX = 256
"""Longer edges get points of their own in any case."""
_BEND_PX = 0.01
_STEPS = 256
"""Along a side of the grid."""
_TEAR = 50.0
"""Steps so many times as long as most are over an edge of the CRS."""
_LON_LAT = CRS.from_epsg(4326)
_WEB_MERCATOR = CRS.from_epsg(3857)
_WEB_MERCATOR_TURN = 2 * 20037508.342789244
_POLE = 90.0
OTHER_CRS = "Leave out --crs, or choose one made for the place."


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
    try:
        Transformer.from_crs(_LON_LAT, crs)
    except ProjError as error:  # of the moon, say
        raise ConfigError("a CRS that places on Earth can have", crs.name, fix) from error
    return crs


def check_place(grid: Grid, target: CRS, *, lines: bool = False, fix: str = OTHER_CRS) -> None:
    """Refuse a CRS that cannot express the place of a grid, or that tears it where we do not cut.

    Parameters
    ----------
    lines: whether centre lines go there too, which are never cut.
    fix: what the error tells to do.

    Raises
    ------
    OutputError: it cannot.
    """
    if grid.crs == target:
        return
    move = Reprojection(grid, target)
    outline = shapely.segmentize(shapely.box(*grid.bounds).exterior, max(grid.shape) * grid.gsd_m / _STEPS)
    points = move.points(shapely.get_coordinates(outline), fix)
    if move.turn is None:
        steps = np.hypot(*np.diff(points, axis=0).T)
        torn = bool(steps.max() > _TEAR * np.median(steps))
    else:
        torn = _holds_pole(grid) or (lines and bool(np.ptp(points[:, 0]) > move.turn / 2))
    if torn:
        raise OutputError("a CRS that holds the place in one piece", f"{target.name}, with an edge in it", fix)


def _holds_pole(grid: Grid) -> bool:
    """True where a pole is in the grid, or within a pixel of it."""
    minx, miny, maxx, maxy = grid.bounds
    move = Transformer.from_crs(grid.crs, 4326, always_xy=True)
    lon, _ = move.transform((minx + maxx) / 2, (miny + maxy) / 2)
    xs, ys = move.transform([lon, lon], [-_POLE, _POLE], direction=TransformDirection.INVERSE)
    near = grid.gsd_m
    return any(minx - near <= x <= maxx + near and miny - near <= y <= maxy + near for x, y in zip(xs, ys, strict=True))


class Reprojection:
    """Polygons of a grid into another CRS; they stay valid, none is lost, and the antimeridian cuts those that lie on both its sides.

    Edges get points of their own where they would bend by more than a hundredth of a pixel: a straight line is none elsewhere.

    Attributes
    ----------
    turn: once around the world in x, units of the target, where the antimeridian is the target's edge; None where its edges are unknown.
    """

    def __init__(self, grid: Grid, target: CRS) -> None:
        self._there = Transformer.from_crs(grid.crs, target, always_xy=True)
        self._target = target
        self.turn, self._top = _limits(target)
        self._edge = self._straight(grid)

    def __call__(self, shapes: NDArray[Any]) -> NDArray[Any]:
        """(n,) polygons and multipolygons of the target, in their order; none is empty (`mend`).

        Parameters
        ----------
        shapes: (n,) valid polygons or multipolygons in the grid's CRS, none empty.

        Raises
        ------
        OutputError: the CRS cannot express the place.
        """
        moved: NDArray[Any] = shapely.transform(self._with_points(shapes), self.points)
        if self.turn is not None:
            for index in np.flatnonzero(self.is_apart(moved)):
                moved[index] = _cut_at_the_edge(moved[index], self.turn)
        mend(moved)
        return moved

    def is_apart(self, shapes: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) True for shapes on both sides of the antimeridian."""
        left, _, right, _ = shapely.bounds(shapes).T
        wide: NDArray[np.bool_] = right - left > (np.inf if self.turn is None else self.turn / 2)
        return wide

    def points(self, points: NDArray[np.float64], fix: str = "Choose another --crs or --format.") -> NDArray[np.float64]:
        """(n, 2) x and y of the target.

        Parameters
        ----------
        points: (n, 2) x and y in the grid's CRS.
        fix: what the error tells to do.

        Raises
        ------
        OutputError: it has none there, or none of use.
        """
        moved = np.column_stack(self._there.transform(*points.T))
        if not (np.isfinite(moved).all() and (np.abs(moved[:, 1]) <= self._top).all()):
            raise OutputError("a CRS that can express the place", f"{self._target.to_string()}, which cannot", fix)
        return moved

    def _with_points(self, shapes: NDArray[Any]) -> NDArray[Any]:
        """The shapes with points along edges that are too long."""
        left, bottom, right, top = shapely.bounds(shapes).T
        large = np.flatnonzero(np.hypot(right - left, top - bottom) > self._edge)  # going through the others takes its time
        with_points = shapes.copy()
        with_points[large] = shapely.segmentize(shapes[large], self._edge)
        collapsed = shapely.is_empty(with_points)  # slivers, which GEOS takes for broken then
        with_points[collapsed] = shapes[collapsed]
        return with_points

    def _straight(self, grid: Grid) -> float:
        """Longest edge, units of the grid, that stays straight to a hundredth of a pixel along and across the grid's outline."""
        middle = shapely.get_coordinates(shapely.segmentize(shapely.box(*grid.bounds).exterior, max(grid.shape) * grid.gsd_m / 32))
        middle = np.concatenate([middle, middle])
        along = np.repeat(np.eye(2), len(middle) // 2, axis=0)
        edge = _EDGE_PX * grid.gsd_m
        while edge > grid.gsd_m and self._bend(middle, along * edge / 2) > _BEND_PX * grid.gsd_m:
            edge /= 2
        return edge

    def _bend(self, middle: NDArray[np.float64], half: NDArray[np.float64]) -> float:
        """How far the middles of some edges are from those of straight lines between their ends, units of the grid."""
        with np.errstate(invalid="ignore"):  # of points that the CRS does not have, which are told when they are asked for
            start, end = (np.column_stack(self._there.transform(*(middle + sign * half).T)) for sign in (-1, 1))
            step = end - start
            if self.turn is not None:
                step[:, 0] -= self.turn * np.round(step[:, 0] / self.turn)
            x, y = (start + step / 2).T
            back = np.column_stack(self._there.transform(x, y, direction=TransformDirection.INVERSE))
            off = np.hypot(*(back - middle).T)
        return float(off[np.isfinite(off)].max(initial=0.0))


def _limits(crs: CRS) -> tuple[float | None, float]:
    """Once around the world in x, None where nobody knows the edges; and the greatest y that is of use, either way from the equator."""
    if crs.equals(_WEB_MERCATOR, ignore_axis_order=True):
        return _WEB_MERCATOR_TURN, _WEB_MERCATOR_TURN / 2  # its map is a square; beyond, up to the poles, y grows to absurd numbers
    if crs.is_geographic:
        return round(2 * math.pi / crs.axis_info[0].unit_conversion_factor, 9), math.inf  # not all count in degrees
    return None, math.inf


def _cut_at_the_edge(shape: BaseGeometry, turn: float) -> BaseGeometry:
    """A shape on both sides of the antimeridian, as one of two parts or more."""
    joined = shapely.transform(shape, lambda p: np.column_stack([p[:, 0] % turn, p[:, 1]]))
    east = areas(shapely.make_valid(joined))
    parts = _halves(east, turn)
    return shapely.union_all(parts if len(parts) else _halves(strip_along(east), turn))


def _halves(east: BaseGeometry, turn: float) -> NDArray[Any]:
    """Polygons on either side of the antimeridian, of a shape that is on both, its longitudes going on behind it."""
    world = shapely.box(-turn / 2, -turn, turn / 2, turn)
    west = shapely.transform(east, lambda p: p - (turn, 0))
    return np.concatenate([polygon_parts(shapely.intersection(side, world)) for side in (east, west)])
