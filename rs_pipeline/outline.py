"""Where an image lies, in any CRS: its pixel outline, densified, projected directly. Pure."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

_POINTS_PER_SIDE = 33
_HALF_TURN = 180.0
_WORLD = shapely.box(-180.0, -90.0, 180.0, 90.0)


def outline(crs: CRS, transform: Affine, height: int, width: int, target: CRS) -> BaseGeometry:
    """The outer edge of a raster's pixels as a polygon in `target`.

    Empty where `target` cannot express it: points at infinity, or an edge that crosses itself because half the Earth was
    folded over the other. That says nothing about where the image lies.
    """
    x, y = _edge(transform, height, width)
    if crs != target:
        x, y = Transformer.from_crs(crs, target, always_xy=True).transform(x, y)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return shapely.Polygon()
    polygon = shapely.Polygon(np.column_stack([x, y]))
    return polygon if shapely.is_valid(polygon) else shapely.Polygon()


def lon_lat_outline(crs: CRS, transform: Affine, height: int, width: int) -> BaseGeometry:
    """The same in EPSG:4326 with longitudes in [-180, 180]: two parts where it crosses the antimeridian, a cap where it holds a pole."""
    x, y = _edge(transform, height, width)
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return shapely.Polygon()
    # Each point is at most half a turn from the one before: a continuous ring, wherever it is cut.
    lon = np.unwrap(lon, period=2 * _HALF_TURN)
    if abs(lon[-1] - lon[0]) > _HALF_TURN:
        pole = 90.0 if lat.mean() > 0 else -90.0
        return shapely.box(-180.0, min(pole, float(lat.min())), 180.0, max(pole, float(lat.max())))
    ring = shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat])))
    return shapely.union_all([translate(ring, xoff=360.0 * turn).intersection(_WORLD) for turn in range(-2, 3)])


def _edge(transform: Affine, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X and y along the edge, closed."""
    across, down = np.linspace(0, width, _POINTS_PER_SIDE), np.linspace(0, height, _POINTS_PER_SIDE)
    cols = np.concatenate([across, np.full_like(down, width), across[::-1], np.zeros_like(down)])
    rows = np.concatenate([np.zeros_like(across), down, np.full_like(across, height), down[::-1]])
    return transform.a * cols + transform.b * rows + transform.c, transform.d * cols + transform.e * rows + transform.f
