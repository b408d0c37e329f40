"""The medial axis of a polygon, without what its outline's roughness adds: pure, and tile by tile.

The Voronoi diagram of points along the outline (Brandt & Algazi, "Continuous skeleton computation by Voronoi diagram", CVGIP 55(3),
1992): edges whose both ends lie inside. Branches that are shorter than the object is wide where they begin are cut off, shortest first.

A place's part of the diagram depends on no point further off than the outline is, so the polygon is halved until a tile holds few
points, and each tile is drawn from the points that lie within its greatest distance to the outline (`_near`): its vertices are exact.
Edges over a tile's side are known to both tiles by the two points that they part. A tile keeps of its branches what it cannot judge:
those as long as the way to its side. The result is that of one diagram of all points, whatever the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from rs_pipeline.axis_graph import prune

TILE_POINTS = 20_000
_MOST_POINTS = 400_000
"""Of the outline, that one tile is drawn from: 0.3 GB. Some 200 km of it around one place without any, at steps of a metre."""
_GRAIN = 2.0**-13
"""Of a step. Places are rounded to it, so that they are the same from every tile; a power of 2, as pixels are halved, and quartered."""
_SAMPLES = 32
"""Places along a tile's side where the distance to the outline is asked for."""

_Box: TypeAlias = tuple[float, float, float, float]


class Axis(NamedTuple):
    """A plane graph, its vertices sorted by x and y."""

    points: NDArray[np.float64]
    """(vertices, 2), x and y in the polygon's CRS."""
    radius: NDArray[np.float64]
    """(vertices,), metres to the outline."""
    edges: NDArray[np.int64]
    """(edges, 2), pairs of vertices."""
    whole: bool
    """False where the object is too wide, and its outline too long, for one tile: no axis there."""


class _Piece(NamedTuple):
    """The axis in a tile."""

    points: NDArray[np.float64]
    radius: NDArray[np.float64]
    edges: NDArray[np.int64]
    leaving: NDArray[np.int64]
    """(edges over the side, 2), the vertex, and a number for the edge that the tile at its other end has for it, too."""


def medial_axis(polygon: Polygon, step_m: float, tile_points: int = TILE_POINTS) -> Axis:
    """The pruned medial axis of a polygon.

    Parameters
    ----------
    polygon: valid, in a metric CRS.
    step_m: distance of points along the outline.
    tile_points: points in a tile; of memory and time, not of the result.

    Raises
    ------
    ValueError: the polygon has no area, or coordinates that are not finite.
    scipy.spatial.QhullError: its outline has no diagram.
    shapely.errors.GEOSException: it cannot be cut.
    """
    if not polygon.area > 0:
        raise ValueError(f"a polygon with an area has an axis, got one of {polygon.area} m2")
    (points, radius, edges, leaving), whole = _assembled(polygon, step_m, tile_points)
    edges = np.concatenate([edges, _met(leaving)])
    edges = prune(points, edges, 2 * radius, np.zeros(len(points), np.bool_), _GRAIN * step_m)
    used = _members(len(points), edges)
    order = used[np.lexsort((points[used, 1], points[used, 0]))]
    return Axis(points[order], radius[order], _renumbered(order, len(points))[edges], whole)


def _assembled(polygon: Polygon, step_m: float, tile_points: int) -> tuple[_Piece, bool]:
    """The tiles' axes side by side, and whether they are whole."""
    outline = _outline_points(polygon, step_m)
    minx, miny, maxx, maxy = polygon.bounds
    # Tiles' sides pass no vertex: what pixels make lies at simple fractions of one, and these are none.
    box = (minx - 1.0772 * step_m, miny - 1.1314 * step_m, maxx + 1.7183 * step_m, maxy + 1.4142 * step_m)
    pieces, whole, count = [], True, 0
    for part, tile in _tiles(polygon, box, outline, step_m, tile_points):
        near, halo, sound = _near(part, tile, outline, step_m)
        piece = _pruned(_drawn(part, tile, outline, near, halo, step_m), tile, step_m)
        pieces.append(piece._replace(edges=piece.edges + count, leaving=np.add(piece.leaving, (count, 0))))
        count += len(piece.points)
        whole &= sound
    return _Piece(*(np.concatenate(column) for column in zip(*pieces, strict=True))), whole


