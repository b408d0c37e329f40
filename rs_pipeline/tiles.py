"""How a grid is cut: cores that partition it, halos that are read around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid, Window


@dataclass(frozen=True, slots=True)
class Tile:
    """One piece of work."""

    index: int
    """row * plan.cols + col: the place in the full lattice, whatever the AOI."""
    row: int
    """Row of the lattice."""
    col: int
    """Column of the lattice."""
    core: Window
    """Pixels this tile answers for; the cores of a plan partition its grid."""
    halo: Window
    """Pixels whose scores are kept: the core and its overlap with the neighbours, inside the grid."""
    context: Window
    """Pixels that are read: the halo, grown inwards at the grid's edge so that every tile of a plan has one shape."""


@dataclass(frozen=True)
class TilePlan:
    """A lattice of tiles over a grid. Nothing is listed until it is asked for, so size costs nothing."""

    grid: Grid
    tile_px: int
    """Side of what is read for one tile, pixels; a smaller grid is one tile."""
    overlap_px: int
    """Pixels that the halos of two neighbours share."""
    aoi: BaseGeometry | None = None
    """Area of interest in the grid's CRS; None is the whole grid."""

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise UsageError("a tile of at least 1 pixel", f"{self.tile_px}", "Give a larger --tile-px.")
        if not 0 <= self.overlap_px <= self.tile_px // 2:
            raise UsageError(
                f"an overlap of 0…{self.tile_px // 2} px (half a tile: no pixel may lie in more than four tiles)",
                f"{self.overlap_px}",
                "Give a smaller --overlap-px or a larger --tile-px.",
            )

    @property
    def stride_px(self) -> int:
        """Side of a core away from the grid's edge, pixels."""
        return self.tile_px - self.overlap_px

    @property
    def rows(self) -> int:
        """Rows of the full lattice."""
        return -(-self.grid.height // self.stride_px)

    @property
    def cols(self) -> int:
        """Columns of the full lattice."""
        return -(-self.grid.width // self.stride_px)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides which pixels each tile holds."""
        aoi = shapely.to_wkb(shapely.normalize(self.aoi), hex=True) if self.aoi is not None else None
        facts = {"grid": self.grid.to_dict(), "tile_px": self.tile_px, "overlap_px": self.overlap_px, "aoi": aoi}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def tile(self, index: int) -> Tile:
        """The tile at a place of the full lattice."""
        if not 0 <= index < self.rows * self.cols:
            raise IndexError(f"tile {index} is not in a lattice of {self.rows} x {self.cols}")
        row, col = divmod(index, self.cols)
        stride, before = self.stride_px, self.overlap_px // 2
        after = self.overlap_px - before
        grid = self.grid.window
        core = Window(row * stride, col * stride, min(stride, grid.height - row * stride), min(stride, grid.width - col * stride))
        top, left = max(core.row_off - before, 0), max(core.col_off - before, 0)
        bottom, right = min(core.row_stop + after, grid.height), min(core.col_stop + after, grid.width)
        halo = Window(top, left, bottom - top, right - left)
        height, width = min(self.tile_px, grid.height), min(self.tile_px, grid.width)
        context = Window(min(top, grid.height - height), min(left, grid.width - width), height, width)
        return Tile(index, row, col, core, halo, context)

    def tiles(self) -> Iterator[Tile]:
        """The tiles whose core meets the AOI, row by row."""
        for row in range(self.rows):
            for col in self._columns_meeting_aoi(row):
                yield self.tile(row * self.cols + int(col))

    def count(self) -> int:
        """How many tiles `tiles` gives."""
        return sum(len(self._columns_meeting_aoi(row)) for row in range(self.rows))

    def tiles_meeting(self, window: Window) -> Iterator[Tile]:
        """Every tile of the full lattice whose halo meets `window`, at most four at any pixel."""
        stride, reach = self.stride_px, self.overlap_px
        first_row, last_row = max(window.row_off - reach, 0) // stride, min((window.row_stop + reach) // stride, self.rows - 1)
        first_col, last_col = max(window.col_off - reach, 0) // stride, min((window.col_stop + reach) // stride, self.cols - 1)
        for row in range(first_row, last_row + 1):
            for col in range(first_col, last_col + 1):
                tile = self.tile(row * self.cols + col)
                if tile.halo.intersection(window):
                    yield tile

    def _columns_meeting_aoi(self, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        columns = np.arange(self.cols, dtype=np.int64)
        if self.aoi is None:
            return columns
        rows_px = np.array([row * self.stride_px, min((row + 1) * self.stride_px, self.grid.height)], dtype=float)
        cols_px = np.minimum(np.arange(self.cols + 1) * self.stride_px, self.grid.width).astype(float)
        t = self.grid.transform
        x = t.c + t.a * cols_px
        y = t.f + t.e * rows_px
        boxes = shapely.box(x[:-1], y[1], x[1:], y[0])
        shapely.prepare(self.aoi)
        return columns[shapely.intersects(self.aoi, boxes)]
