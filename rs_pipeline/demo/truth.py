"""What is really there: labels to polygons and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.vectorize import polygonize

from .burn import fill
from .style import DEMO_CLASSES

TRUTH_LAYERS = ("road", "water", "building", "vegetation")
"""Land is what is left."""


def write_truth(path: Path, labels: NDArray[np.uint8], grid: Grid) -> None:
    """Write the polygons of each class, one layer per class, as they are seen in `labels` (H,W)."""
    value = np.zeros(len(DEMO_CLASSES) + 1, np.uint8)
    for number, name in enumerate(TRUTH_LAYERS, 1):
        value[DEMO_CLASSES.index(name) + 1] = number
    wanted = value[labels]

    def read_block(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        nothing = np.broadcast_to(np.uint8(0), window.shape)
        return wanted[window.slices()], nothing, nothing

    found = list(polygonize(grid, len(TRUTH_LAYERS), read_block))
    for number, name in enumerate(TRUTH_LAYERS, 1):
        shapes = [wkb for batch in found for wkb in batch.geometry.filter(pa.array(batch.value == number)).to_pylist()]
        # not through GeoDataFrames: training imports this package for its scenes alone, and should not wait for geopandas
        pyogrio.raw.write(
            path,
            np.array(shapes, object),
            [np.full(len(shapes), name, object)],
            ["class"],
            layer=name,
            driver="GPKG",
            geometry_type="Polygon",
            crs=grid.crs.to_wkt(),
            append=path.exists(),
        )


def truth_labels(truth: Path, names: Sequence[str], grid: Grid) -> NDArray[np.uint8]:
    """(H,W) labels of the truth on any grid: i+1 where a pixel's centre lies in the class `names[i]`, else 0.

    Raises
    ------
    UsageError: a name that is no layer of the truth.
    """
    layers = pyogrio.list_layers(truth)[:, 0].tolist()
    labels = np.zeros(grid.shape, np.uint8)
    for value, name in enumerate(names, 1):
        if name not in layers:
            raise UsageError(f"a class of the truth ({', '.join(layers)})", repr(name), "Score the classes that the truth has.")
        meta, _, wkb, _ = pyogrio.raw.read(truth, layer=name, columns=[])
        shapes = _to_pixels(shapely.from_wkb(wkb), CRS.from_user_input(meta["crs"]), grid)
        fill(shapes, np.full(len(shapes), value), labels)
    return labels


def _to_pixels(shapes: NDArray[np.object_], crs: CRS, grid: Grid) -> NDArray[np.object_]:
    """Shapes in columns and rows of a grid."""
    to_grid, inverse = Transformer.from_crs(crs, grid.crs, always_xy=True), ~grid.transform

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = to_grid.transform(xy[:, 0], xy[:, 1])
        return np.column_stack([inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f])

    return np.asarray(shapely.transform(shapes, move))
