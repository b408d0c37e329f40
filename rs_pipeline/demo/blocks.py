"""What covers a block: lots, lawns, yards, fields."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from .buildings import build
from .palette import CLIMATES, grey, jitter, pick
from .plan import District, Plan, Rect
from .style import LAND, VEGETATION

LOT_M = {"suburb": (15, 27), "compact": (10, 18), "apartments": (30, 60), "industrial": (45, 110), "farm": (40, 200)}


def fill_block(rng: np.random.Generator, plan: Plan, district: District, inner: BaseGeometry, block: Rect) -> None:
    """Cut a block into lots and use each; lots that leave the district (`inner`) are trimmed and stay empty."""
    if block[2] - block[0] < 8 or block[3] - block[1] < 8:
        return
    outline = district.frame.rectangle(block)
    if not inner.intersects(outline) or not plan.near(outline):
        return
    if district.use not in LOT_M:
        add_parcel(rng, plan, shapely.intersection(outline, inner), district, None)
        return
    # neighbours differ less than strangers: many blocks have one ground
    shared = ground_of(rng, plan, district) if district.use != "farm" and rng.random() < 0.55 else None
    for lot in split(rng, block, district.use):
        use_lot(rng, plan, district, inner, lot, shared)


def use_lot(rng: np.random.Generator, plan: Plan, district: District, inner: BaseGeometry, lot: Rect, shared: int | None) -> None:
    """Build on a lot that fits; cut a large one that does not into four and try those."""
    shape = district.frame.rectangle(lot)
    if district.use == "farm":
        add_parcel(rng, plan, shapely.intersection(shape, inner), district, shared)
        if rng.random() < 0.06 and inner.contains(shape):
            build(rng, plan, district, lot, "industrial" if rng.random() < 0.5 else "suburb")
    elif inner.contains(shape):
        add_parcel(rng, plan, shape, district, shared)
        if rng.random() < 0.94:
            build(rng, plan, district, lot, district.use)
    elif inner.intersects(shape):
        u0, v0, u1, v1 = lot
        if min(u1 - u0, v1 - v0) < 44:
            add_parcel(rng, plan, shapely.intersection(shape, inner), district, shared)
            return
        u, v = (u0 + u1) / 2, (v0 + v1) / 2
        for part in ((u0, v0, u, v), (u, v0, u1, v), (u0, v, u, v1), (u, v, u1, v1)):
            use_lot(rng, plan, district, inner, part, shared)


def split(rng: np.random.Generator, block: Rect, use: str) -> list[Rect]:
    """Lots of a block: rows that face its two long streets, or fields."""
    u0, v0, u1, v1 = block
    rows = 2 if use in {"suburb", "compact"} or rng.random() < 0.5 else 1
    edges = [v0, v1] if rows == 1 else [v0, v0 + (v1 - v0) * float(rng.uniform(0.44, 0.56)), v1]
    lots: list[Rect] = []
    for low, high in pairwise(edges):
        count = max(1, round((u1 - u0) / float(rng.uniform(*LOT_M[use]))))
        cuts = np.linspace(u0, u1, count + 1)
        cuts[1:-1] += rng.uniform(-0.12, 0.12, count - 1) * (u1 - u0) / count
        lots += [(a, low, b, high) for a, b in pairwise(cuts.tolist())]
    return lots


def add_parcel(rng: np.random.Generator, plan: Plan, shape: BaseGeometry, district: District, shared: int | None) -> None:
    """Cover a piece of ground with `shared`, or with a surface of its own as its district's use asks."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area > 20]
    if parts:
        code = ground_of(rng, plan, district) if shared is None else shared
        plan.parcels.extend((part, code) for part in parts)


def ground_of(rng: np.random.Generator, plan: Plan, district: District) -> int:
    """A new surface for a parcel."""
    style, colours, add, use = plan.style, CLIMATES[plan.style.climate], plan.surfaces.add, district.use
    fine, coarse = float(rng.uniform(0.03, 0.08)), float(rng.uniform(0.04, 0.12))
    if use == "farm":
        turn = float(rng.choice((0.0, np.pi / 2)))
        rows = (float(rng.uniform(1.2, 7)), district.frame.angle + turn, float(max(rng.uniform(-0.03, 0.09), 0)))
        if rng.random() < 0.3 + 0.4 * style.lushness:
            return add(pick(rng, colours["crop"], 0.14), VEGETATION, fine=fine, coarse=coarse, stain=0.15, rows=rows)
        return add(pick(rng, colours["soil"], 0.12), LAND, fine=fine, coarse=coarse, stain=0.12, rows=rows)
    lawn = use in {"suburb", "apartments"} and rng.random() < style.lushness + 0.15
    if lawn or use in {"forest", "park"}:
        return add(pick(rng, colours["grass"], 0.1), VEGETATION, fine=0.06, coarse=coarse, stain=0.15)
    if use in {"industrial", "apartments"}:
        return add(grey(rng, 75, 190), LAND, fine=0.05, coarse=coarse, stain=0.22)
    if use == "compact":
        return add(jitter(rng, style.pavement if rng.random() < 0.5 else style.soil[1], 0.1), LAND, fine=0.06, stain=0.15)
    return add(pick(rng, colours["soil"], 0.08), LAND, fine=fine, coarse=coarse, stain=0.25)
