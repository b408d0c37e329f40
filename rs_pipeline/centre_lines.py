"""Centre lines of long objects, as roads: pure.

The medial axis of a polygon from the Voronoi diagram of points along its outline (Brandt & Algazi, "Continuous skeleton computation by
Voronoi diagram", CVGIP 55(3), 1992): edges whose both ends lie inside. Branches that are shorter than the object is wide where they begin
are the outline's roughness, and are cut off, shortest first. Whole objects go in, so that nothing depends on how a raster is cut.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Polygon

_TAPER = 0.5
"""An object's end whose width grows faster than this along the axis is a corner: one of 60° or more."""


class CentreLine(NamedTuple):
    """A piece between two ends or crossings."""

    geometry: LineString
    length_m: float
    """Of the line as it is here, simplified."""
    width_m: float
    """Mean over the length, of twice the distance to the outline."""


def centre_lines(polygon: Polygon, step_m: float, min_hole_m2: float = 0.0) -> list[CentreLine]:
    """The centre lines of a polygon; none of one less than twice as long as it is wide.

    Parameters
    ----------
    polygon: in a metric CRS.
    step_m: distance of points along the outline, and tolerance of the lines' simplification: a pixel.
    min_hole_m2: smaller holes are no reason to lead two lines around them.
    """
    from scipy.spatial import Voronoi  # a quarter of a second, which runs without lines need not wait for

    polygon = Polygon(polygon.exterior, [hole for hole in polygon.interiors if Polygon(hole).area >= min_hole_m2])
    outline = np.unique(np.round(shapely.get_coordinates(shapely.segmentize(polygon.boundary, step_m)), 6), axis=0)
    origin = outline.mean(axis=0)
    diagram = Voronoi(outline - origin)
    edges = np.asarray(diagram.ridge_vertices)
    inside = shapely.contains_xy(polygon, diagram.vertices + origin)
    within = (edges >= 0).all(axis=1) & inside[edges].all(axis=1)  # -1 is at infinity
    points = diagram.vertices
    radius = np.zeros(len(points))
    sites = np.asarray(diagram.ridge_points)[within]
    for end in (0, 1):
        radius[edges[within][:, end]] = np.linalg.norm(points[edges[within][:, end]] - diagram.points[sites[:, 0]], axis=1)
    graph = _graph(points, edges[within])
    _prune(graph, radius)
    lines = []
    for chain in _chains(graph):
        free = (len(graph[chain[0]]) == 1, len(graph[chain[-1]]) == 1)
        line = _line(points[chain] + origin, radius[chain], free, step_m)
        if line is not None:
            lines.append(line)
    return lines


def _graph(points: NDArray[np.float64], edges: NDArray[np.int64]) -> dict[int, dict[int, float]]:
    graph: dict[int, dict[int, float]] = defaultdict(dict)
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    for one, other, length in zip(*edges.T.tolist(), lengths.tolist(), strict=True):
        if one != other:
            graph[one][other] = graph[other][one] = length
    return graph


def _prune(graph: dict[int, dict[int, float]], radius: NDArray[np.float64]) -> None:
    """Cut off short branches, shortest first: what stays is the longer way on."""
    spurs = [spur for end in graph if len(graph[end]) == 1 and (spur := _spur(graph, end, radius))]
    heapify(spurs)
    while spurs:
        _, vertices = heappop(spurs)
        if len(graph[vertices[-1]]) > 2:
            for one, other in itertools.pairwise(vertices):
                del graph[one][other], graph[other][one]
        elif longer := _spur(graph, vertices[0], radius):  # a branch beside it is gone: it goes on, to the next crossing
            heappush(spurs, longer)


def _spur(graph: dict[int, dict[int, float]], end: int, radius: NDArray[np.float64]) -> tuple[float, list[int]] | None:
    """Length and vertices of the branch from an end to its crossing; None where it is none, or longer than the object is wide there."""
    vertices, length = [end], 0.0
    while len(vertices) == 1 or len(graph[vertices[-1]]) == 2:
        (ahead,) = (v for v in graph[vertices[-1]] if v not in vertices[-2:])
        length += graph[vertices[-1]][ahead]
        vertices.append(ahead)
    foot = vertices[-1]
    return (length, vertices) if len(graph[foot]) > 2 and length < 2 * radius[foot] else None


def _chains(graph: dict[int, dict[int, float]]) -> list[list[int]]:
    chains, seen = [], set()
    nodes = [v for v in graph if len(graph[v]) not in {0, 2}]
    for start in (*nodes, *(v for v in graph if len(graph[v]) == 2)):  # the latter: rings without a crossing
        for step in graph[start]:
            if (start, step) in seen:
                continue
            chain = [start, step]
            seen |= {(start, step), (step, start)}
            while len(graph[chain[-1]]) == 2 and chain[-1] != start:
                (ahead,) = (v for v in graph[chain[-1]] if v != chain[-2])
                seen |= {(chain[-1], ahead), (ahead, chain[-1])}
                chain.append(ahead)
            chains.append(chain)
    return chains


def _line(points: NDArray[np.float64], radius: NDArray[np.float64], free: tuple[bool, bool], step_m: float) -> CentreLine | None:
    """One chain as a line; None where nothing is left between its ends."""
    if free[0]:
        points, radius = _straight_end(points, radius)
    if free[1]:
        points, radius = (ends[::-1] for ends in _straight_end(points[::-1], radius[::-1]))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if not steps.sum() > 0:
        return None
    width = float(np.average(radius[1:] + radius[:-1], weights=steps))
    if all(free) and steps.sum() < 2 * width:
        return None
    simple = LineString(shapely.get_coordinates(shapely.simplify(LineString(points), step_m)))
    return CentreLine(simple, simple.length, width)


def _straight_end(points: NDArray[np.float64], radius: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An axis runs into a corner of its object's end: cut where it turns there, and led straight on to the end of the last circle."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    turn = int(np.argmax(radius - _TAPER * along))
    inner = int(np.searchsorted(along, along[turn] + max(radius[turn], _TAPER)))
    heading = points[turn] - points[min(inner, len(points) - 1)]
    length = float(np.linalg.norm(heading))
    if length == 0:
        return points[turn:], radius[turn:]
    tip = points[turn] + heading * (radius[turn] / length)
    return np.vstack([tip, points[turn:]]), np.concatenate([radius[turn : turn + 1], radius[turn:]])
