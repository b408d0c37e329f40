"""What the model makes of imagery without labels: every GeoTIFF of the data through `rs-seg run`, as pictures and shares of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from rs_model.labels import CLASSES
from rs_model.pictures import LONGEST_PX, paint, panels
from rs_pipeline.config import load_settings
from rs_pipeline.errors import RsSegError
from rs_pipeline.grid import Grid
from rs_pipeline.inference import OpenJob
from rs_pipeline.plan import RunPlan, plan_run
from rs_pipeline.raster import read_labels
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute
from rs_pipeline.tiles import TilePlan

PATTERNS = ("*.tif", "*.tiff")
LEFT_OUT = ("banepa_oam_buildings/train",)
"""Below the data: scored against labels."""
_TILE_PX = 512


def draw_imagery(data: Path, out: Path, model: Path | None, sets: Sequence[str] = ()) -> Iterator[str]:
    """Runs all five classes over each GeoTIFF below the data's folders and draws image | prediction as `out/FOLDER/NAME.jpg`.

    Parameters
    ----------
    data: folder of the data sets.
    model: weights folder; None: the shipped one.
    sets: settings of the runs, as `--set` takes them.

    Yields
    ------
    One line per file: metres per pixel and the share of each class of what was observed, or why it was left out.
    """
    files = sorted(path for pattern in PATTERNS for path in data.rglob(pattern))
    for path in files:
        name = path.relative_to(data)
        if name.as_posix().startswith(LEFT_OUT):
            continue
        picture = out / name.parts[0] / f"{'_'.join(name.parts[1:])}.jpg"
        try:
            yield f"{name}: {_draw(path, picture, model, sets)}"
        except RsSegError as error:
            yield f"{name}: left out: {error}"


def _draw(path: Path, picture: Path, model: Path | None, sets: Sequence[str]) -> str:
    with TemporaryDirectory(prefix="rs-seg-imagery-") as scratch:
        flags = {
            "source": (str(path),),
            "classes": CLASSES,
            "out": f"{scratch}/run",
            "report": False,
            "device": "cpu",
            "workers.cluster": "in-process",
        }
        plan = plan_run(load_settings(None, flags | ({"model": str(model)} if model is not None else {}), sets))
        summary = execute(plan, Silent())
        observed = max(summary["pixels"]["observed"], 1)
        shares = ", ".join(f"{c['name']} {c['pixels'] / observed:.0%}" for c in summary["classes"])
        said = f"{plan.job.plan.grid.gsd_m:.3g} m: {shares}, none of them {summary['pixels']['background'] / observed:.0%}"
        grid = _coarser(plan.job.plan.grid)
        shown = [_image(plan, grid), paint(read_labels(plan.out / "labels.tif", grid.shape), plan.job.classes)]
    picture.parent.mkdir(parents=True, exist_ok=True)
    panels(shown, said).save(picture, quality=80)
    return said


def _coarser(grid: Grid) -> Grid:
    factor = max(1.0, max(grid.shape) / LONGEST_PX)
    height, width = (max(1, round(side / factor)) for side in grid.shape)
    return Grid(grid.crs, grid.transform @ Affine.scale(grid.width / width, grid.height / height), height, width)


def _image(plan: RunPlan, grid: Grid) -> NDArray[np.uint8]:
    """(H, W, 3): the scene as the model saw it, on a coarse grid."""
    opened = OpenJob(replace(plan.job, plan=TilePlan(grid, _TILE_PX, 0)))
    image = np.full((*grid.shape, 3), 255, np.uint8)
    for tile in opened.job.plan.tiles():
        seen, values = opened.read_tile(tile)
        inside = tile.core.slices(tile.context)
        valid = seen.valid[inside]
        image[tile.core.slices()][valid] = np.rint(values.transpose(1, 2, 0)[inside][valid] * 255)
    return image
