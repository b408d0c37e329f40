"""One small picture of a run: its scene with the class layers on it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.inference import OpenJob
from rs_pipeline.plan import RunPlan
from rs_pipeline.raster import read_labels
from rs_pipeline.tiles import TilePlan

_OPACITY = 0.5
_NOTHING = 0.85
"""Grey of what was not seen."""


def quick_look(plan: RunPlan, longest_px: int = 512) -> bytes:
    """A JPEG of a run's grid, north up as the grid is: the scenes as the model saw them, classes in their colours half transparent.

    Parameters
    ----------
    plan: of a run whose folder is there.
    longest_px: longest side of the picture; images are read from their overviews.

    Raises
    ------
    RasterError: a scene or `labels.tif` cannot be read.
    OutputError: there is no run folder.
    """
    labels_path = plan.out / "labels.tif"
    if not labels_path.is_file():
        raise OutputError("a finished run", f"no labels.tif in {plan.out}", "Run it first.")
    grid = _coarser(plan.job.plan.grid, longest_px)
    opened = OpenJob(replace(plan.job, plan=TilePlan(grid, max(grid.shape), 0)))
    seen, image = opened.read_tile(opened.job.plan.tile(0))
    picture = np.where(seen.valid, image, np.float32(_NOTHING)).transpose(1, 2, 0)
    return _jpeg(_painted(picture, read_labels(labels_path, grid.shape), plan))


def _coarser(grid: Grid, longest_px: int) -> Grid:
    factor = max(1.0, max(grid.shape) / longest_px)
    height, width = (max(1, round(side / factor)) for side in grid.shape)
    return Grid(grid.crs, grid.transform @ Affine.scale(grid.width / width, grid.height / height), height, width)


def _painted(picture: NDArray[np.float32], labels: NDArray[np.uint8], plan: RunPlan) -> NDArray[np.float32]:
    for each in plan.job.classes:
        inside = labels == each.value
        picture[inside] += _OPACITY * (np.asarray(each.colour, np.float32) / 255 - picture[inside])
    return picture


def _jpeg(picture: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return file.getvalue()
