"""rs-seg: windowed reads of a label raster, `polygonize`, `write_layers`, as a run does it and with its defaults.

Scores and sources are constants, and coverage and scenes stay empty: no peer has them.
"""

# ruff: noqa: E402 - Arrow reads the environment when it is imported
from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
import rasterio
import shapely
from measure import Meter
from numpy.typing import NDArray
from pyproj import CRS

from rs_pipeline.heap import share_one_heap

share_one_heap()  # as the command line does, before Arrow is imported

from rs_pipeline.classes import SCORE_MAX, Class, ClassSet
from rs_pipeline.cog import little_cache
from rs_pipeline.config import configs_folder, read_yaml
from rs_pipeline.grid import Grid, Window
from rs_pipeline.layer_tables import SceneFootprint
from rs_pipeline.layers import write_layers
from rs_pipeline.vectorize import Outlines, polygonize

CLASSES = 6


def vectorize(source: Path, target: Path, block_px: int) -> None:
    """A label raster on disk into a layer per class."""
    classes = ClassSet(tuple(Class(k, f"c{k}", (f"c{k}",), (40 * k, 0, 0), 0.5) for k in range(1, CLASSES + 1)))
    with little_cache(), rasterio.open(source) as file:
        crs = CRS.from_wkt(file.crs.to_wkt())
        grid = Grid(crs, file.transform, file.height, file.width)

        def read_block(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
            labels = file.read(1, window=rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height))
            return labels, np.full(window.shape, SCORE_MAX, np.uint8), np.zeros(window.shape, np.uint8)

        features = polygonize(grid, CLASSES, read_block, block_px, Outlines(connectivity=4), len(os.sched_getaffinity(0)))
        scene = SceneFootprint("scene", None, grid.gsd_m, str(source), None, shapely.Polygon(), 0)
        write_layers(target, grid, classes, features, (), [scene])


def main() -> None:
    """Input and output on the command line."""
    gc.set_threshold(100_000)  # as the command line does, too
    block_px = read_yaml(configs_folder() / "run.yaml")["vectors"]["block_px"]
    meter = Meter()
    vectorize(Path(sys.argv[1]), Path(sys.argv[2]), block_px)
    print(json.dumps(meter.read()))


if __name__ == "__main__":
    main()
