"""Small pictures of a run: its scenes with the class layers on them, and its scenes as web maps show them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS, Transformer

from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.inference import OpenJob
from rs_pipeline.outline import outline
from rs_pipeline.plan import RunPlan
from rs_pipeline.raster import read_labels
from rs_pipeline.tiles import TilePlan

_OPACITY = 0.5
_TILE_PX = 256
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
    return _jpeg(_painted(_scenes_on(plan, grid), read_labels(labels_path, grid.shape), plan))


class WebPicture(NamedTuple):
    """A picture that lies on a web map without being bent."""

    jpeg: bytes
    bounds: tuple[float, float, float, float]
    """West, south, east, north, degrees; a side may be beyond 180 where the place crosses the antimeridian."""


def web_picture(plan: RunPlan, longest_px: int = 1280) -> WebPicture | None:
    """The scenes as the model saw them, over a run's grid, in Web Mercator; None where that has no such place, as at the poles.

    Raises
    ------
    RasterError: a scene cannot be read.
    """
    grid = plan.job.plan.grid
    middle = grid.transform @ (grid.width / 2, grid.height / 2)
    longitude, _ = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(*middle)
    mercator = _mercator_around(longitude)
    place = outline(grid.crs, grid.transform, grid.height, grid.width, mercator)
    if place.is_empty:
        return None
    west, south, east, north = place.bounds
    px = max(max(east - west, north - south) / min(longest_px, max(grid.shape)), 1e-9)
    height, width = max(1, round((north - south) / px)), max(1, round((east - west) / px))
    square = Affine.translation(west, north) @ Affine.scale((east - west) / width, (south - north) / height)
    jpeg = _jpeg(_scenes_on(plan, Grid(mercator, square, height, width)))
    (left, right), (low, high) = Transformer.from_crs(mercator, 4326, always_xy=True).transform((west, east), (south, north))
    # Within half a turn of the middle, as the picture is.
    left, right = (longitude + (x - longitude + 180) % 360 - 180 for x in (left, right))
    return WebPicture(jpeg, (left, low, right, high))


def _mercator_around(longitude: float) -> CRS:
    """Web Mercator (EPSG:3857) turned to a longitude, so that no place is cut at the antimeridian."""
    definition = CRS.from_epsg(3857).to_json_dict()
    definition["name"] = f"Web Mercator around {longitude:.2f}"
    definition.pop("id", None)
    for parameter in definition["conversion"]["parameters"]:
        if parameter["name"] == "Longitude of natural origin":
            parameter["value"] = longitude
    return CRS.from_json_dict(definition)


def _scenes_on(plan: RunPlan, grid: Grid) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1]: the scenes as the model saw them, on a coarse grid."""
    # In small tiles: most of many scenes meet few of them.
    opened = OpenJob(replace(plan.job, plan=TilePlan(grid, _TILE_PX, 0)))
    picture = np.full((*grid.shape, 3), _NOTHING, np.float32)
    for tile in opened.job.plan.tiles():
        seen, image = opened.read_tile(tile)
        inside = tile.core.slices(tile.context)
        valid = seen.valid[inside]
        picture[tile.core.slices()][valid] = image.transpose(1, 2, 0)[inside][valid]
    return picture


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
