"""From random numbers to a plan."""

from __future__ import annotations

import numpy as np

from .plan import Plan, add_base_surfaces, draw_bend
from .streets import plan_roads
from .style import draw_style
from .terrain import plan_districts, plan_water
from .trees import plant

LARGE_M = 1200.0


def make_plan(rng: np.random.Generator, extent: tuple[float, float], *, showcase: bool) -> Plan:
    """Plan a scene of `extent` (width, height) metres; a showcase, or one over 1.2 km, has a river, a lake and all land uses."""
    rich = showcase or min(extent) > LARGE_M
    style = draw_style(rng, rich=rich)
    plan = Plan(style, extent, draw_bend(rng))
    add_base_surfaces(rng, plan)
    districts, ridges = plan_districts(rng, style, extent, rich=rich)
    plan_water(rng, plan, rich=rich)
    plan_roads(rng, plan, districts, ridges, rich=rich)
    plant(rng, plan, districts)
    return plan
