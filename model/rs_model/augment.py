"""From scenes to training crops: where to cut, and what light, sensor and scale might have done differently."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rs_model.labels import CLASSES, NOTHING
from rs_model.scenes import Scene

RARE_CENTRE = 0.6
"""Share of crops centred on a pixel of a class drawn evenly, so that rare classes are seen as often as common ones."""
BLANK_SHARE = 0.08
"""Share of crops with a blank margin."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of a scene, in its pixels."""

    top: int
    left: int
    side: int


def place(codes: NDArray[np.uint8], side_px: int, zoom: float, rng: np.random.Generator) -> Window:
    """Where to cut a crop.

    Parameters
    ----------
    codes: (H, W) of the scene.
    side_px: side of the crop that is to come out.
    zoom: output pixels per scene pixel; raised where the scene is too small for it.
    """
    height, width = codes.shape
    side = min(round(side_px / zoom), height, width)
    row, col = _centre(codes, rng)
    top = int(np.clip(row - rng.integers(side), 0, height - side))
    return Window(top, int(np.clip(col - rng.integers(side), 0, width - side)), side)


def cut(scene: Scene, window: Window, side_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One square crop, resampled: (S, S, 3) image and (S, S) codes."""
    inside = np.s_[window.top : window.top + window.side, window.left : window.left + window.side]
    image = Image.fromarray(scene.image[inside]).resize((side_px, side_px), Image.Resampling.BILINEAR)
    codes = Image.fromarray(scene.codes[inside]).resize((side_px, side_px), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(codes)


def _centre(codes: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int]:
    """A pixel to be inside the crop: of an evenly drawn class, or anywhere."""
    height, width = codes.shape
    if rng.random() < RARE_CENTRE:
        thinned = codes[::8, ::8]
        present = [c for c in range(len(CLASSES)) if (thinned == c).any()]
        if present:
            rows, cols = np.nonzero(thinned == rng.choice(present))
            pick = rng.integers(len(rows))
            return int(rows[pick]) * 8, int(cols[pick]) * 8
    return int(rng.integers(height)), int(rng.integers(width))


def turn(arrays: Iterable[NDArray[Any]], rng: np.random.Generator) -> list[NDArray[Any]]:
    """One of the eight flips and quarter turns of their first two axes, the same for all."""
    quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    turned = [np.rot90(array, quarters) for array in arrays]
    return [array[:, ::-1] for array in turned] if mirrored else turned


def disturb(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """What another light, lens, sensor and coding would have made of it: (S, S, 3) uint8 → float32 in [0, 1].

    Colours roughly stay what they are: vegetation and water are known by them.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.2:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(40, 90)))
        picture = Image.open(buffer)
    pixels = np.asarray(picture, np.float32) / 255
    pixels = pixels ** np.float32(np.exp(rng.uniform(-0.6, 0.6)))
    grey = pixels.mean(-1, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.5, 1.5))
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    pixels = (pixels - 0.5) * gain.astype(np.float32) + np.float32(0.5 + rng.uniform(-0.1, 0.1))
    if rng.random() < 0.3:
        pixels = pixels + rng.normal(0, rng.uniform(0.005, 0.03), pixels.shape).astype(np.float32)
    return np.asarray(np.clip(pixels, 0, 1), np.float32)


def blank(image: NDArray[np.float32], codes: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Sometimes, in place: a margin with no data, as scenes have at their border: 0 in the image, and none of the classes."""
    if rng.random() < BLANK_SHARE:
        edge = int(rng.integers(len(codes) // 8, len(codes) // 2))
        image[:edge], codes[:edge] = 0, NOTHING
