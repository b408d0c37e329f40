"""From surfaces and heights to what a camera sees: texture, sun and shadow, then the sensor. Row bands keep memory flat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .burn import UIntArray
from .canvas import Canvas
from .palette import CLIMATES
from .plan import GROUND, Plan
from .style import Sensor

FloatArray = NDArray[np.float32]
BAND_ROWS = 256
HALO_ROWS = 8
GRAINS_M = (0.5, 2.5, 18.0, 140.0)
"""Sizes of the noise's grains: specks, tufts, patches, drifts."""
AIRLIGHT = (188.0, 196.0, 208.0)
"""What the air alone looks like."""


def cast_shadows(height_cm: NDArray[np.uint16], sun: tuple[float, float], fall_cm: float) -> NDArray[np.bool_]:
    """(H,W) True where something nearer to the sun is in the way.

    The shadow's ceiling travels with the light one row (or column) at a time, `fall_cm` lower per pixel of way.
    """
    dx, dy = sun
    swap = abs(dx) > abs(dy)
    heights = height_cm.T if swap else height_cm
    along, across = (dx, dy) if swap else (dy, dx)
    dark = np.zeros(heights.shape, bool)
    rows = range(heights.shape[0]) if along > 0 else range(heights.shape[0] - 1, -1, -1)
    slope, drop = across / abs(along), fall_cm / abs(along)
    ceiling = np.zeros(heights.shape[1], np.float32)
    for step, row in enumerate(rows):
        shift = round((step + 1) * slope) - round(step * slope)
        if shift:
            ceiling = np.roll(ceiling, shift)
            ceiling[slice(0, shift) if shift > 0 else slice(shift, None)] = 0
        ceiling -= drop
        # a quarter of a metre of tolerance: roofs must not shade themselves through rounding
        np.greater(ceiling, heights[row] + 25.0, out=dark[row])
        np.maximum(ceiling, heights[row], out=ceiling)
    return dark.T if swap else dark


class Noise:
    """Smooth noise of one grain: standard normals on a coarse grid, read between its points."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> None:
        self.grain = max(grain_px, 1.0)
        self.grid = rng.standard_normal((int(shape[0] / self.grain) + 4, int(shape[1] / self.grain) + 4), np.float32)

    def rows(self, start: int, stop: int, width: int) -> FloatArray:
        """(stop-start, width): quadratic B-splines for coarse grains, whose creases would show, else bilinear."""
        lines = self._between(self.grid, np.arange(start, stop, dtype=np.float32) / self.grain)
        return self._between(lines.T, np.arange(width, dtype=np.float32) / self.grain).T

    def _between(self, grid: FloatArray, at: FloatArray) -> FloatArray:
        """Values of `grid`'s first axis at fractional places."""
        index = at.astype(np.int64)
        part = (at - index)[:, None]
        if self.grain < 12:
            return np.asarray(grid[index] * (1 - part) + grid[index + 1] * part)
        # the spline smooths: 1.25 per axis gives the variance back
        ends = 0.625 * (grid[index] * (1 - part) ** 2 + grid[index + 2] * part**2)
        return np.asarray(ends + 1.25 * (0.75 - (part - 0.5) ** 2) * grid[index + 1])


