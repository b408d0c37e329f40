"""Pixel grids and windows: pure values, no I/O.

Rows and columns count pixels from the top left; x and y are CRS units; shapes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from affine import Affine
from pyproj import CRS


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of pixels."""

    row_off: int
    """First row."""
    col_off: int
    """First column."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a window has at least one pixel, got height {self.height}, width {self.width}")

    @property
    def row_stop(self) -> int:
        """One past the last row."""
        return self.row_off + self.height

    @property
    def col_stop(self) -> int:
        """One past the last column."""
        return self.col_off + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def intersection(self, other: Window) -> Window | None:
        """The pixels in both, or None where there are none."""
        row, col = max(self.row_off, other.row_off), max(self.col_off, other.col_off)
        height = min(self.row_stop, other.row_stop) - row
        width = min(self.col_stop, other.col_stop) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def contains(self, other: Window) -> bool:
        """True where every pixel of `other` is in this window."""
        return self.intersection(other) == other

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """(rows, columns) that cut this window out of an array whose first pixel is that of `origin` (default 0, 0)."""
        row, col = (origin.row_off, origin.col_off) if origin else (0, 0)
        return slice(self.row_off - row, self.row_stop - row), slice(self.col_off - col, self.col_stop - col)


@dataclass(frozen=True, slots=True)
class Grid:
    """A georeferenced raster grid."""

    crs: CRS
    """Coordinate reference system of x and y."""
    transform: Affine
    """Pixel (column, row) corner to (x, y)."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid has at least one pixel, got height {self.height}, width {self.width}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window of the whole grid."""
        return Window(0, 0, self.height, self.width)

    @property
    def gsd_m(self) -> float:
        """Pixel width in CRS units; metres for the metric grids that runs use."""
        return float((self.transform.a**2 + self.transform.d**2) ** 0.5)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(minx, miny, maxx, maxy) of the pixel corners."""
        corners = [self.transform @ (c, r) for c in (0, self.width) for r in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def crop(self, window: Window) -> Grid:
        """The part of this grid under `window`, with its own transform."""
        if not self.window.contains(window):
            raise ValueError(f"{window} is not inside a grid of {self.height} x {self.width} pixels")
        shifted = self.transform @ Affine.translation(window.col_off, window.row_off)
        return Grid(self.crs, shifted, window.height, window.width)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` gives the grid back."""
        return {
            "crs": self.crs.to_string(),
            "transform": list(self.transform)[:6],
            "height": self.height,
            "width": self.width,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """Inverse of `to_dict`."""
        return cls(CRS.from_user_input(data["crs"]), Affine(*data["transform"]), data["height"], data["width"])
