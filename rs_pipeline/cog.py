"""Images out: written block by block, then made into cloud-optimized GeoTIFFs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import opened, reading

BLOCK_PX = 512
_CACHE_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """What a raster says of itself."""

    nodata: int | None
    descriptions: tuple[str, ...]
    """One per band."""
    tags: Mapping[str, str]
    colours: Mapping[int, tuple[int, int, int, int]] | None = None
    """Colour table: value to RGBA."""
    smooth: bool = False
    """True for measurements, which are kept as differences from pixel to pixel: a quarter to a half smaller."""


class BlockRaster:
    """A uint8 raster on disk that is written and read by windows; scratch, not a product."""

    def __init__(self, path: Path, grid: Grid, bands: int, look: Look) -> None:
        self.path, self._smooth = path, look.smooth
        with _writing(path):
            self._file = rasterio.open(
                path,
                "w+",
                driver="GTiff",
                height=grid.height,
                width=grid.width,
                count=bands,
                dtype="uint8",
                crs=grid.crs.to_wkt(),
                transform=grid.transform,
                nodata=look.nodata,
                tiled=True,
                blockxsize=BLOCK_PX,
                blockysize=BLOCK_PX,
                compress="zstd",
                zstd_level=1,
                predictor=2 if look.smooth else 1,
                num_threads="ALL_CPUS",
                bigtiff="if_safer",
                interleave="band",
                sparse_ok=True,
            )
            self._file.update_tags(**look.tags)
            for band, description in enumerate(look.descriptions, 1):
                self._file.set_band_description(band, description)
            if look.colours is not None:
                self._file.write_colormap(1, dict(look.colours))

    def write(self, window: Window, values: NDArray[np.uint8]) -> None:
        """Write (bands, H, W) uint8."""
        with _writing(self.path):
            self._file.write(values, window=_rasterio(window))

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(bands, H, W) uint8."""
        values: NDArray[np.uint8] = self._file.read(window=_rasterio(window))
        return values

    def finish(self, path: Path, overviews: Literal["mode", "average"]) -> None:
        """Close the raster and copy it into a cloud-optimized GeoTIFF."""
        self.close()
        # A higher level would make differences a tenth smaller in four times the time; labels it makes a third smaller in little.
        packing = {"PREDICTOR": "YES", "LEVEL": "1"} if self._smooth else {"PREDICTOR": "NO", "LEVEL": "6"}
        options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": str(BLOCK_PX), "BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS"} | packing
        options["STATISTICS"] = "YES"
        with _writing(path):
            rasterio.shutil.copy(str(self.path), str(path), driver="COG", OVERVIEW_RESAMPLING=overviews.upper(), **options)

    def close(self) -> None:
        """Flush and close."""
        with _writing(self.path):
            self._file.close()


@contextmanager
def little_cache() -> Iterator[None]:
    """GDAL keeps no more of what is read and written than whole blocks in their order need, however large the raster."""
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
        yield


def write_placed_copy(image: Path, target: Path, grid: Grid) -> None:
    """Copy the pixels of an image into a GeoTIFF that lies on a grid of the image's size; what georeference it has is not copied.

    Raises
    ------
    RasterError: the image cannot be read.
    OutputError: the copy cannot be written.
    """
    with opened(str(image)) as source:
        with reading(str(image)):
            pixels, colours = source.read(), source.colorinterp
        profile = {"count": source.count, "dtype": source.dtypes[0], "nodata": source.nodata, "crs": grid.crs.to_wkt()}
    shape = {"height": grid.height, "width": grid.width, "transform": grid.transform}
    with _writing(target), rasterio.open(target, "w", driver="GTiff", tiled=True, bigtiff="if_safer", **profile, **shape) as file:
        file.colorinterp = colours
        file.write(pixels)


def label_colours(colours: Sequence[tuple[int, int, int]]) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a label raster: the classes from 1; GeoTIFF keeps no alpha, so all else is black, and 255 hidden as nodata."""
    return {value: (*colour, 255) for value, colour in enumerate(colours, 1)}


def _rasterio(window: Window) -> Any:
    return RasterioWindow(window.col_off, window.row_off, window.width, window.height)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        raise OutputError("room to write the products", f"{path} ({error})", "Free disk space, or choose another --out.") from error
