"""What a scene looks like before anything is placed: climate, sun, sensor, and the land uses to expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .palette import CLIMATES, RGB, WATERS, blend, grey, jitter, pick

DEMO_CLASSES: tuple[str, ...] = ("land", "road", "water", "building", "vegetation")
"""Names of the label values 1…5, in order; every pixel of a scene has one of them."""
LAND, ROAD, WATER, BUILDING, VEGETATION = 1, 2, 3, 4, 5

THEMES: dict[str, dict[str, float]] = {
    "town": {"compact": 4, "suburb": 2, "apartments": 2, "bare": 1.5, "park": 0.7, "industrial": 0.6},
    "suburb": {"suburb": 6, "park": 1, "apartments": 0.7, "forest": 0.8, "farm": 0.6},
    "industrial": {"industrial": 6, "bare": 1.2, "apartments": 0.8, "park": 0.4},
    "farmland": {"farm": 6, "forest": 1, "orchard": 1, "suburb": 0.7, "bare": 0.4},
    "wild": {"bare": 4, "forest": 2, "park": 0.5, "farm": 0.8},
    "mixed": {
        "suburb": 3.2,
        "compact": 1.6,
        "apartments": 1.4,
        "industrial": 1.8,
        "farm": 3,
        "forest": 1,
        "orchard": 0.6,
        "park": 0.7,
        "bare": 0.9,
    },
}


@dataclass(frozen=True, slots=True)
class Sensor:
    """Light and camera."""

    sun: tuple[float, float]
    """Direction the light travels over the ground, unit (column, row)."""
    sun_slope: float
    """Tangent of the sun's elevation."""
    shadow: float
    """Brightness of a shadow relative to the lit ground."""
    haze: float
    """0…1: share of the air's own light."""
    contrast: float
    saturation: float
    cast: RGB
    """Gain per channel."""
    blur_px: float
    """Standard deviation of the point spread."""
    sharpen: float
    """Strength of the unsharp mask a provider would apply."""
    noise: float
    """Standard deviation of the noise, in counts."""


@dataclass(frozen=True, slots=True)
class Style:
    """Everything drawn once per scene; colours are 0…255 RGB before light and camera."""

    climate: str
    """Key of `CLIMATES`."""
    uses: dict[str, float]
    """Weight of each land use."""
    soil: tuple[RGB, RGB]
    """Bare ground and the second tone that it drifts to."""
    asphalt: RGB
    dirt: RGB
    pavement: RGB
    verge_m: float
    """Width of the strip beside paved roads."""
    bank_m: float
    """Width of the strip beside water."""
    shallow_m: float
    """Width of the paler water along the shore."""
    water: RGB
    green_ground: bool
    """True where ground that nobody uses is grass."""
    lushness: float
    """0…1: how many trees and lawns."""
    traffic_m: float
    """Mean distance between cars on a road."""
    sensor: Sensor


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """A key, as likely as its weight."""
    share = np.fromiter(weights.values(), float)
    return list(weights)[int(rng.choice(len(share), p=share / share.sum()))]


def draw_cast(rng: np.random.Generator, spread: float) -> RGB:
    """Gains around 1: the exposure's, times a smaller one of each channel's."""
    red, green, blue = (np.exp(rng.normal(0, spread)) * np.exp(rng.normal(0, spread / 3, 3))).tolist()
    return red, green, blue


def draw_sensor(rng: np.random.Generator, *, gentle: bool) -> Sensor:
    """Sun and camera; a gentle one stays near the middle of what providers deliver."""
    azimuth = rng.uniform(0, 2 * np.pi)
    spread = 0.4 if gentle else 1.0
    return Sensor(
        sun=(float(np.cos(azimuth)), float(np.sin(azimuth))),
        sun_slope=float(np.tan(np.radians(rng.uniform(32, 65)))),
        shadow=float(rng.uniform(0.3, 0.45) if gentle else rng.uniform(0.12, 0.5)),
        haze=float(rng.uniform(0, 0.22) * spread),
        contrast=float(np.exp(rng.uniform(-0.2, 0.42) * spread)),
        saturation=float(1 - rng.uniform(-0.05, 0.6) * spread),
        cast=draw_cast(rng, 0.13 * spread),
        blur_px=float(rng.uniform(0.5, 0.7) if gentle else rng.uniform(0.45, 1.15)),
        sharpen=float(max(rng.uniform(-0.8, 1.2), 0.0) * spread),
        noise=float(rng.uniform(0.8, 4.0) * spread),
    )


def draw_style(rng: np.random.Generator, *, rich: bool) -> Style:
    """The look of one scene; a rich one mixes all land uses, a small one keeps to a theme."""
    climate = choose(rng, {"dry": 1.0} if rich else {"desert": 1.0, "dry": 1.0, "green": 1.2})
    theme = "mixed" if rich else choose(rng, {"town": 1.2, "suburb": 1.3, "industrial": 0.9, "farmland": 1.2, "wild": 0.5, "mixed": 1.0})
    soils = CLIMATES[climate]["soil"]
    soil = pick(rng, soils), pick(rng, soils)
    # pavement lies between concrete and trodden ground, so that its edge with either is not always sharp
    share, concrete = rng.random(), grey(rng, 110, 195)
    pavement = blend(soil[1], concrete, share)
    return Style(
        climate=climate,
        uses=THEMES[theme],
        soil=soil,
        asphalt=grey(rng, 56, 140),
        dirt=jitter(rng, pick(rng, soils, 0.03), 0.1),
        pavement=pavement,
        verge_m=float(max(rng.uniform(-0.8, 3.0), 0.3)),
        bank_m=float(max(rng.uniform(-1.0, 6.0), 0.4)),
        shallow_m=float(max(rng.uniform(-2.0, 7.0), 0.3)),
        water=pick(rng, WATERS, 0.15),
        green_ground=climate == "green" or (climate == "dry" and (rich or bool(rng.random() < 0.3))),
        lushness=float({"desert": 0.25, "dry": 0.5, "green": 0.7}[climate] * (1.0 if rich else rng.uniform(0.5, 1.4))),
        traffic_m=float(rng.uniform(25, 200)),
        sensor=draw_sensor(rng, gentle=rich),
    )


class Surfaces:
    """The table of everything the ground can be covered with; a scene's raster holds row numbers of it."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def add(
        self,
        rgb: RGB,
        label: int,
        *,
        fine: float = 0.04,
        coarse: float = 0.05,
        stain: float = 0.0,
        rows: tuple[float, float, float] = (1.0, 0.0, 0.0),
    ) -> int:
        """Number of a new surface.

        `fine`, `coarse`: relative noise by the metre and by the tens of metres; `stain`: darkness of blotches; `rows`: a wave
        of (pitch in metres, angle, relative depth) for furrows, seams and ripples.
        """
        self.rows.append((*rgb, label, fine, coarse, *rows, stain))
        return len(self.rows) - 1

    def table(self) -> NDArray[np.float32]:
        """(surfaces, 10): red, green, blue, label, fine, coarse, pitch_m, angle, depth, stain."""
        return np.asarray(self.rows, np.float32)
