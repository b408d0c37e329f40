"""The rasters of the benchmarks, seeded, made once into a cache folder, and what is true of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy.ndimage import uniform_filter

SIZE = 10_000
CLASSES = 6
PIXEL_M = 0.5
STRIP = 500
"""Rows that are made or compared at a time."""
SMOOTH_PX = {False: 49, True: 13}
"""Side of the mean that noise is smoothed by, three times over; by `dense`."""
_PROFILE = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32633", "tiled": True, "blockxsize": 512, "blockysize": 512}
_PLACE = from_origin(500_000.0, 5_400_000.0, PIXEL_M, PIXEL_M)


def class_raster(cache: Path, *, dense: bool) -> tuple[Path, dict[str, Any]]:
    """The six-class raster and its truth: polygons and square metres of each class, by `rasterio.features.shapes`."""
    path = cache / ("classes-dense.tif" if dense else "classes.tif")
    truth = path.with_suffix(".json")
    if not path.exists():
        print(f"making {path.name} …", flush=True)
        labels = _class_pixels(SIZE, SMOOTH_PX[dense], np.random.default_rng(7))
        _write(path, labels[None], compress="deflate")
    if not truth.exists():
        print("counting its polygons …", flush=True)
        facts = _count(path)
        truth.write_text(json.dumps(facts))
    return path, json.loads(truth.read_text())


def _class_pixels(size: int, smooth_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The greatest of six smoothed noises at each pixel, and rectangles over it; 1…6."""
    best = np.full((size, size), -np.inf, np.float32)
    labels = np.zeros((size, size), np.uint8)
    for value in range(1, CLASSES + 1):
        noise = rng.standard_normal((size, size), np.float32)
        for _ in range(3):
            uniform_filter(noise, smooth_px, output=noise, mode="reflect")
        higher = noise > best
        best[higher] = noise[higher]
        labels[higher] = value
    for row, col, height, width, value in zip(*_rectangles(size, smooth_px, rng), strict=True):
        labels[row : row + height, col : col + width] = value
    return labels


def _rectangles(size: int, smooth_px: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    count = round(0.2 * (size / smooth_px) ** 2)
    sides = rng.integers(smooth_px // 4 + 2, smooth_px, (2, count))
    return rng.integers(0, size, count), rng.integers(0, size, count), sides[0], sides[1], rng.integers(1, CLASSES + 1, count)


def _count(path: Path) -> dict[str, Any]:
    with rasterio.open(path) as source:
        pixels = source.read(1)
    polygons, vertices = np.zeros(CLASSES + 1, np.int64), 0
    for geometry, value in shapes(pixels, connectivity=4):
        polygons[int(value)] += 1
        vertices += sum(map(len, geometry["coordinates"]))
    area = np.bincount(pixels.ravel(), minlength=CLASSES + 1) * PIXEL_M**2
    return {"polygons": polygons[1:].tolist(), "area_m2": area[1:].tolist(), "vertices": vertices}


def rgb_raster(cache: Path, size: int) -> Path:
    """An RGB scene of `size` pixels a side: large patches of light and colour, and noise; values 0…128, both ends occur. Not compressed."""
    path = cache / f"rgb-{size}.tif"
    if not path.exists():
        print(f"making {path.name} …", flush=True)
        rng = np.random.default_rng(11)
        knots = size // 100 + 2
        at = np.arange(size) * (knots - 1) / size
        coarse = rng.normal(64.0, 30.0, (3, knots, knots))
        across = np.stack([[np.interp(at, np.arange(knots), row) for row in band] for band in coarse]).astype(np.float32)
        aside = path.with_suffix(".part")
        with rasterio.open(aside, "w", **_PROFILE, count=3, height=size, width=size, transform=_PLACE, photometric="RGB") as file:
            for top in range(0, size, STRIP):
                rows = at[top : top + STRIP]
                above, part = rows.astype(int), (rows % 1).astype(np.float32)[:, None]
                strip = across[:, above] * (1 - part) + across[:, above + 1] * part
                strip += rng.standard_normal(strip.shape, np.float32) * 10
                window = Window(0, top, size, len(rows))
                file.write(np.rint(strip).clip(0, 128).astype(np.uint8), window=window)
        aside.rename(path)
    return path


def _write(path: Path, pixels: NDArray[np.uint8], compress: str) -> None:
    aside = path.with_suffix(".part")
    bands, height, width = pixels.shape
    with rasterio.open(aside, "w", **_PROFILE, count=bands, height=height, width=width, transform=_PLACE, compress=compress) as file:
        file.write(pixels)
    aside.rename(path)


def warm(path: Path) -> None:
    """Bring a file into the system's cache, so that no racer reads the disk and another not."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while file.read(2**24):
            pass
