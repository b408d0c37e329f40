"""Districts, rivers and lakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from .plan import District, FloatArray, Frame, Plan
from .style import Style, choose


def plan_districts(
    rng: np.random.Generator, style: Style, extent: tuple[float, float], *, rich: bool
) -> tuple[list[District], list[LineString]]:
    """Cells of a jittered Voronoi diagram that cover the scene, and the lines between them."""
    width, height = extent
    spacing = rng.uniform(230, 420)
    if rich:
        spacing = min(spacing, max(0.45 * min(extent), 90.0))
    xs, ys = (np.arange(-spacing, size + 1.6 * spacing, spacing) for size in extent)
    points = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2) + rng.uniform(-0.38, 0.38, (len(xs) * len(ys), 2)) * spacing
    points += rng.uniform(-0.5, 0.5, 2) * spacing
    scene = shapely.box(-60, -60, width + 60, height + 60)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(points)))
    main_angle = rng.uniform(0, np.pi)
    town = "suburb" if min(extent) > 300 else "compact"
    districts = []
    for cell in cells[shapely.intersects(cells, scene)]:
        angle = main_angle if rng.random() < 0.5 else rng.uniform(0, np.pi)
        frame = Frame(cell.centroid.x, cell.centroid.y, float(angle))
        reach = float(np.hypot(*(shapely.get_coordinates(cell) - (frame.x, frame.y)).T).max())
        use = choose(rng, style.uses)
        # whatever else a showcase has, there are houses in the middle
        central = rich and cell.contains(shapely.Point(width / 2, height / 2))
        districts.append(District(town if central else use, cell, frame, min(reach, 1.5 * spacing)))
    ridges = shapely.get_parts(shapely.line_merge(shapely.union_all(shapely.boundary([d.polygon for d in districts]))))
    return districts, list(ridges)


def waves(rng: np.random.Generator, t: NDArray[np.floating[Any]], lengths: tuple[float, float]) -> FloatArray:
    """A smooth random function of `t`, standard deviation about 1."""
    total = np.zeros(t.shape)
    for length in rng.uniform(*lengths, 4):
        total += np.sin(2 * np.pi * t / length + rng.uniform(0, 2 * np.pi)) / np.sqrt(2)
    return total


def meander(rng: np.random.Generator, extent: tuple[float, float], swing_m: float, wriggle: float) -> FloatArray:
    """(N,2) points, 5 m apart, of a winding line across the scene's middle part."""
    width, height = extent
    reach = float(np.hypot(width, height)) / 2 + 150
    t = np.arange(int(2 * reach / 5), dtype=np.float64) * 5.0 - reach
    side = swing_m * (waves(rng, t, (350, 1100)) + wriggle * waves(rng, t, (120, 350)))
    frame = Frame(width * rng.uniform(0.25, 0.75), height * rng.uniform(0.25, 0.75), float(rng.uniform(0, np.pi)))
    return frame.to_scene(np.stack([t, side], axis=1))


def river(rng: np.random.Generator, extent: tuple[float, float], half_m: float, *, canal: bool) -> BaseGeometry:
    """A river whose width breathes, or a canal of one width."""
    path = meander(rng, extent, 0.0 if canal else min(extent) * 0.03 + 12, 0.25)
    t = np.arange(len(path), dtype=np.float64) * 5.0
    half = np.full(len(t), half_m)
    if not canal:
        half *= np.exp(0.16 * waves(rng, t, (90, 400)) + 0.05 * waves(rng, t, (30, 80)))
    pieces = shapely.linestrings(np.stack([path[:-1], path[1:]], axis=1))
    return shapely.union_all(shapely.buffer(pieces, half[:-1], quad_segs=4))


def plan_water(rng: np.random.Generator, plan: Plan, *, rich: bool) -> None:
    """A river, a canal, lakes, or nothing."""
    size = min(plan.extent)
    if rich or rng.random() < 0.3:
        half = min(rng.uniform(16, 26), 0.05 * size) if rich else rng.uniform(3, 0.14 * min(size, 300) + 3.1)
        plan.water.append(river(rng, plan.extent, half, canal=not rich and bool(rng.random() < 0.25)))
    for _ in range(max(1, round(size / 900)) if rich else int(rng.random() < 0.3)):
        radius = min(rng.uniform(70, 150), 0.16 * size) if rich else rng.uniform(12, 0.35 * min(size, 260) + 12)
        centre = np.array([rng.uniform(0.05, 0.95) * plan.extent[0], rng.uniform(0.05, 0.95) * plan.extent[1]])
        lake = blob(rng, centre, radius)
        if radius > 40 and rng.random() < 0.4:
            lake = shapely.difference(lake, blob(rng, centre + rng.uniform(-0.4, 0.4, 2) * radius, radius * 0.2))
        plan.water.append(lake)


def blob(rng: np.random.Generator, centre: FloatArray, radius: float) -> BaseGeometry:
    """A rounded irregular polygon."""
    theta = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    edge = np.full_like(theta, radius)
    for k in range(1, 7):
        edge += radius * 0.34 / k * rng.uniform(-1, 1) * np.sin(k * theta + rng.uniform(0, 2 * np.pi))
    ring = np.stack([edge * np.cos(theta), rng.uniform(0.55, 1.0) * edge * np.sin(theta)], axis=1)
    frame = Frame(float(centre[0]), float(centre[1]), float(rng.uniform(0, np.pi)))
    return shapely.make_valid(Polygon(frame.to_scene(ring)))