def _outline_points(polygon: Polygon, step_m: float) -> NDArray[np.float64]:
    """(points, 2), each once, sorted by x and y."""
    rings = [shapely.get_coordinates(shapely.segmentize(ring, step_m)) for ring in shapely.get_rings(polygon)]
    points = np.concatenate(rings).view(np.complex128).ravel()
    points.sort()
    each: NDArray[np.float64] = points[np.append(True, points[1:] != points[:-1])].view(np.float64).reshape(-1, 2)
    return each


def _tiles(part: BaseGeometry, box: _Box, outline: NDArray[np.float64], step_m: float, most: int) -> Iterator[tuple[BaseGeometry, _Box]]:
    """Boxes that hold few points, and the polygon in each, with a step around."""
    if part.is_empty:
        return
    minx, miny, maxx, maxy = box
    width, height = maxx - minx, maxy - miny
    if len(_within(outline, box)) <= most or max(width, height) < 8 * step_m:
        yield part, box
        return
    midx, midy = (minx + maxx) / 2, (miny + maxy) / 2
    across, along = ((minx, miny, midx, maxy), (midx, miny, maxx, maxy)), ((minx, miny, maxx, midy), (minx, midy, maxx, maxy))
    for half in across if width > height else along:
        yield from _tiles(shapely.clip_by_rect(part, *_around(half, step_m)), half, outline, step_m, most)


def _within(outline: NDArray[np.float64], box: _Box) -> NDArray[np.int64]:
    """Indices of the points in a box."""
    minx, miny, maxx, maxy = box
    first, stop = np.searchsorted(outline[:, 0], (minx, maxx))
    y = outline[first:stop, 1]
    return np.flatnonzero((y >= miny) & (y <= maxy)) + int(first)


def _around(box: _Box, metres: float) -> _Box:
    return box[0] - metres, box[1] - metres, box[2] + metres, box[3] + metres


def _near(part: BaseGeometry, tile: _Box, outline: NDArray[np.float64], step_m: float) -> tuple[NDArray[np.int64], float, bool]:
    """The points that a tile's vertices depend on, how far around it they lie, and whether these are all.

    The distance to the outline changes by no more than a metre per metre: what it is at samples bounds what it is between them.
    """
    from scipy.spatial import KDTree

    minx, miny, maxx, maxy = tile
    between = float(np.hypot(maxx - minx, maxy - miny)) / (2 * _SAMPLES) + step_m
    halo = 2 * between
    near = _within(outline, _around(tile, halo))
    if len(near) == len(outline):  # as of most objects: no circle inside reaches further
        return near, 4 * _SAMPLES * between, True
    x, y = np.meshgrid(np.linspace(minx, maxx, _SAMPLES + 1), np.linspace(miny, maxy, _SAMPLES + 1))
    samples = np.column_stack([x.ravel(), y.ravel()])
    samples = samples[shapely.contains_xy(part, samples)]
    while True:
        far = np.max(KDTree(outline[near]).query(samples)[0], initial=0.0) + between if len(near) else np.inf
        if far <= halo:
            return near, halo, True
        wider = min(2 * halo, float(far))
        more = _within(outline, _around(tile, wider))
        if len(more) > max(_MOST_POINTS, len(near)):
            return near, halo, False
        near, halo = more, wider


