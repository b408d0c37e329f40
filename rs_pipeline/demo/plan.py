"""The plan of an invented place, in metres: x right, y down, the scene's top-left corner at (0, 0)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from .palette import CLIMATES, RGB, blend, jitter, pick
from .style import LAND, ROAD, VEGETATION, WATER, Style, Surfaces

FloatArray = NDArray[np.float64]
Rect = tuple[float, float, float, float]
"""u0, v0, u1, v1 in metres."""
NOTHING, GROUND, VERGE, MAIN, LOCAL, DIRT, MARKING, PATCH, STRIP, ISLAND, SHORE, SHALLOW, DEEP = range(13)
"""Numbers of the surfaces that every scene has; `NOTHING` is never seen."""
FLAT, HIP, GABLE = range(3)
"""Forms of roofs."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Local axes (u, v) of a district."""

    x: float
    y: float
    angle: float

    def to_scene(self, uv: FloatArray) -> FloatArray:
        """(…,2) local metres to scene metres."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.asarray(uv @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y))

    def rectangle(self, rect: Rect) -> BaseGeometry:
        """A local rectangle as a polygon of the scene."""
        u0, v0, u1, v1 = rect
        return Polygon(self.to_scene(np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])))


@dataclass(frozen=True, slots=True)
class District:
    """A part of the scene with one land use."""

    use: str
    polygon: BaseGeometry
    frame: Frame
    reach: float
    """Metres from the frame's origin to the farthest corner."""


@dataclass(frozen=True, slots=True)
class Line:
    """A road's middle."""

    path: LineString
    width: float
    """Metres from edge to edge."""
    kind: str
    """main, local or dirt."""

    def spots(self, at: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Points (N,2) at distances along the path, and the unit directions there."""
        path = np.array([self.path], dtype=object)
        here = shapely.get_coordinates(shapely.line_interpolate_point(path, at))
        step = shapely.get_coordinates(shapely.line_interpolate_point(path, at + 1.0)) - here
        return here, step / np.maximum(np.hypot(step[:, :1], step[:, 1:]), 1e-6)


@dataclass
class Plan:
    """What is where; the lists are filled while the scene is planned, `warp` bends it all when it is drawn."""

    style: Style
    extent: tuple[float, float]
    """(width, height) in metres."""
    bend: FloatArray
    """(waves, 5): kx, ky, phase, dx, dy of the smooth displacement that makes everything a little crooked."""
    surfaces: Surfaces = field(default_factory=Surfaces)
    parcels: list[tuple[BaseGeometry, int]] = field(default_factory=list)
    """Ground that differs from the scene's own, with its surface; disjoint."""
    covers: list[tuple[BaseGeometry, int]] = field(default_factory=list)
    """Drives and yards on top of parcels; disjoint."""
    lines: list[Line] = field(default_factory=list)
    islands: list[BaseGeometry] = field(default_factory=list)
    """Medians and the middles of roundabouts."""
    discs: list[BaseGeometry] = field(default_factory=list)
    """Roundabouts, to their outer edge."""
    water: list[BaseGeometry] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    """x, y, half length, half width, angle, eave, ridge (m), roof form, surface, group: a group stands or falls together."""
    trees: list[FloatArray] = field(default_factory=list)
    """(N,4) arrays: x, y, radius, height (m)."""
    groups: int = 0

    def warp(self, xy: FloatArray) -> FloatArray:
        """(N,2) planned metres to scene metres."""
        shift = np.zeros_like(xy)
        for kx, ky, phase, dx, dy in self.bend:
            shift += np.sin(xy[:, 0] * kx + xy[:, 1] * ky + phase)[:, None] * (dx, dy)
        return xy + shift

    def near(self, shape: BaseGeometry) -> bool:
        """True where a shape may be seen."""
        return bool(shapely.box(-40, -40, self.extent[0] + 40, self.extent[1] + 40).intersects(shape))


def draw_bend(rng: np.random.Generator) -> FloatArray:
    """Waves of 250–1500 m whose slopes stay gentle, so that boxes stay boxes."""
    length, heading = rng.uniform(250, 1500, 4), rng.uniform(0, 2 * np.pi, 4)
    size, towards = length * rng.uniform(0.003, 0.018, 4), rng.uniform(0, 2 * np.pi, 4)
    k = 2 * np.pi / length
    columns = (k * np.cos(heading), k * np.sin(heading), rng.uniform(0, 2 * np.pi, 4), size * np.cos(towards), size * np.sin(towards))
    return np.stack(columns, axis=1)


def add_base_surfaces(rng: np.random.Generator, plan: Plan) -> None:
    """The surfaces numbered above, in that order."""
    style, add, colours = plan.style, plan.surfaces.add, CLIMATES[plan.style.climate]
    ground: RGB = pick(rng, colours["grass"]) if style.green_ground else style.soil[0]
    label = VEGETATION if style.green_ground else LAND
    shore = pick(rng, colours["soil"])
    ripples = (float(rng.uniform(2, 6)), float(rng.uniform(0, np.pi)), float(max(rng.uniform(-0.05, 0.1), 0)))
    dunes = (float(rng.uniform(7, 30)), float(rng.uniform(0, np.pi)), float(max(rng.uniform(-0.05, 0.06), 0)))
    add((0, 0, 0), LAND)
    add(ground, label, fine=0.07, coarse=0.09, stain=0.2, rows=(1.0, 0.0, 0.0) if style.green_ground else dunes)
    add(style.pavement, LAND, fine=0.06, stain=0.1)
    add(style.asphalt, ROAD, fine=0.03, coarse=0.05)
    add(jitter(rng, style.asphalt, 0.16), ROAD, fine=0.04, coarse=0.08, stain=0.08)
    add(style.dirt, ROAD, fine=0.07, coarse=0.1, stain=0.1)
    add((222, 220, 208), ROAD, fine=0.1)
    add(jitter(rng, style.asphalt, 0.15), ROAD, fine=0.03)
    add(blend(style.dirt, ground, 0.55), ROAD, fine=0.08)
    add(pick(rng, colours["grass"]), VEGETATION, fine=0.07)
    bank = LAND if rng.random() < 0.6 else VEGETATION
    add(shore if bank == LAND else pick(rng, colours["grass"]), bank, fine=0.08, coarse=0.1, stain=0.15)
    speckle = float(rng.uniform(0.01, 0.1))
    add(blend(style.water, shore, float(rng.uniform(0.05, 0.3))), WATER, fine=speckle, coarse=0.1, rows=ripples)
    add(style.water, WATER, fine=speckle, coarse=float(rng.uniform(0.03, 0.14)), rows=ripples)
