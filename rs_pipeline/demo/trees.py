"""Where trees grow."""

from __future__ import annotations

import numpy as np
import shapely

from .plan import District, FloatArray, Line, Plan

PER_HECTARE = {
    "forest": 260.0,
    "park": 60.0,
    "suburb": 42.0,
    "apartments": 22.0,
    "compact": 8.0,
    "industrial": 4.0,
    "farm": 2.0,
    "bare": 3.0,
}
"""Trees of a land use at lushness 1; forests are as dense in any climate."""


def plant(rng: np.random.Generator, plan: Plan, districts: list[District]) -> None:
    """Trees of every district, along streets and banks, and on islands."""
    for district in districts:
        if district.use == "orchard":
            plant_orchard(rng, plan, district)
        else:
            plant_district(rng, plan, district)
    for line in plan.lines:
        if line.kind != "dirt" and rng.random() < 0.1 + 0.4 * plan.style.lushness:
            plant_street(rng, plan, line)
    banks = shapely.boundary([shapely.buffer(water, plan.style.bank_m + 1.0) for water in plan.water])
    for line in [Line(bank, 1.0, "bank") for bank in shapely.get_parts(banks)]:
        if rng.random() < 0.3 + plan.style.lushness:
            plant_street(rng, plan, line)


def trees_at(rng: np.random.Generator, spots: FloatArray, radius: float, spread: float) -> FloatArray:
    """(N,4) trees with log-normal crowns."""
    crown = np.clip(radius * np.exp(rng.normal(0, spread, len(spots))), 0.5, 8.0)
    return np.column_stack([spots, crown, crown * rng.uniform(1.4, 2.5, len(spots))])


def plant_orchard(rng: np.random.Generator, plan: Plan, district: District) -> None:
    """Trees in rows."""
    step = rng.uniform(5, 9)
    grid = np.arange(-district.reach, district.reach, step)
    spots = district.frame.to_scene(np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2))
    spots = spots[rng.random(len(spots)) < 0.94]
    spots += rng.normal(0, 0.3, spots.shape)
    plan.trees.append(trees_at(rng, inside(rng, spots, district, 0.0), step * float(rng.uniform(0.22, 0.4)), 0.12))


def plant_district(rng: np.random.Generator, plan: Plan, district: District) -> None:
    """Trees and shrubs in groups and clearings."""
    x0, y0, x1, y1 = shapely.bounds(shapely.clip_by_rect(district.polygon, -20, -20, plan.extent[0] + 20, plan.extent[1] + 20)).tolist()
    if not x1 > x0:
        return
    forest, hectares = district.use == "forest", (x1 - x0) * (y1 - y0) / 1e4
    density = PER_HECTARE[district.use] * (1.0 if forest else plan.style.lushness) * float(rng.uniform(0.5, 1.6))
    shrubs = (60.0 if district.use in {"bare", "park"} else 10.0) * float(rng.uniform(0.1, 1.5))
    for per_hectare, radius in ((density, 3.3 if forest else 2.5), (shrubs, 0.9)):
        count = int(rng.poisson(per_hectare * hectares))
        spots = np.stack([rng.uniform(x0, x1, count), rng.uniform(y0, y1, count)], axis=1)
        spots = spots[rng.random(count) < 1.5 * thicket(rng, spots)]
        plan.trees.append(trees_at(rng, inside(rng, spots, district, 7.0 if forest else 0.0), radius, 0.35))


def thicket(rng: np.random.Generator, spots: FloatArray) -> FloatArray:
    """0…1 for each spot: waves of 25–120 m that gather trees in groups."""
    total = np.full(len(spots), 0.6)
    for length, angle, phase in zip(rng.uniform(25, 120, 5), rng.uniform(0, 2 * np.pi, 5), rng.uniform(0, 2 * np.pi, 5), strict=True):
        total += 0.22 * np.sin(2 * np.pi / length * (spots @ (np.cos(angle), np.sin(angle))) + phase)
    return np.asarray(np.clip(total, 0, 1))


def inside(rng: np.random.Generator, spots: FloatArray, district: District, ragged_m: float) -> FloatArray:
    """The spots that lie in the district, give or take."""
    shapely.prepare(district.polygon)
    moved = spots + rng.normal(0, ragged_m, spots.shape) if ragged_m else spots
    return spots[shapely.contains_xy(district.polygon, moved[:, 0], moved[:, 1])]


def plant_street(rng: np.random.Generator, plan: Plan, line: Line) -> None:
    """A row of trees on one or both sides, with gaps."""
    spots, ahead = line.spots(np.arange(0, line.path.length, rng.uniform(7, 18)))
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    radius, full = float(rng.uniform(1.4, 3.2)), float(rng.uniform(0.3, 0.95))
    for side in (-1.0, 1.0) if rng.random() < 0.7 else (1.0,):
        row = spots + normal * side * (line.width / 2 + 1.6) + rng.normal(0, 0.5, spots.shape)
        plan.trees.append(trees_at(rng, row[rng.random(len(row)) < full], radius, 0.25))
