"""Shapes to pixels: even-odd polygon filling, and stamps of oriented boxes and tree crowns. Coordinates are pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from .plan import FLAT, GABLE, FloatArray

UIntArray = NDArray[np.unsignedinteger[Any]]


def fill(shapes: NDArray[np.object_], codes: NDArray[np.integer[Any]], out: UIntArray) -> None:
    """Write `codes` into `out` (H,W) wherever a pixel's centre lies in the shape; code 0 is not written.

    Each boundary toggles its code at the pixel where it is crossed and a running XOR along the row fills the inside, so the
    shapes of one call must not overlap; where bent neighbours do by a hair, the lowest bit tells and nothing is written.
    """
    height, width = out.shape
    parts, shape = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    owner = shape[part]
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[:-1] == ring[1:]
    start, stop, code = xy[:-1][same], xy[1:][same], codes[owner[ring[:-1][same]]]
    down = start[:, 1] <= stop[:, 1]
    # both polygons of a shared edge must compute the same crossing: always from its upper end
    top, end = np.where(down[:, None], start, stop), np.where(down[:, None], stop, start)
    first = np.clip(np.ceil(top[:, 1] - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.ceil(end[:, 1] - 0.5), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(first)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[:, 0] - top[:, 0]) / np.maximum(end[:, 1] - top[:, 1], 1e-12)
    x = top[edge, 0] + (row + 0.5 - top[edge, 1]) * slope[edge]
    col = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    inside = col < width
    toggles = np.zeros(out.shape, np.uint32)
    np.bitwise_xor.at(toggles.reshape(-1), row[inside] * width + col[inside], (2 * code[edge[inside]] + 1).astype(np.uint32))
    np.bitwise_xor.accumulate(toggles, axis=1, out=toggles)
    single = (toggles & 1).astype(bool)
    toggles >>= 1
    np.copyto(out, np.minimum(toggles, codes.max(initial=0)), where=single, casting="unsafe")


def stamp_boxes(boxes: FloatArray, codes: NDArray[np.int64], px_m: float, surface: UIntArray, height_cm: NDArray[np.uint16]) -> None:
    """Put boxes onto the scene, in order.

    `boxes` (N,8): column, row, half length, half width (pixels), angle, eave and ridge height (m), roof form.
    """
    rows, cols = surface.shape
    for (x, y, hu, hv, angle, eave, ridge, form), code in zip(boxes.tolist(), codes.tolist(), strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        ex, ey = abs(hu * cos) + abs(hv * sin), abs(hu * sin) + abs(hv * cos)
        r0, r1 = max(int(y - ey), 0), min(int(y + ey) + 2, rows)
        c0, c1 = max(int(x - ex), 0), min(int(x + ex) + 2, cols)
        if r0 >= r1 or c0 >= c1:
            continue
        dy = np.arange(r0, r1)[:, None] + 0.5 - y
        dx = np.arange(c0, c1)[None, :] + 0.5 - x
        u, v = hu - abs(dx * cos + dy * sin), hv - abs(dy * cos - dx * sin)
        edge = np.minimum(u, v)
        if form == FLAT:  # the rim is a parapet, as high as the eave
            rise = np.where(edge * px_m > 0.6, ridge - eave, 0.0)
        else:
            rise = np.minimum((v if form == GABLE else edge) / hv, 1.0) * (ridge - eave)
        inside = edge >= 0
        np.copyto(surface[r0:r1, c0:c1], code, where=inside)
        target = height_cm[r0:r1, c0:c1]
        np.maximum(target, (100 * np.maximum(eave + rise, 0)).astype(np.uint16), out=target, where=inside)


def crown_stamps(rng: np.random.Generator, radius_px: float, variants: int = 4) -> list[NDArray[np.float32]]:
    """Lumpy domes of a crown, 0…1, 0 outside."""
    half = int(np.ceil(radius_px * 1.25))
    grid = np.arange(-half, half + 1, dtype=np.float32)
    dx, dy = np.meshgrid(grid, grid)
    theta, dist = np.arctan2(dy, dx), np.hypot(dx, dy)
    stamps = []
    for _ in range(variants):
        phase, lobe = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.03, 0.13, 3)
        edge = radius_px * (1 + sum(a * np.sin(k * theta + p) for k, a, p in zip((2, 3, 5), lobe, phase, strict=True)))
        dome = np.sqrt(np.clip(1 - (dist / np.maximum(edge, 0.5)) ** 2, 0, 1))
        lumps = rng.uniform(0.72, 1.0, dome.shape)
        stamps.append((dome * lumps).astype(np.float32))
    return stamps


def stamp_crowns(rng: np.random.Generator, trees: FloatArray, crown: NDArray[np.uint8], height_cm: NDArray[np.uint16]) -> None:
    """Grow crowns; `trees` (N,4): column, row, radius (pixels), height (m). `crown` gets a tone 1…255 per tree."""
    rows, cols = crown.shape
    sizes = np.maximum(np.round(trees[:, 2] * 2) / 2, 0.5)
    library = {size: crown_stamps(rng, size) for size in np.unique(sizes).tolist()}
    tones, variants = rng.integers(1, 256, len(trees)), rng.integers(4, size=len(trees))
    for (x, y, _, tall), size, tone, variant in zip(trees.tolist(), sizes.tolist(), tones.tolist(), variants.tolist(), strict=True):
        stamp = library[size][variant]
        half = stamp.shape[0] // 2
        r0, c0 = int(y) - half, int(x) - half
        top, left = max(r0, 0), max(c0, 0)
        bottom, right = min(r0 + 2 * half + 1, rows), min(c0 + 2 * half + 1, cols)
        if top >= bottom or left >= right:
            continue
        dome = stamp[top - r0 : bottom - r0, left - c0 : right - c0]
        target = height_cm[top:bottom, left:right]
        # a crown stands on its trunk: its rim is at about half of the height
        rise = (dome * (50 * tall) + 50 * tall).astype(np.uint16)
        seen = (dome > 0) & (rise > target)
        np.copyto(target, rise, where=seen)
        np.copyto(crown[top:bottom, left:right], tone, where=seen)
