"""A plan drawn to rasters: which surface, how high, which tree crown."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from .burn import UIntArray, fill, stamp_boxes, stamp_crowns
from .plan import DEEP, DIRT, GROUND, ISLAND, LOCAL, MAIN, MARKING, PATCH, SHALLOW, SHORE, STRIP, VERGE, FloatArray, Plan
from .style import BUILDING, LAND, ROAD, VEGETATION

DECK_CM = 350
"""Height of bridges."""


@dataclass(slots=True)
class Canvas:
    """Rasters (H,W) under construction, and the vectors that made them, in pixels."""

    px_m: float
    pad_px: int
    surface: UIntArray
    """Row of the plan's surface table."""
    height_cm: NDArray[np.uint16]
    """Height above the ground."""
    crown: NDArray[np.uint8]
    """Tone 1…255 of the tree crown seen, 0 where there is none."""
    shapes: dict[str, BaseGeometry] = field(default_factory=dict)
    """roads, water and buildings as laid out, before trees hide them."""

    def cover(self, plan: Plan, shapes: list[BaseGeometry], codes: list[int]) -> None:
        """Fill disjoint shapes (planned metres) with surfaces."""
        if shapes:
            fill(self.to_pixels(plan, shapes), np.array(codes), self.surface)

    def to_pixels(self, plan: Plan, shapes: list[BaseGeometry]) -> NDArray[np.object_]:
        """Planned metres to bent pixels; long edges are cut so that they can bend."""
        fine = shapely.segmentize(np.array(shapes, dtype=object), 12.0)
        return np.asarray(shapely.transform(fine, lambda xy: plan.warp(xy) / self.px_m + self.pad_px))


def draw(rng: np.random.Generator, plan: Plan, shape: tuple[int, int], px_m: float, pad_px: int) -> Canvas:
    """Draw the plan, ground first, trees last."""
    code = np.min_scalar_type(len(plan.surfaces.rows))
    canvas = Canvas(px_m, pad_px, np.full(shape, GROUND, code), np.zeros(shape, np.uint16), np.zeros(shape, np.uint8))
    for layer in (plan.parcels, plan.covers):
        canvas.cover(plan, [shape for shape, _ in layer], [code for _, code in layer])
    draw_roads(rng, plan, canvas)
    draw_boxes(plan, canvas)
    draw_trees(rng, plan, canvas)
    return canvas


def road_areas(plan: Plan, water: BaseGeometry) -> dict[str, BaseGeometry]:
    """Areas by kind: small roads end at the bank, main roads bridge it; corners are rounded."""
    areas = {
        kind: shapely.union_all([shapely.buffer(line.path, line.width / 2, quad_segs=4) for line in plan.lines if line.kind == kind])
        for kind in ("main", "local", "dirt")
    }
    areas["local"] = shapely.union_all([areas["local"], *plan.discs])
    paved = shapely.union_all([areas["main"], areas["local"]])
    areas["local"] = shapely.buffer(shapely.buffer(paved, 3.0, quad_segs=4), -3.0, quad_segs=4)
    islands, bank = shapely.union_all(plan.islands), shapely.buffer(water, plan.style.bank_m)
    without = {kind: shapely.difference(area, islands if kind == "main" else shapely.union(islands, bank)) for kind, area in areas.items()}
    return {kind: _without_crumbs(area) for kind, area in without.items()}


def _without_crumbs(area: BaseGeometry) -> BaseGeometry:
    """Less the pieces that water cut off on islets."""
    return shapely.MultiPolygon([part for part in shapely.get_parts(area) if part.area > 200])


def draw_roads(rng: np.random.Generator, plan: Plan, canvas: Canvas) -> None:
    """Banks, water, then roads and what is painted and patched on them."""
    water = shapely.union_all(plan.water)
    areas = road_areas(plan, water)
    shore = shapely.buffer(water, plan.style.bank_m)
    paved = shapely.union_all([areas["local"], areas["main"], *plan.islands])
    verge = shapely.difference(shapely.buffer(paved, plan.style.verge_m, quad_segs=2), shore)
    layers: list[tuple[BaseGeometry, int]] = [
        (verge, VERGE),
        (shore, SHORE),
        (water, SHALLOW),
        (shapely.buffer(water, -plan.style.shallow_m), DEEP),
    ]
    layers += [(shapely.difference(shapely.union_all(plan.islands), water), ISLAND), (areas["dirt"], DIRT), (areas["local"], LOCAL)]
    layers += [(areas["main"], MAIN), (dirt_strips(plan, areas["dirt"]), STRIP), (patches(rng, plan, areas["local"]), PATCH)]
    layers += [(shapely.intersection(mark_lanes(plan), shapely.difference(areas["main"], shapely.union_all(plan.discs))), MARKING)]
    for shape, code in layers:
        canvas.cover(plan, [shape], [code])
    # decks throw shadows on the water
    fill(canvas.to_pixels(plan, [shapely.intersection(areas["main"], shore)]), np.array([DECK_CM]), canvas.height_cm)
    roads = shapely.union_all(list(areas.values()))
    canvas.shapes["roads"], canvas.shapes["water"] = canvas.to_pixels(plan, [roads, shapely.difference(water, areas["main"])])


