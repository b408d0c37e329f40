"""Colours of an invented place, as a sensor would show them in full light: RGB, 0…255."""

from __future__ import annotations

import numpy as np

RGB = tuple[float, float, float]

CLIMATES: dict[str, dict[str, tuple[RGB, ...]]] = {
    "desert": {
        "soil": ((206, 199, 190), (196, 180, 158), (214, 209, 204), (186, 164, 136)),
        "crop": ((88, 102, 62), (104, 112, 74)),
        "grass": ((104, 114, 78), (110, 118, 84)),
        "tree": ((62, 72, 48), (74, 80, 58), (56, 66, 50)),
    },
    "dry": {
        "soil": ((166, 144, 116), (150, 132, 108), (178, 160, 132), (138, 116, 92)),
        "crop": ((92, 108, 64), (120, 124, 76), (78, 94, 58), (122, 128, 78)),
        "grass": ((104, 114, 74), (98, 108, 70), (112, 118, 80)),
        "tree": ((64, 76, 50), (54, 66, 46), (78, 84, 58)),
    },
    "green": {
        "soil": ((150, 132, 106), (134, 116, 94), (162, 148, 122), (120, 104, 86)),
        "crop": ((80, 108, 60), (98, 122, 68), (68, 92, 56), (128, 136, 76)),
        "grass": ((92, 112, 68), (80, 102, 62), (108, 122, 80)),
        "tree": ((48, 68, 42), (58, 78, 46), (42, 58, 40)),
    },
}
ROOFS: dict[str, tuple[RGB, ...]] = {
    "pitched": ((150, 98, 78), (136, 92, 76), (112, 96, 86), (96, 94, 96), (74, 74, 80), (132, 124, 116), (166, 126, 102)),
    "flat": ((206, 202, 194), (184, 174, 156), (150, 148, 144), (116, 116, 118), (226, 226, 222), (168, 150, 130), (88, 88, 92)),
    "shed": ((216, 218, 220), (176, 180, 184), (134, 140, 146), (98, 118, 146), (108, 126, 116), (150, 112, 96), (104, 104, 108)),
}
WATERS: tuple[RGB, ...] = ((16, 24, 26), (24, 52, 40), (34, 62, 66), (74, 78, 62), (44, 60, 78), (58, 70, 54), (84, 82, 64), (60, 62, 64))
PAINTS: tuple[RGB, ...] = ((150, 52, 48), (46, 76, 130), (196, 150, 60), (60, 104, 84), (214, 212, 206))


def jitter(rng: np.random.Generator, rgb: RGB, spread: float = 0.08) -> RGB:
    """`rgb` a little lighter or darker, and a little off in hue."""
    gain = np.exp(rng.normal(0.0, spread)) * np.exp(rng.normal(0.0, min(spread / 4, 0.022), 3))
    red, green, blue = (np.asarray(rgb) * gain).tolist()
    return red, green, blue


def pick(rng: np.random.Generator, options: tuple[RGB, ...], spread: float = 0.08) -> RGB:
    """One of `options`, jittered."""
    return jitter(rng, options[int(rng.integers(len(options)))], spread)


def grey(rng: np.random.Generator, low: float, high: float) -> RGB:
    """A nearly neutral tone between two brightnesses."""
    value, warm = float(rng.uniform(low, high)), float(rng.normal(0.02, 0.03))
    return value * (1 + warm), value, value * (1 - warm)


def blend(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of `second` in `first`."""
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(first, second, strict=True))
    return red, green, blue
