"""A seed to an image and its labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .canvas import draw
from .layout import make_plan
from .light import HALO_ROWS, shade
from .style import VEGETATION

MARGIN_M = 12.0


@dataclass(frozen=True, slots=True)
class DemoScene:
    """An invented scene with its truth."""

    image: NDArray[np.uint8]
    """(3,H,W) RGB."""
    labels: NDArray[np.uint8]
    """(H,W): 1…5 = `DEMO_CLASSES` in order, what is seen from above; every pixel has a class, so 0 does not occur."""
    roads_px: BaseGeometry
    """Road areas as laid out, x = column and y = row in pixels; trees are not cut out of them, and parts lie off the scene."""
    water_px: BaseGeometry
    """Water areas, likewise."""
    buildings_px: BaseGeometry
    """Footprints, likewise."""


def render_scene(seed: int, height: int, width: int, gsd_m: float = 0.5, *, showcase: bool = False) -> DemoScene:
    """Invent the scene of a seed: `height` × `width` pixels of `gsd_m` metres. The same arguments give the same bytes.

    Crowns over roads and roofs are vegetation, as are lawns and green crops; shadows and cars have the class of the ground
    below them; bridges are road; yards, parking, pavements and bare fields are land.

    A small scene keeps to one theme, and may lack classes. With `showcase`, or over 1.2 km, it has all land uses, a river,
    a lake and main roads, and a kind sensor.
    """
    if height < 1 or width < 1 or not gsd_m > 0:
        raise ValueError(f"a scene has a positive size and pixel, got {height} x {width} px of {gsd_m} m")
    rng = np.random.Generator(np.random.PCG64(seed))
    # a margin, so that shadows and crowns from outside fall into the scene
    pad = max(HALO_ROWS, int(np.ceil(MARGIN_M / gsd_m)))
    plan = make_plan(rng, (width * gsd_m, height * gsd_m), showcase=showcase)
    canvas = draw(rng, plan, (height + 2 * pad, width + 2 * pad), gsd_m, pad)
    inner = slice(pad, pad + height), slice(pad, pad + width)
    labels = plan.surfaces.table()[:, 3].astype(np.uint8)[canvas.surface[inner]]
    labels[canvas.crown[inner] > 0] = VEGETATION
    image = shade(rng, plan, canvas, (height, width))
    roads, water, buildings = (shapely.transform(canvas.shapes[name], lambda xy: xy - pad) for name in ("roads", "water", "buildings"))
    return DemoScene(image, labels, roads, water, buildings)
