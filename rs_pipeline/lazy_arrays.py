"""Rasters of runs as xarray sees them: read block by block, when they are asked for.

Places are kept as odc-geo keeps them (`.odc.geobox`), in CF's way: `spatial_ref` and coordinates of the pixel centres. rioxarray reads
them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED
from rs_pipeline.grid import Grid, Window

CHUNK_PX = 1024


def lazy_array(read: Callable[[Window], NDArray[Any]], grid: Grid, lead: tuple[int, ...], dtype: type[np.generic], name: str) -> da.Array:
    """An array (*lead, height, width) that reads its blocks when they are computed.

    Parameters
    ----------
    read: window to (*lead, h, w); called by any thread or process.
    lead: length of the axes before rows and columns; a block has all of them.
    name: unique among arrays of other content.
    """

    def block(block_info: Any = None) -> NDArray[Any]:
        (top, bottom), (left, right) = block_info[None]["array-location"][-2:]
        return read(Window(top, left, bottom - top, right - left))

    chunks = (*((n,) for n in lead), *(_chunks(n) for n in grid.shape))
    meta = np.empty((0,) * len(chunks), dtype)
    array: da.Array = da.map_blocks(block, chunks=chunks, dtype=dtype, meta=meta, name=name)
    return array


def labels_variable(labels: da.Array, dims: tuple[str, ...], names: Sequence[str]) -> xr.Variable:
    """Labels with what their values mean, as CF's flags."""
    meanings = ["background", *names, "not_observed"]
    attributes = {
        "long_name": "class of each pixel",
        "flag_values": np.array([BACKGROUND, *range(1, len(names) + 1), NOT_OBSERVED], np.uint8),
        "flag_meanings": " ".join(word.replace(" ", "_") for word in meanings),
        "nodata": NOT_OBSERVED,
        "grid_mapping": "spatial_ref",
    }
    return xr.Variable(dims, labels, attributes)


def coordinates_of(grid: Grid, names: Sequence[str]) -> dict[Any, Any]:
    """Coordinates y, x and spatial_ref of a grid, and class and value of its labels."""
    places = xr_coords(GeoBox(grid.shape, grid.transform, grid.crs.to_wkt()), always_yx=True, dims=("y", "x"))
    return {**places, "class": ("class", list(names)), "value": ("class", np.arange(1, len(names) + 1, dtype=np.uint8))}


def _chunks(length: int) -> tuple[int, ...]:
    whole, rest = divmod(length, CHUNK_PX)
    return (CHUNK_PX,) * whole + ((rest,) if rest else ())
