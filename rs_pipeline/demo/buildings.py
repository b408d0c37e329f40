"""Buildings, and what stands around them: drives, parked cars, containers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .palette import PAINTS, ROOFS, grey, jitter, pick
from .plan import FLAT, GABLE, HIP, District, Plan, Rect
from .style import BUILDING, LAND


@dataclass(frozen=True, slots=True)
class Kind:
    """How a land use builds: metres, and shares of the lot."""

    length: tuple[float, float]
    depth: tuple[float, float]
    share: tuple[float, float]
    """Most of the lot's width and depth that the building takes."""
    eave: tuple[float, float]
    pitched: float
    """Probability of a pitched roof."""
    roof: str
    """Key of `ROOFS` where it is not pitched."""


KINDS = {
    "suburb": Kind((9, 16), (7.5, 11), (0.85, 0.5), (3, 6.5), 0.8, "flat"),
    "compact": Kind((9, 18), (8, 19), (0.98, 0.95), (3.5, 10), 0.25, "flat"),
    "apartments": Kind((16, 60), (12, 26), (0.8, 0.5), (9, 30), 0.1, "flat"),
    "industrial": Kind((18, 110), (14, 70), (0.85, 0.8), (5, 11), 0.0, "shed"),
}


def build(rng: np.random.Generator, plan: Plan, district: District, lot: Rect, use: str) -> None:
    """Put a building on a lot, with what belongs to it."""
    u0, v0, u1, v1 = lot
    kind, wide, deep = KINDS[use], u1 - u0, v1 - v0
    hu = min(wide * kind.share[0], float(rng.uniform(*kind.length))) / 2
    hv = min(deep * kind.share[1], float(rng.uniform(*kind.depth))) / 2
    if min(hu, hv) < 2.5:
        return
    # what stands in the yard is drawn before the walls, so that none of it ends up on a roof
    if use in {"industrial", "compact"} and rng.random() < 0.5:
        add_clutter(rng, plan, district, lot, int(rng.integers(1, 3 + int(wide * deep / 250))))
    plan.groups += 1
    slack_u, slack_v = wide / 2 - hu - 0.4, deep / 2 - hv - 0.4
    u = (u0 + u1) / 2 + rng.uniform(-0.6, 0.6) * max(slack_u, 0)
    # houses stand near the street, which is at the nearer long side of the block
    v = (v0 + v1) / 2 + rng.uniform(-0.7, 0.7) * max(slack_v, 0)
    rect = (u - hu, v - hv, u + hu, v + hv)
    if use == "suburb" and rng.random() < 0.7:
        add_drive(rng, plan, district, lot, rect)
    if use in {"apartments", "industrial"}:
        for low, high in ((v0, v - hv), (v + hv, v1)):
            if high - low > 11 and rng.random() < 0.7:
                park_cars(rng, plan, district, (u0 + 2, low + 2, u1 - 2, high - 2))
    raise_building(rng, plan, district, rect, use)


def add_box(plan: Plan, district: District, rect: Rect, eave: float, ridge: float, form: int, code: int) -> None:
    """One box of the current group."""
    u0, v0, u1, v1 = rect
    x, y = district.frame.to_scene(np.array([(u0 + u1) / 2, (v0 + v1) / 2])).tolist()
    hu, hv, angle = (u1 - u0) / 2, (v1 - v0) / 2, district.frame.angle
    if hv > hu:
        hu, hv, angle = hv, hu, angle + np.pi / 2
    plan.boxes.append((x, y, hu, hv, angle, eave, ridge, form, code, plan.groups))


def raise_building(rng: np.random.Generator, plan: Plan, district: District, rect: Rect, use: str) -> None:
    """The main box, wings, an upper storey, and boxes on a flat roof."""
    u0, v0, u1, v1 = rect
    kind = KINDS[use]
    pitched = rng.random() < kind.pitched * (0.5 if plan.style.climate == "desert" else 1.0)
    roof = "pitched" if pitched else kind.roof
    eave = float(rng.uniform(*kind.eave))
    rise, form = -float(rng.uniform(0.2, 0.7)), FLAT
    if roof != "flat":
        rise, form = float(rng.uniform(1.2, 3.2) if pitched else rng.uniform(0.2, 2.5)), GABLE if rng.random() < 0.5 else HIP
    seams = (float(rng.uniform(1.2, 4)), district.frame.angle + float(rng.choice((0.0, np.pi / 2))), float(rng.uniform(0, 0.06)))
    tone = pick(rng, ROOFS[roof], 0.1)
    code = plan.surfaces.add(
        tone, BUILDING, fine=float(rng.uniform(0.02, 0.06)), coarse=0.05, stain=0.12, rows=seams if roof == "shed" else (1.0, 0.0, 0.0)
    )
    for _ in range(int(rng.random() < 0.45) + int(use == "apartments" and rng.random() < 0.6)):
        half, reach = (u1 - u0) * float(rng.uniform(0.15, 0.3)), float(rng.uniform(2, 5) * rng.choice((-1, 1)))
        reach *= 2 if use == "apartments" else 1
        centre = float(rng.choice((u0 + half, u1 - half)))
        add_box(plan, district, (centre - half, v0 + min(reach, 0), centre + half, v1 + max(reach, 0)), eave, eave + rise, form, code)
    add_box(plan, district, rect, eave, eave + rise, form, code)
    if roof == "flat" and rng.random() < 0.5:
        cut = float(rng.uniform(0.35, 0.75)) * (u1 - u0)
        upper = plan.surfaces.add(jitter(rng, tone, 0.12), BUILDING, fine=0.04)
        add_box(plan, district, (u0, v0, u0 + cut, v1), eave + 3, eave + 2.6, FLAT, upper)
    if roof != "pitched":
        add_units(rng, plan, district, rect, eave + 1.3)


