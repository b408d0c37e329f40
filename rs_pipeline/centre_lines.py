"""Centre lines of long objects, as roads: pure.

The pruned medial axis (`medial_axis`) between its ends and crossings, ends led straight on, simplified. Whole objects go in, so that
nothing depends on how a raster is cut; the axis is drawn in tiles, so that little grows with an object. What does: the polygon, a point
per step of its outline (16 bytes), and the axis, a vertex for about three such points, with what is at work on it. Together 100 bytes
per point of the outline: at steps of a metre 0.23 MB per kilometre of street, 0.23 GB for a network of 1,000 km (bench/centre_lines.py).
A tile takes 20 MB beside that; where an object is so wide that a tile needs much of its outline, up to 0.3 GB.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Polygon

from rs_pipeline.axis_graph import chains
from rs_pipeline.medial_axis import TILE_POINTS, medial_axis

_TAPER = 0.5
"""An object's end whose width grows faster than this along the axis is a corner: one of 60° or more."""


class CentreLine(NamedTuple):
    """A piece between two ends or crossings."""

    geometry: LineString
    length_m: float
    """Of the line as it is here, simplified."""
    width_m: float
    """Mean over the length, of twice the distance to the outline."""


class Drawing(NamedTuple):
    """The centre lines of an object."""

    lines: list[CentreLine]
    whole: bool
    """False where it is too wide in places for a line there."""


def centre_lines(polygon: Polygon, step_m: float, min_hole_m2: float = 0.0, tile_points: int = TILE_POINTS) -> list[CentreLine]:
    """The lines of `draw`."""
    return draw(polygon, step_m, min_hole_m2, tile_points).lines


def draw(polygon: Polygon, step_m: float, min_hole_m2: float = 0.0, tile_points: int = TILE_POINTS) -> Drawing:
    """The centre lines of a polygon; none of one less than twice as long as it is wide.

    Parameters
    ----------
    polygon: valid, in a metric CRS.
    step_m: distance of points along the outline, and tolerance of the lines' simplification: a pixel.
    min_hole_m2: smaller holes are no reason to lead two lines around them.
    tile_points: points of the outline in a tile; of memory and time, not of the lines.

    Raises
    ------
    ValueError, scipy.spatial.QhullError, shapely.errors.GEOSException: as `medial_axis` does.
    """
    if min_hole_m2 > 0:
        polygon = Polygon(polygon.exterior, [hole for hole in polygon.interiors if Polygon(hole).area >= min_hole_m2])
    axis = medial_axis(polygon, step_m, tile_points)
    path, starts = chains(axis.edges, np.zeros(len(axis.points), np.bool_))
    degree = np.bincount(axis.edges.ravel(), minlength=len(axis.points))
    lines = []
    for start, stop in itertools.pairwise([*starts.tolist(), len(path)]):
        chain = path[start:stop]
        free = (bool(degree[chain[0]] == 1), bool(degree[chain[-1]] == 1))
        line = _line(axis.points[chain], axis.radius[chain], free, step_m)
        if line is not None:
            lines.append(line)
    return Drawing(lines, axis.whole)


def _line(points: NDArray[np.float64], radius: NDArray[np.float64], free: tuple[bool, bool], step_m: float) -> CentreLine | None:
    """One chain as a line; None where nothing is left between its ends."""
    if free[0]:
        points, radius = _straight_end(points, radius, step_m)
    if free[1]:
        points, radius = (ends[::-1] for ends in _straight_end(points[::-1], radius[::-1], step_m))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if not steps.sum() > 0:
        return None
    width = float(np.average(radius[1:] + radius[:-1], weights=steps))
    if all(free) and steps.sum() < 2 * width:
        return None
    simple = LineString(shapely.get_coordinates(shapely.simplify(LineString(points), step_m)))
    return CentreLine(simple, simple.length, width)


def _straight_end(
    points: NDArray[np.float64], radius: NDArray[np.float64], step_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An axis runs into a corner of its object's end: cut where it turns there, and led straight on to the end of the last circle."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    turn = int(np.argmax(radius - _TAPER * along))
    inner = int(np.searchsorted(along, along[turn] + max(radius[turn], step_m)))
    heading = points[turn] - points[min(inner, len(points) - 1)]
    length = float(np.linalg.norm(heading))
    if length == 0:
        return points[turn:], radius[turn:]
    tip = points[turn] + heading * (radius[turn] / length)
    return np.vstack([tip, points[turn:]]), np.concatenate([radius[turn : turn + 1], radius[turn:]])
