"""Polygons that stay valid polygons when their points are moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

_LEAST = 2.0**-40
"""Half the width of the thinnest strip, as a share of its coordinates: at most some 0.02 mm on Earth, in metres as in degrees."""


def polygon_parts(shape: BaseGeometry) -> NDArray[Any]:
    """The polygons of a shape of any type, without the lines and points where others only touched."""
    parts = shapely.get_parts(shapely.get_parts(shape))  # a collection may hold multipolygons
    polygons: NDArray[Any] = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)]
    return polygons


def mend(shapes: NDArray[Any]) -> None:
    """Make polygons valid whose points were moved, in place; valid ones stay as they are.

    None is lost, and none becomes empty: one so thin that all its points fell onto a line is as wide, then, as numbers can tell.
    """
    broken = np.flatnonzero(~shapely.is_valid(shapes))
    shapes[broken] = [areas(shapely.make_valid(shape)) for shape in shapes[broken]]


def areas(shape: BaseGeometry) -> BaseGeometry:
    """What of a shape is polygons; where nothing is, a strip along its lines that is just wide enough to have an area."""
    parts = polygon_parts(shape)
    joined: BaseGeometry = shapely.union_all(parts) if len(parts) else strip_along(shape)
    return joined


def strip_along(shape: BaseGeometry) -> BaseGeometry:
    """Polygons around the lines and points of a shape, just wide enough to have an area."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    polygons = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    lines = np.concatenate([parts[~polygons], shapely.get_parts(shapely.boundary(parts[polygons]))])
    width = max(1.0, np.abs(shapely.bounds(shape)).max()) * _LEAST
    # One by one: together, GEOS gives nothing at all for some.
    strip: BaseGeometry = shapely.union_all(shapely.buffer(lines, width, quad_segs=1, cap_style="square", join_style="mitre"))
    return strip
