"""A raster that remembers what was written: a disk that was full unseen is found out before anything is published.

GDAL writes blocks when it has time to, and when that fails, some of it reaches nobody: the blocks read as never written.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from rs_pipeline.cog import BlockRaster, Look
from rs_pipeline.errors import OutputError, RasterError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import opened


class CheckedRaster(BlockRaster):
    """A `BlockRaster` whose windows, and whose product, read as they were written, or are an error.

    Raises
    ------
    OutputError: from every method, where the disk did not keep what it was given.
    """

    def __init__(self, path: Path, grid: Grid, bands: int, look: Look) -> None:
        self._sums: dict[Window, int] = {}
        with _told(path):
            super().__init__(path, grid, bands, look)

    def write(self, window: Window, values: NDArray[np.uint8]) -> None:
        """Write (bands, H, W) uint8."""
        with _told(self.path):
            super().write(window, values)
        self._sums[window] = _sum(values)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(bands, H, W) uint8; checked where the window is one that was written."""
        with _told(self.path):
            values = super().read(window)
        self._check(self.path, window, values)
        return values

    def finish(self, path: Path, overviews: Literal["mode", "average"]) -> None:
        """Close the raster, copy it into a cloud-optimized GeoTIFF, and read that once."""
        with _told(path):
            super().finish(path, overviews)
            with opened(str(path)) as file:
                for window in self._sums:
                    self._check(path, window, _read(file, window))

    def _check(self, path: Path, window: Window, values: NDArray[np.uint8]) -> None:
        if self._sums.get(window, None) not in {None, _sum(values)}:
            came = f"other pixels in {path} at row {window.row_off}, column {window.col_off}"
            raise OutputError("a disk that keeps what is written", came, "Free disk space and run again.")


def _sum(values: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _read(file: Any, window: Window) -> NDArray[np.uint8]:
    rows, cols = (window.row_off, window.row_stop), (window.col_off, window.col_stop)
    values: NDArray[np.uint8] = file.read(window=(rows, cols))
    return values


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever comes of a file of ours that cannot be written or read; some of it rasterio lets through as GDAL has it."""
    try:
        yield
    except (CPLE_BaseError, RasterioError, RasterError) as error:
        raise OutputError("room to write the products", f"{path} ({error})", "Free disk space, or choose another --out.") from error
