"""Where an image has values: the outline of its valid pixels, from its overviews."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import shapes
from scipy.ndimage import binary_dilation
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from rs_pipeline.raster import RasterInfo, choose_bands, read_sample

_SAMPLE_PX = 512
_MAX_CORNERS = 200
"""Of an outline: one in more pieces gives way to its hull."""
_STEPS = 32
"""Along a side of the image: straight lines are none in other projections."""
_TURN = 360.0
_METRES_PER_DEGREE = 111_320.0


def valid_footprint(info: RasterInfo) -> BaseGeometry:
    """Outline of the pixels that hold values, EPSG:4326: (multi)polygon without holes, oriented as GeoJSON wants it.

    It covers them all, to a pixel, lies within the outline of all pixels, and reaches past those that hold values by at most
    about two pixels of a sample whose longest side is 512. Where every pixel has a value, or none has, or the image goes round a pole,
    it is the outline of all pixels.

    Raises
    ------
    RasterError: the pixels cannot be read.
    """
    footprint: BaseGeometry = shapely.orient_polygons(shapely.simplify(_valid_outline(info), info.gsd_m / _METRES_PER_DEGREE))
    return footprint


def _valid_outline(info: RasterInfo) -> BaseGeometry:
    west, _, east, _ = info.footprint.bounds
    if info.footprint.geom_type == "Polygon" and east - west >= _TURN:
        return info.footprint
    bands = choose_bands(info, None) if info.count >= 3 else (1, 1, 1)
    valid = read_sample(info, bands, _SAMPLE_PX).valid
    if valid.all() or not valid.any():
        return info.footprint
    height, width = valid.shape
    traced = _trace(valid, is_whole=(height, width) == (info.height, info.width))
    step = max(height, width) / _STEPS
    to_crs = info.transform @ Affine.scale(info.width / width, info.height / height)
    inside = _polygons(_lon_lat(shapely.segmentize(traced, step), to_crs, info).intersection(info.footprint))
    return info.footprint if inside.is_empty else inside


def _trace(valid: NDArray[np.bool_], *, is_whole: bool) -> BaseGeometry:
    """Valid pixels in pixel coordinates. Of a sample, a pixel more on every side: each stands for many."""
    grown = valid if is_whole else binary_dilation(valid, np.ones((3, 3), np.bool_))
    rings = [shapely.Polygon(shape["coordinates"][0]) for shape, _ in shapes(grown.astype(np.uint8), grown, 8)]
    traced = shapely.union_all(shapely.make_valid(np.array(rings)))
    if not is_whole:
        traced = shapely.simplify(traced, 0.75)
    return traced if len(shapely.get_coordinates(traced)) <= _MAX_CORNERS else traced.convex_hull


def _lon_lat(geometry: BaseGeometry, to_crs: Affine, info: RasterInfo) -> BaseGeometry:
    """Pixel coordinates to degrees, each point less than half a turn from the image's middle, cut at the antimeridian."""
    transformer = Transformer.from_crs(info.crs, 4326, always_xy=True)

    def to_degrees(points: NDArray[np.float64]) -> NDArray[np.float64]:
        cols, rows = points.T
        x, y = to_crs.a * cols + to_crs.b * rows + to_crs.c, to_crs.d * cols + to_crs.e * rows + to_crs.f
        return np.column_stack(transformer.transform(x, y))

    middle, _ = transformer.transform(*(info.transform @ (info.width / 2, info.height / 2)))
    degrees = shapely.transform(geometry, to_degrees)
    near = shapely.transform(degrees, lambda p: np.column_stack([middle + (p[:, 0] - middle + 180) % _TURN - 180, p[:, 1]]))
    world = shapely.box(-180, -90, 180, 90)
    return shapely.union_all([translate(shapely.make_valid(near), xoff=_TURN * turn).intersection(world) for turn in (-1, 0, 1)])


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Its areas, without lines and points where shapes only touched."""
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and part.area > 0]
    areas: BaseGeometry = shapely.union_all([shapely.Polygon(part.exterior) for part in parts])
    return areas