def shade(rng: np.random.Generator, plan: Plan, canvas: Canvas, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(3,H,W) image of the canvas without its margin."""
    sensor, pad, (height, width) = plan.style.sensor, canvas.pad_px, shape
    dark = cast_shadows(canvas.height_cm, sensor.sun, 100 * sensor.sun_slope * canvas.px_m)
    noises = [Noise(rng, canvas.surface.shape, grain / canvas.px_m) for grain in GRAINS_M]
    crowns = crown_tones(rng, plan.style.climate)
    table = plan.surfaces.table()
    image = np.empty((3, height, width), np.uint8)
    for row in range(0, height, BAND_ROWS):
        stop = min(row + BAND_ROWS, height)
        part = slice(row + pad - HALO_ROWS, stop + pad + HALO_ROWS)
        lit = light_band(plan, canvas, table, crowns, dark[part], noises, part)
        image[:, row:stop] = expose(rng, lit, sensor, pad, width)
    return image


def crown_tones(rng: np.random.Generator, climate: str) -> FloatArray:
    """(256,3) colours of tree crowns."""
    base = np.asarray(CLIMATES[climate]["tree"], np.float32)[rng.integers(3, size=256)]
    return np.asarray(base * np.exp(rng.normal(0, 0.13, (256, 1))) * np.exp(rng.normal(0, 0.04, (256, 3))), np.float32)


def light_band(
    plan: Plan, canvas: Canvas, table: FloatArray, crowns: FloatArray, dark: NDArray[np.bool_], noises: list[Noise], part: slice
) -> FloatArray:
    """(3,rows,W) lit colours of the canvas's rows `part`."""
    style, sensor, surface, crown = plan.style, plan.style.sensor, canvas.surface[part], canvas.crown[part]
    speck, tuft, patch, drift = (noise.rows(part.start, part.stop, surface.shape[1]) for noise in noises)
    gain = 1 + table[:, 4][surface] * (speck + tuft) + table[:, 5][surface] * (patch + 0.7 * drift)
    gain -= table[:, 9][surface] * np.clip(patch + 0.6 * tuft - 0.7, 0, 1)
    add_rows(gain, table, surface, part.start, canvas.px_m, drift, patch)
    steep_y, steep_x = np.gradient(canvas.height_cm[part].astype(np.float32), 100 * canvas.px_m)
    # slopes that rise in the light's direction face the sun
    gain *= np.clip(1 + 0.45 * (steep_x * sensor.sun[0] + steep_y * sensor.sun[1]), 0.5, 1.35)
    mix = np.where(surface == GROUND, np.clip(0.5 + 0.35 * drift + 0.25 * patch, 0, 1), 0) if not style.green_ground else None
    is_crown = crown > 0
    lit = np.empty((3, *surface.shape), np.float32)
    for channel in range(3):
        tone = table[:, channel][surface]
        if mix is not None:
            tone += mix * (style.soil[1][channel] - style.soil[0][channel])
        np.copyto(tone, crowns[:, channel][crown], where=is_crown)
        # what lights a shadow is the sky, and that is blue
        lit[channel] = tone * gain * np.where(dark, np.float32(sensor.shadow * (0.94, 1.0, 1.12)[channel]), np.float32(1))
    return lit


def add_rows(
    gain: FloatArray, table: FloatArray, surface: UIntArray, first_row: int, px_m: float, drift: FloatArray, patch: FloatArray
) -> None:
    """Furrows, seams, ripples: a wave across each surface that has one; long waves meander, and all come and go."""
    rows, cols = np.nonzero((table[:, 8] > 0)[surface])
    if not len(rows):
        return
    pitch, angle, depth = table[surface[rows, cols], 6:9].T
    pitch = np.maximum(pitch, 2.5 * px_m)
    way = (cols * np.cos(angle) + (rows + first_row) * np.sin(angle)) * px_m
    turns = way / pitch + np.where(pitch > 7, 1.5, 0.1) * drift[rows, cols]
    gain[rows, cols] += depth * (0.7 + 0.5 * patch[rows, cols]) * np.sin(2 * np.pi * turns)


def expose(rng: np.random.Generator, lit: FloatArray, sensor: Sensor, pad: int, width: int) -> NDArray[np.uint8]:
    """(3,rows,width) uint8: point spread, colour, haze, noise; cuts the halo and the margin off."""
    inner = slice(HALO_ROWS, -HALO_ROWS), slice(pad, pad + width)
    seen = []
    for channel, gain in zip(lit, sensor.cast, strict=True):
        spread = ndimage.gaussian_filter(channel, sensor.blur_px, truncate=3.0)
        if sensor.sharpen:
            spread += sensor.sharpen * (spread - ndimage.gaussian_filter(spread, 1.3, truncate=3.0))
        seen.append(spread[inner] * gain)
    grey = sum(seen) / 3
    out = np.empty((3, *grey.shape), np.uint8)
    for channel, air in enumerate(AIRLIGHT):
        muted = grey + sensor.saturation * (seen[channel] - grey)
        hazy = (1 - sensor.haze) * (110 + sensor.contrast * (muted - 110)) + sensor.haze * air
        hazy += sensor.noise * rng.standard_normal(hazy.shape, np.float32)
        out[channel] = np.clip(hazy, 0, 255)
    return out
