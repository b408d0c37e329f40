"""Squared outlines of objects, as buildings have them: pure."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

LEAST_IOU = 0.7
"""Outlines that share less than this with their object are not taken."""
_TOLERANCES_PX = (2.0, 1.0)
"""What outlines are straightened by: two pixels take their stairs away, one leaves more of objects of few pixels."""
_GRID_M = 2.0**-10
"""Outlines have their corners on a grid of a millimetre: finer ones would be rounded by where they lie, and may cross themselves then."""
_MOST_CORNERS = 100_000
"""More have no buildings: the library would take ten seconds and more for each, and the memory that grows with it."""


class Squares(NamedTuple):
    """Outlines of objects, one for each, in their order; arrays of one length."""

    geometry: NDArray[np.object_]
    """Valid polygons with as many holes as the objects."""
    iou: NDArray[np.float64]
    """Intersection over union with the object, `LEAST_IOU`…1: 1 where nothing was moved."""
    squared: NDArray[np.bool_]
    """False where the object keeps an outline of its own."""


def square_outlines(polygons: NDArray[np.object_], step_m: float) -> Squares:
    """Outlines with right angles, in each object's own direction, half right ones where they fit better; round objects become circles.

    Each is made from its object alone by the library `buildingregulariser`, wherever that lies: neighbours may overlap. An object that it
    fails on, loses, or moves to an IoU below `LEAST_IOU` keeps its own outline, simplified by a pixel where that does not move it as far;
    so does one of very many corners.

    Parameters
    ----------
    polygons: (n,) valid polygons in metres, with the stairs of their pixels.
    step_m: metres per pixel.
    """
    # Far from the origin products of coordinates, which the library and areas are made of, lose digits.
    corners = shapely.bounds(polygons)[:, :2]
    objects = _moved(polygons, -corners)
    found = Squares(objects.copy(), np.zeros(len(objects)), np.ones(len(objects), np.bool_))
    small = shapely.get_num_coordinates(objects) <= _MOST_CORNERS
    for tolerance_px in _TOLERANCES_PX:
        left = np.flatnonzero(small & (found.iou < LEAST_IOU))
        _take(found, left, objects[left], _squared(objects[left], tolerance_px * step_m))
    left = np.flatnonzero(found.iou < LEAST_IOU)
    found.squared[left] = False
    _take(found, left, objects[left], shapely.simplify(objects[left], step_m))
    found.iou[found.iou < LEAST_IOU] = 1.0
    return found._replace(geometry=_moved(found.geometry, corners))


def _take(found: Squares, places: NDArray[np.int64], objects: NDArray[np.object_], shapes: NDArray[np.object_]) -> None:
    """Keep the shapes that will do, at their places, in place."""
    same_holes = shapely.get_num_interior_rings(shapes) == shapely.get_num_interior_rings(objects)
    iou = np.where(same_holes, _iou(shapes, objects), 0.0)
    good = iou >= LEAST_IOU
    found.geometry[places[good]], found.iou[places[good]] = shapes[good], iou[good]


def _squared(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """The squared outline of each; None where there is none. Rings are squared one by one: together, holes of a few pixels are lost."""
    rings, owner = shapely.get_rings(polygons, return_index=True)
    areas: NDArray[np.object_] = np.asarray(shapely.polygons(rings))
    found = _by_library(areas, tolerance)
    is_hole = np.diff(owner, prepend=-1) == 0
    failed = _iou(found, areas) < LEAST_IOU
    found[failed] = None
    found[failed & is_hole] = areas[failed & is_hole]  # an outline with a hole as it was is better than none
    outlines: NDArray[np.object_] = found[~is_hole]
    open_ones, of = np.unique(owner[is_hole], return_inverse=True)
    # Squared holes may overlap, which a buffer of nothing unites.
    holes = shapely.buffer(shapely.multipolygons(found[is_hole], indices=of), 0) if len(open_ones) else open_ones
    outlines[open_ones] = _largest_parts(shapely.difference(outlines[open_ones], holes), np.arange(len(open_ones)), len(open_ones))
    return outlines


def _by_library(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """What the library makes of polygons without holes, None where that is nothing."""
    # They take their time to import, which runs without squares need not wait for.
    import geopandas as gpd
    from buildingregulariser import regularize_geodataframe

    if not len(polygons):
        return polygons.copy()
    frame = gpd.GeoDataFrame({"object": np.arange(len(polygons))}, geometry=polygons)
    try:
        with warnings.catch_warnings(action="ignore"):  # they are of objects that it leaves as they are
            done = regularize_geodataframe(frame, parallel_threshold=tolerance, simplify_tolerance=tolerance, num_cores=1)
    except Exception:  # noqa: BLE001 - whatever it is, one object must not cost the others their outlines
        if len(polygons) == 1:
            return np.full(1, None)
        return np.concatenate([_by_library(part, tolerance) for part in np.array_split(polygons, 2)])
    found = _largest_parts(done.geometry.to_numpy(), done["object"].to_numpy(), len(polygons))
    on_grid: NDArray[np.object_] = shapely.transform(found, lambda points: np.round(points / _GRID_M) * _GRID_M)
    return on_grid


def _largest_parts(shapes: NDArray[np.object_], numbers: NDArray[np.int64], count: int) -> NDArray[np.object_]:
    """Of the shapes of each number 0…`count` - 1 the largest polygon; None where there is none."""
    parts, row = shapely.get_parts(shapes, return_index=True)
    by_area = np.argsort(shapely.area(parts), kind="stable")
    largest = np.full(count, None)
    largest[numbers[row[by_area]]] = parts[by_area]  # the last one stays
    return largest


def _moved(shapes: NDArray[np.object_], by: NDArray[np.float64]) -> NDArray[np.object_]:
    """Each moved by an x and a y of its own."""
    points, number = shapely.get_coordinates(shapes, return_index=True)
    return shapely.set_coordinates(shapes.copy(), points + by[number])


def _iou(shapes: NDArray[np.object_], objects: NDArray[np.object_]) -> NDArray[np.float64]:
    """Of each shape with its object; 0 for what is no valid polygon."""
    iou = np.zeros(len(shapes))
    sound = np.flatnonzero((shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON) & shapely.is_valid(shapes))
    shared = shapely.area(shapely.intersection(shapes[sound], objects[sound]))
    iou[sound] = shared / (shapely.area(shapes[sound]) + shapely.area(objects[sound]) - shared)
    return iou