def add_units(rng: np.random.Generator, plan: Plan, district: District, rect: Rect, top: float) -> None:
    """Machines and stair heads on a roof."""
    u0, v0, u1, v1 = rect
    code = plan.surfaces.add(grey(rng, 45, 225), BUILDING)
    for _ in range(int(rng.integers(0, 3 + int((u1 - u0) * (v1 - v0) / 250)))):
        u, v, half = float(rng.uniform(u0 + 2, u1 - 2)), float(rng.uniform(v0 + 2, v1 - 2)), float(rng.uniform(0.6, 1.9))
        add_box(plan, district, (u - half, v - half * 0.8, u + half, v + half * 0.8), top, top, FLAT, code)


def add_drive(rng: np.random.Generator, plan: Plan, district: District, lot: Rect, rect: Rect) -> None:
    """A paved strip from the street to the house, perhaps with a car."""
    half, u = float(rng.uniform(1.4, 2.8)), float(rng.uniform(rect[0] + 2, rect[2] - 2))
    low, high = (lot[1], rect[1]) if rect[1] - lot[1] < lot[3] - rect[3] else (rect[3], lot[3])
    if high - low < 3:
        return
    code = plan.surfaces.add(jitter(rng, plan.style.pavement, 0.15), LAND, fine=0.05)
    plan.covers.append((district.frame.rectangle((u - half, low, u + half, high)), code))
    if rng.random() < 0.5:
        v = (low + high) / 2
        paint = plan.surfaces.add(grey(rng, 25, 245), LAND, fine=0.0)
        add_box(plan, district, (u - 0.92, v - 2.2, u + 0.92, v + 2.2), 1.4, 1.4, FLAT, paint)


def park_cars(rng: np.random.Generator, plan: Plan, district: District, yard: Rect) -> None:
    """An asphalt yard with rows of bays; parking counts as land, as its cars do."""
    u0, v0, u1, v1 = yard
    code = plan.surfaces.add(jitter(rng, plan.style.asphalt, 0.2), LAND, fine=0.04, stain=0.2)
    plan.covers.append((district.frame.rectangle(yard), code))
    full = float(rng.uniform(0.1, 0.9))
    paints = [plan.surfaces.add(grey(rng, 25, 245) if rng.random() < 0.8 else pick(rng, PAINTS), LAND, fine=0.0) for _ in range(12)]
    for v in np.arange(v0 + 3, min(v1 - 3, v0 + 60), 8.5).tolist():
        for u in np.arange(u0 + 2, u1 - 2, 2.7).tolist():
            if rng.random() < full:
                add_box(plan, district, (u - 0.9, v - 2.2, u + 0.9, v + 2.2), 1.4, 1.4, FLAT, int(rng.choice(paints)))


def add_clutter(rng: np.random.Generator, plan: Plan, district: District, rect: Rect, count: int) -> None:
    """Containers, stacks and heaps: land, however much they look like roofs."""
    for _ in range(count):
        code = plan.surfaces.add(pick(rng, PAINTS, 0.2) if rng.random() < 0.5 else grey(rng, 50, 230), LAND)
        u, v = float(rng.uniform(rect[0] + 2, rect[2] - 2)), float(rng.uniform(rect[1] + 2, rect[3] - 2))
        hu, hv = (3.05, 1.22) if rng.random() < 0.5 else tuple(rng.uniform(0.5, 2.5, 2).tolist())
        tall = float(rng.uniform(0.5, 2.6))
        plan.groups += 1
        add_box(plan, district, (u - hu, v - hv, u + hu, v + hv), tall, tall, FLAT, code)