def dirt_strips(plan: Plan, area: BaseGeometry) -> BaseGeometry:
    """The strip between the wheels of a track."""
    strips = shapely.union_all([shapely.buffer(line.path, 0.45) for line in plan.lines if line.kind == "dirt" and line.width < 5])
    return shapely.intersection(strips, area)


def patches(rng: np.random.Generator, plan: Plan, area: BaseGeometry) -> BaseGeometry:
    """Stretches of newer or older asphalt."""
    pieces = []
    for line in plan.lines:
        if line.kind == "local" and rng.random() < 0.5:
            start, half = float(rng.uniform(0, line.path.length)), line.width / 2 * float(rng.uniform(0.4, 1.0))
            piece = substring(line.path, start, start + float(rng.uniform(4, 60)))
            pieces.append(piece.buffer(half, cap_style="flat"))
    return shapely.intersection(shapely.union_all(pieces), area)


def mark_lanes(plan: Plan) -> BaseGeometry:
    """Edge lines, and a dashed line along the middle of each carriageway, on main roads."""
    marks: list[BaseGeometry] = []
    for line in plan.lines:
        if line.kind != "main":
            continue
        marks += [line.path.offset_curve(side * (line.width / 2 - 0.7)).buffer(0.16) for side in (-1.0, 1.0)]
        for offset in (-line.width / 4, line.width / 4) if line.width > 14 else (0.0,):
            lanes = [part for part in shapely.get_parts(line.path.offset_curve(offset)) if isinstance(part, LineString)]
            marks += [
                substring(lane, start, start + 4.0).buffer(0.2, cap_style="flat")
                for lane in lanes
                for start in np.arange(0, lane.length, 12.0).tolist()
            ]
    return shapely.union_all(marks)


def bend_boxes(plan: Plan, boxes: FloatArray) -> FloatArray:
    """Boxes moved and turned with the ground they stand on."""
    ahead = np.stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])], axis=1)
    here, there = plan.warp(boxes[:, :2]), plan.warp(boxes[:, :2] + ahead)
    bent = boxes.copy()
    bent[:, :2] = here
    bent[:, 4] = np.arctan2(*(there - here).T[::-1])
    return bent


def draw_boxes(plan: Plan, canvas: Canvas) -> None:
    """Buildings, cars and clutter, less those that would stand on the wrong ground; houses go with all their parts."""
    boxes = bend_boxes(plan, np.array(plan.boxes).reshape(-1, 10))
    boxes[:, :2] = boxes[:, :2] / canvas.px_m + canvas.pad_px
    boxes[:, 2:4] /= canvas.px_m
    label = plan.surfaces.table()[:, 3].astype(np.uint8)
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    rows, cols, seen = locate(points_of(boxes, u.ravel(), v.ravel()), canvas.surface.shape)
    below = canvas.surface[rows, cols]
    on_road = label[below] == ROAD
    group, driving = boxes[:, 9].astype(np.int64), boxes[:, 9] < 0
    # roads, verges, islands, banks and water carry no houses
    blocked = ((below >= VERGE) & (below <= DEEP) & seen).any(axis=1) & ~driving
    keep = np.where(driving, (on_road | ~seen).all(axis=1), ~np.isin(group, np.unique(group[blocked])))
    boxes = boxes[keep]
    codes = boxes[:, 8].astype(np.int64)
    stamp_boxes(boxes[:, :8], codes, canvas.px_m, canvas.surface, canvas.height_cm)
    rings = points_of(boxes[label[codes] == BUILDING], np.array([-1.0, 1, 1, -1]), np.array([-1.0, -1, 1, 1]))
    canvas.shapes["buildings"] = shapely.union_all(shapely.polygons(rings)) if len(rings) else shapely.MultiPolygon()


def points_of(boxes: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """(N,points,2): points of each box at relative places u, v in -1…1."""
    cos, sin = np.cos(boxes[:, 4:5]), np.sin(boxes[:, 4:5])
    du, dv = boxes[:, 2:3] * u, boxes[:, 3:4] * v
    return np.stack([boxes[:, :1] + du * cos - dv * sin, boxes[:, 1:2] + du * sin + dv * cos], axis=-1)


def locate(spots: FloatArray, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and columns (clipped) of points (…,2), and which were on the raster."""
    cols, rows = np.floor(spots[..., 0]).astype(np.int64), np.floor(spots[..., 1]).astype(np.int64)
    seen = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    return np.clip(rows, 0, shape[0] - 1), np.clip(cols, 0, shape[1] - 1), seen


def draw_trees(rng: np.random.Generator, plan: Plan, canvas: Canvas) -> None:
    """Trees whose trunk is on open ground; crowns may hang over roads and roofs."""
    trees = np.concatenate([np.zeros((0, 4)), *plan.trees])
    trees[:, :2] = plan.warp(trees[:, :2]) / canvas.px_m + canvas.pad_px
    trees[:, 2] /= canvas.px_m
    rows, cols, seen = locate(trees[:, :2], canvas.surface.shape)
    open_ground = np.isin(plan.surfaces.table()[:, 3], (LAND, VEGETATION))
    trees = trees[seen & open_ground[canvas.surface[rows, cols]]]
    stamp_crowns(rng, trees, canvas.crown, canvas.height_cm)