def _drawn(part: BaseGeometry, tile: _Box, outline: NDArray[np.float64], near: NDArray[np.int64], halo: float, step_m: float) -> _Piece:
    """The diagram in a tile. A vertex is the centre of the circle through three points that has none inside."""
    from scipy.spatial import Delaunay

    middle = np.array([tile[0] + tile[2], tile[1] + tile[3]]) / 2
    half = np.array([tile[2] - tile[0], tile[3] - tile[1]]) / 2
    frame = 3 * (half + halo) * [[-1, -1], [-1, 1], [1, -1], [1, 1]]  # further off than all that counts, so no cell is open
    sites = np.concatenate([outline[near] - middle, frame])
    triangles = Delaunay(sites)
    centres, radius = _circles(sites[triangles.simplices])
    in_tile: NDArray[np.bool_] = np.all(np.abs(centres) < half, axis=1)
    kept = in_tile & (radius <= halo)
    kept[kept] = shapely.contains_xy(part, centres[kept] + middle)
    one, side = np.nonzero(np.broadcast_to(kept[:, None], triangles.neighbors.shape))
    other = triangles.neighbors[one, side]
    inner = kept[other] & (one < other)
    out = np.flatnonzero(~in_tile[other])
    out = out[shapely.contains_xy(part, _crossings(centres[one[out]], centres[other[out]], half) + middle)]
    corners = near[np.sort([triangles.simplices[one[out], (side[out] + turn) % 3] for turn in (1, 2)], axis=0)]
    number = np.cumsum(kept) - 1
    leaving = np.column_stack([number[one[out]], corners[0] * len(outline) + corners[1]])
    grain, origin = _GRAIN * step_m, outline[0] - middle
    points = np.round((centres[kept] - origin) / grain) * grain + outline[0]  # the same number in every tile
    edges = np.column_stack([number[one[inner]], number[other[inner]]])
    return _one_per_place(_Piece(points, np.round(radius[kept] / grain) * grain, edges, leaving), 8 * grain)


def _circles(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and radius of the circles through (triangles, 3, 2); not finite where the three lie in a line."""
    a = corners[:, 0]
    (bx, by), (cx, cy) = (corners[:, 1] - a).T, (corners[:, 2] - a).T
    b, c = bx**2 + by**2, cx**2 + cy**2
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.stack([cy * b - by * c, bx * c - cx * b], axis=1) / (2 * (bx * cy - by * cx))[:, None]
    return a + offset, np.linalg.norm(offset, axis=1)


def _crossings(inside: NDArray[np.float64], outside: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the way from a place inside to one outside crosses the sides of a box around 0."""
    way = outside - inside
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing: NDArray[np.float64] = inside + way * np.min((np.copysign(half, way) - inside) / way, axis=1, keepdims=True)
    return crossing


def _one_per_place(piece: _Piece, grain: float) -> _Piece:
    """Four points on one circle make two triangles, and one vertex."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    points, radius, edges, leaving = piece
    short = edges[np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1) <= grain]
    joined = coo_array((np.ones(len(short), np.bool_), tuple(short.T)), (len(points), len(points)))
    place = connected_components(joined, directed=False)[1].astype(np.int64)
    order = np.lexsort((points[:, 1], points[:, 0]))
    first = order[np.unique(place[order], return_index=True)[1]]
    edges = np.sort(place[edges], axis=1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    return _Piece(points[first], radius[first], edges, np.column_stack([place[leaving[:, 0]], leaving[:, 1]]))


def _pruned(piece: _Piece, tile: _Box, step_m: float) -> _Piece:
    """Without the branches whose end is sure here: shorter than any way from their crossing that leads out of the tile.

    An edge that leaves may end at the outline beyond, no further from its vertex than the outline is.
    """
    points, radius, edges, leaving = piece
    fixed = np.zeros(len(points), np.bool_)
    fixed[leaving[:, 0]] = True
    to_side = np.min([points - tile[:2], np.asarray(tile[2:]) - points], axis=(0, 2))
    sure = to_side - np.max(radius[fixed], initial=0.0) if len(points) else to_side
    edges = prune(points, edges, np.where(fixed, 0.0, np.minimum(2 * radius, sure)), fixed, _GRAIN * step_m)
    used = _members(len(points), edges, leaving[:, 0])
    number = _renumbered(used, len(points))
    return _Piece(points[used], radius[used], number[edges], np.column_stack([number[leaving[:, 0]], leaving[:, 1]]))


def _met(leaving: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges over tiles' sides, from their vertices in both."""
    leaving = leaving[np.argsort(leaving[:, 1], kind="stable")]
    both = np.flatnonzero(leaving[1:, 1] == leaving[:-1, 1])
    return np.column_stack([leaving[both, 0], leaving[both + 1, 0]])


def _members(count: int, *vertices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of so many vertices are there, in order."""
    there = np.zeros(count, np.bool_)
    for some in vertices:
        there[some] = True
    return np.flatnonzero(there)


def _renumbered(order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The new number of each of so many vertices, where they are put in order."""
    number = np.empty(count, np.int64)
    number[order] = np.arange(len(order))
    return number
