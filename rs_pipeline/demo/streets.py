"""The main roads, the collectors between districts, and each district's own grid."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import LineString

from .blocks import fill_block
from .palette import PAINTS, grey, pick
from .plan import FLAT, District, FloatArray, Line, Plan
from .style import ROAD
from .terrain import meander

Point = tuple[float, float]
BUILT = ("compact", "suburb", "apartments", "industrial")
GRIDS = {  # block length and depth in metres, road width, kind
    "compact": ((50, 90), (30, 44), (4, 6.5), "local"),
    "suburb": ((110, 200), (58, 76), (5.5, 8), "local"),
    "apartments": ((90, 150), (70, 110), (6, 9), "local"),
    "industrial": ((130, 220), (90, 150), (7, 11), "local"),
    "farm": ((180, 420), (120, 260), (4, 5.5), "dirt"),
    "orchard": ((150, 260), (90, 160), (4, 5), "dirt"),
    "bare": ((220, 500), (220, 500), (4, 6), "dirt"),
    "forest": ((250, 500), (250, 500), (4, 5), "dirt"),
    "park": ((90, 160), (90, 160), (4, 4.5), "dirt"),
}


def plan_roads(rng: np.random.Generator, plan: Plan, districts: list[District], ridges: list[LineString], *, rich: bool) -> None:
    """All centre lines, and what fills the blocks between them."""
    for _ in range(1 + (min(plan.extent) > 600) if rich else int(rng.random() < 0.55)):
        add_main_road(rng, plan)
    built = shapely.union_all([d.polygon for d in districts if d.use in BUILT])
    for ridge in ridges:
        town = bool(ridge.distance(built) < 1)
        if rng.random() < (0.9 if town else 0.35):
            kind = "local" if town or rng.random() < 0.4 else "dirt"
            plan.lines.append(Line(ridge, float(rng.uniform(6.5, 10) if kind == "local" else rng.uniform(4, 6)), kind))
    for district in districts:
        plan_grid(rng, plan, district)
    for line in plan.lines:
        if line.kind != "dirt" and line.width > 5:
            drive_cars(rng, plan, line)


def add_main_road(rng: np.random.Generator, plan: Plan) -> None:
    """A curved road through the scene, perhaps with a median, perhaps with a roundabout."""
    path, width = LineString(meander(rng, plan.extent, 0.02 * min(plan.extent) + 6, 0.05)), float(rng.uniform(9, 14))
    if width > 11 and rng.random() < 0.5:
        width += 6
        plan.islands.append(path.buffer(float(rng.uniform(1.0, 2.5)), cap_style="flat"))
    plan.lines.append(Line(path, width, "main"))
    if rng.random() < 0.35:
        radius = float(rng.uniform(16, 28))
        centre = path.interpolate(path.length * float(rng.uniform(0.35, 0.65)))
        plan.discs.append(centre.buffer(radius))
        plan.islands.append(centre.buffer(radius - float(rng.uniform(8, 11))))


def ticks(rng: np.random.Generator, reach: float, span: tuple[float, float]) -> FloatArray:
    """Irregular steps that cover -reach…reach."""
    mean = rng.uniform(*span)
    steps = mean * rng.uniform(0.85, 1.15, int(2 * reach / (0.85 * mean)) + 3)
    return np.asarray(np.cumsum(steps) - steps[0] - reach - rng.uniform(0, mean))


def plan_grid(rng: np.random.Generator, plan: Plan, district: District) -> None:
    """The grid of a district's streets, and the blocks between them."""
    lengths, depths, widths, kind = GRIDS[district.use]
    width, far = float(rng.uniform(*widths)), district.reach * 1.2
    inner = shapely.buffer(district.polygon, -(5.0 + plan.style.verge_m) if kind == "local" else -0.3)
    shapely.prepare(inner)
    beside = plan.style.verge_m + float(rng.uniform(0.2, 2.0)) if kind == "local" else 0.4
    open_share = 0.96 if kind == "local" else float(rng.choice((0.0, 0.4, 0.7)))
    edges = []
    for span, across in ((lengths, False), (depths, True)):
        at = ticks(rng, district.reach, span)
        drawn = rng.random(len(at)) < open_share
        ends = [((-far, a), (far, a)) if across else ((a, -far), (a, far)) for a in at[drawn].tolist()]
        add_streets(plan, district, ends, width, kind)
        # ground that no street divides is left undivided: a gap would look like a track
        gap = np.where(drawn, width / 2 + beside, 0.0)
        edges.append(list(zip((at + gap)[:-1].tolist(), (at - gap)[1:].tolist(), strict=True)))
    for u0, u1 in edges[0]:
        for v0, v1 in edges[1]:
            fill_block(rng, plan, district, inner, (u0, v0, u1, v1))


def add_streets(plan: Plan, district: District, ends: list[tuple[Point, Point]], width: float, kind: str) -> None:
    """Straight streets of a district, cut at its border; not those that would run along the border."""
    if not ends:
        return
    lines = shapely.linestrings(district.frame.to_scene(np.array(ends)))
    cut = shapely.get_parts(shapely.intersection(lines, district.polygon))
    rim = shapely.buffer(shapely.boundary(district.polygon), 16.0)
    along = shapely.length(shapely.intersection(cut, rim)) > 0.5 * np.maximum(shapely.length(cut), 70.0)
    plan.lines.extend(Line(path, width, kind) for path in cut[~along & (shapely.length(cut) > 12)] if plan.near(path))


def drive_cars(rng: np.random.Generator, plan: Plan, line: Line) -> None:
    """Cars and a few lorries along a road, keeping right."""
    count = rng.poisson(line.path.length / plan.style.traffic_m)
    spots, ahead = line.spots(rng.uniform(0, line.path.length, count))
    for (x, y), (dx, dy) in zip(spots.tolist(), ahead.tolist(), strict=True):
        side, lorry = float(rng.choice((-0.27, 0.27))) * line.width, rng.random() < 0.08
        code = car_surface(rng, plan, ROAD)
        half = rng.uniform(4, 7) if lorry else rng.uniform(1.9, 2.5)
        tall = 3.2 if lorry else 1.4
        spot = (x - dy * side, y + dx * side)
        plan.boxes.append((*spot, half, 1.2 if lorry else 0.92, np.arctan2(dy, dx), tall, tall, FLAT, code, -1))


def car_surface(rng: np.random.Generator, plan: Plan, label: int) -> int:
    """A car's paint, with the class of the ground below it."""
    tone = grey(rng, 25, 245) if rng.random() < 0.8 else pick(rng, PAINTS)
    return plan.surfaces.add(tone, label, fine=0.0, coarse=0.0)
