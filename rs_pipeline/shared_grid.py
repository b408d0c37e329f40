"""One grid for two runs: the pixels of the first, as many more as the second needs. Pure."""

from __future__ import annotations

import math

import shapely
from affine import Affine

from rs_pipeline.grid import Grid, Window
from rs_pipeline.labels import whole_pixel_offset
from rs_pipeline.outline import outline

_MOST_TIMES = 4
"""Runs that lie apart, or whose outlines bulge in another CRS, would make a grid that is empty for the most part."""
_ALWAYS_PX = 2**26
"""A grid of this size is no burden, ten seconds, however small the runs are."""
_MARGIN_PX = 2
"""The outline in another CRS is one of chords, which bulge by less."""
_SLACK_PX = 1e-3


def grow_grid(grid: Grid, other: Grid) -> Grid | None:
    """The smallest grid of the pixels of `grid` that holds both; `grid` itself where it holds the other already.

    Returns
    -------
    None where that has more than four times the pixels of both, or the CRS cannot express where the other lies.
    """
    place = _place(grid, other)
    if place is None:
        return None
    if grid.window.contains(place):
        return grid
    row, col = min(0, place.row_off), min(0, place.col_off)
    height, width = max(grid.height, place.row_stop) - row, max(grid.width, place.col_stop) - col
    most = max(_ALWAYS_PX, _MOST_TIMES * (grid.height * grid.width + other.height * other.width))
    if height * width > most:
        return None
    return Grid(grid.crs, grid.transform @ Affine.translation(col, row), height, width)


def _place(grid: Grid, other: Grid) -> Window | None:
    """The pixels of `grid`, its rows and columns going on beyond it, that the other lies on; None where its CRS cannot say."""
    offset = whole_pixel_offset(other, grid)
    if offset is not None:
        return Window(*offset, *other.shape)
    edge = shapely.get_coordinates(outline(other.crs, other.transform, *other.shape, grid.crs))
    if not len(edge):
        return None
    cols, rows = ~grid.transform @ tuple(edge.T)
    margin = 0 if other.crs == grid.crs else _MARGIN_PX
    top, left = (math.floor(axis.min() + _SLACK_PX) - margin for axis in (rows, cols))
    bottom, right = (math.ceil(axis.max() - _SLACK_PX) + margin for axis in (rows, cols))
    return Window(top, left, bottom - top, right - left)
