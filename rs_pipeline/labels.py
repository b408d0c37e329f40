"""The labels of finished runs, in any window, and on the grids of others: nearest neighbour, exact, the same whatever the windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, ClassSet
from rs_pipeline.errors import RasterError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import read_window

_MOST_PX = 2**24
"""Pixels that are read at once to fill a window of a coarser grid."""
_SLACK_PX = 1e-3


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """A label raster."""

    href: str
    """Path or URL of a run's `labels.tif`."""
    grid: Grid
    table: NDArray[np.uint8]
    """(256,) what each value counts as: `values_of` makes it."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(h, w) uint8 of a window that may reach beyond the grid, where nothing was observed.

        Raises
        ------
        RasterError: the file cannot be read, or is smaller than the grid.
        """
        labels = np.full(window.shape, NOT_OBSERVED, np.uint8)
        inside = self.grid.window.intersection(window)
        if inside is not None:
            found = read_window(self.href, inside)[0]
            if found.shape != inside.shape:
                expected = f"labels of {self.grid.height} x {self.grid.width} px"
                raise RasterError(expected, f"fewer in {self.href}", "It is not this run's: run again with --set overwrite=true.")
            labels[inside.slices(window)] = np.take(self.table, found)
        return labels

    def read_on(self, grid: Grid, window: Window) -> NDArray[np.uint8]:
        """(h, w) uint8 of a window of another grid: each pixel has the label of the pixel that its centre lies in.

        Raises
        ------
        RasterError: the file cannot be read.
        """
        offset = whole_pixel_offset(grid, self.grid)
        if offset is not None:
            return self.read(Window(window.row_off + offset[0], window.col_off + offset[1], *window.shape))
        return self._sampled(*_places(grid, window, self.grid))

    def observed_beyond(self, grid: Grid, window: Window) -> int:
        """Pixels of a window of this grid that were observed and whose centres lie beyond another grid.

        Raises
        ------
        RasterError: the file cannot be read.
        """
        rows, cols = _places(self.grid, window, grid)
        return int(np.count_nonzero((self.read(window) != NOT_OBSERVED) & ~_is_inside(grid, rows, cols)))

    def _sampled(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Labels at rows and columns of this grid, (h, w) each."""
        labels = np.full(rows.shape, NOT_OBSERVED, np.uint8)
        inside = _is_inside(self.grid, rows, cols)
        if not inside.any():
            return labels
        top, left = int(rows[inside].min()), int(cols[inside].min())
        box = Window(top, left, int(rows[inside].max()) - top + 1, int(cols[inside].max()) - left + 1)
        if box.height * box.width > _MOST_PX and rows.size > 1:
            axis = int(np.argmax(rows.shape))
            halves = zip(np.array_split(rows, 2, axis), np.array_split(cols, 2, axis), strict=True)
            return np.concatenate([self._sampled(*half) for half in halves], axis)
        labels[inside] = self.read(box)[rows[inside] - top, cols[inside] - left]
        return labels


def values_of(classes: ClassSet, values: Mapping[str, int]) -> NDArray[np.uint8]:
    """(256,) uint8 table from the labels of a run to `values`, by the classes' names; other classes become background."""
    table = np.full(256, BACKGROUND, np.uint8)
    table[NOT_OBSERVED] = NOT_OBSERVED
    for item in classes:
        table[item.value] = values.get(item.name, BACKGROUND)
    return table


def whole_pixel_offset(grid: Grid, other: Grid) -> tuple[int, int] | None:
    """Rows and columns from a pixel of `grid` to the same pixel of `other`; None where pixels do not fall on pixels."""
    if grid.crs != other.crs:
        return None
    step = ~other.transform @ grid.transform
    drift = (abs(step.a - 1) + abs(step.d)) * grid.width + (abs(step.e - 1) + abs(step.b)) * grid.height
    row, col = round(step.f), round(step.c)
    return (row, col) if drift + abs(step.f - row) + abs(step.c - col) < _SLACK_PX else None


def _places(grid: Grid, window: Window, other: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of `other` that the centre of each pixel lies in, (h, w) each; -1 where its CRS cannot say."""
    # Counted from the grid's own corner: a pixel has one centre, whatever window it is in.
    rows, cols = np.mgrid[window.row_off : window.row_stop, window.col_off : window.col_stop] + 0.5
    x, y = grid.transform @ (cols, rows)
    if grid.crs != other.crs:
        x, y = _transformer(grid.crs, other.crs).transform(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    col, row = ~other.transform @ (np.where(known, x, 0.0), np.where(known, y, 0.0))
    return _floor(row, known), _floor(col, known)


def _is_inside(grid: Grid, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
    return inside


def _floor(position: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(known, np.floor(np.clip(position, -1, 2**31)), -1).astype(np.int64)


@lru_cache(maxsize=8)
def _transformer(source: CRS, target: CRS) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)
