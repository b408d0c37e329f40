"""One image seen on the run's grid: warped in fixed blocks, so that a pixel does not depend on who asks for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import HALF_OPAQUE, RasterInfo, gdal_path, has_values, join_bands, open_image, reading

BLOCK_PX = 512
"""Side of the blocks of the grid that images are warped in."""
CACHE_BYTES = 96_000_000
"""Memory for warped blocks, of all the scenes of a worker together."""
_MOST_STRIP_BYTES = 1_000_000_000
_FULL_ALPHA = {"uint16": 65535, "int16": 32767}
"""What GDAL's warper calls opaque, by type; 255 in all others."""


class WarpedBlock(NamedTuple):
    """One block of the grid, as one image has it."""

    window: Window
    values: NDArray[Any]
    """(3, H, W) in the image's own dtype."""
    valid: NDArray[np.bool_]
    """(H, W)."""


class BlockCache:
    """The blocks used last, within a budget of bytes."""

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self._budget, self._held = budget, 0
        self._blocks: OrderedDict[tuple[str, int, int], WarpedBlock] = OrderedDict()

    def get(self, key: tuple[str, int, int], make: Callable[[], WarpedBlock]) -> WarpedBlock:
        """The block under a key, made where it is not held."""
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        block = make()
        self._blocks[key] = block
        self._held += block.values.nbytes + block.valid.nbytes
        while self._held > self._budget and len(self._blocks) > 1:
            _, old = self._blocks.popitem(last=False)
            self._held -= old.values.nbytes + old.valid.nbytes
        return block


class SceneReader:
    """One image, seen on the run's grid; keeps the file open. Not for several threads at once.

    Every pixel depends on the grid alone and not on the window it is read in. GDAL's fast warper does not promise that:
    it interpolates coordinates across the window it is asked for. So it is always asked for the same blocks of the grid.

    Raises
    ------
    RasterError: the image cannot be opened, now or while reading.
    """

    def __init__(self, info: RasterInfo, bands: tuple[int, int, int], grid: Grid, opaque: float | None, cache: BlockCache) -> None:
        self.info, self._bands, self._cache = info, list(bands), cache
        has_alpha = "alpha" in info.colours and opaque is not None
        with reading(info.href):
            source = _open_near_resolution(info, grid.gsd_m / info.gsd_m, has_alpha=has_alpha)
            self._source = source
            _hold_strips(source, BLOCK_PX * max(1.0, grid.gsd_m / info.gsd_m))
            is_float = np.dtype(source.dtypes[0]).kind == "f"
            nodata = info.nodata if info.nodata is not None else (float("nan") if is_float else None)
            per_dataset = MaskFlags.per_dataset in source.mask_flag_enums[0]
            shift = _shift(info, grid)
            self._shift = None if has_alpha or per_dataset else shift
            options = _mask_options(nodata, has_alpha=has_alpha, per_dataset=per_dataset)
            self._vrt = WarpedVRT(
                source,
                crs=grid.crs.to_wkt(),
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=_resampling(info, grid) if shift is None else Resampling.nearest,
                **options,
            )
        self._alpha: tuple[int, float] | None = None
        """Band that tells what was seen, and the least value that does; None: the bands' own nodata does."""
        if opaque is not None and has_alpha:
            self._alpha = info.colours.index("alpha") + 1, opaque
        elif "add_alpha" in options:
            # Not by GDAL's masks: of signed and floating-point images they do not heed the band that was added.
            self._alpha = self._vrt.count, _FULL_ALPHA.get(self._vrt.dtypes[-1], 255) * (HALF_OPAQUE + 1) / 255

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._vrt.close()
        self._source.close()

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (3, H, W) as stored, float32 for floating point, and valid (H, W), of a window of the grid."""
        stored = np.dtype(self._vrt.dtypes[0])
        image = np.empty((3, *window.shape), np.float32 if stored.kind == "f" else stored)
        valid = np.empty(window.shape, np.bool_)
        for row in range(window.row_off // BLOCK_PX, (window.row_stop - 1) // BLOCK_PX + 1):
            for col in range(window.col_off // BLOCK_PX, (window.col_stop - 1) // BLOCK_PX + 1):
                block = self._cache.get((self.info.href, row, col), partial(self._warp, row, col))
                part = block.window.intersection(window)
                if part is not None:
                    image[:, *part.slices(window)] = block.values[:, *part.slices(block.window)]
                    valid[part.slices(window)] = block.valid[part.slices(block.window)]
        return image, valid & np.isfinite(image).all(axis=0) if image.dtype.kind == "f" else valid

    def _warp(self, row: int, col: int) -> WarpedBlock:
        top, left = row * BLOCK_PX, col * BLOCK_PX
        block = Window(top, left, min(BLOCK_PX, self._vrt.height - top), min(BLOCK_PX, self._vrt.width - left))
        if self._shift is not None:
            return self._cut(block, *self._shift)
        where = RasterioWindow(block.col_off, block.row_off, block.width, block.height)
        with reading(self.info.href):
            values = self._vrt.read(self._bands, window=where)
            if self._alpha is not None:
                band, least = self._alpha
                seen = self._vrt.read(band, window=where) >= least
            else:
                seen = join_bands(self._vrt.read_masks(self._bands, window=where) > HALF_OPAQUE, self.info.dtype)
        return WarpedBlock(block, values, seen & has_values(values, self.info.nodata))

    def _cut(self, block: Window, down: int, right: int) -> WarpedBlock:
        """`block` of an image whose pixels are the grid's, so many rows and columns away: as warping would give it, in half the time."""
        values = np.zeros((3, *block.shape), self._source.dtypes[0])
        seen = np.zeros(block.shape, np.bool_)
        moved = Window(block.row_off + down, block.col_off + right, block.height, block.width)
        part = moved.intersection(Window(0, 0, self._source.height, self._source.width))
        if part is not None:
            where = RasterioWindow(part.col_off, part.row_off, part.width, part.height)
            with reading(self.info.href):
                stored = self._source.read(self._bands, window=where)
            values[:, *part.slices(moved)] = stored
            seen[part.slices(moved)] = has_values(stored, self.info.nodata)
        return WarpedBlock(block, values, seen)


def _hold_strips(source: Any, rows: float) -> None:
    """Make room in GDAL's cache for so many rows of an image whose blocks are strips: else each block of a row would decode them anew."""
    height, width = source.block_shapes[0]
    row_bytes = source.width * sum(np.dtype(dtype).itemsize for dtype in source.dtypes)
    needed = round(min(rows + height, source.height) * row_bytes)
    if width >= source.width and needed > get_gdal_config("GDAL_CACHEMAX"):
        set_gdal_config("GDAL_CACHEMAX", min(needed, _MOST_STRIP_BYTES))


def _mask_options(nodata: float | None, *, has_alpha: bool, per_dataset: bool) -> dict[str, Any]:
    if has_alpha:
        return {}
    if nodata is not None and not per_dataset:
        return {"src_nodata": nodata, "nodata": nodata}
    return {"add_alpha": True}


def _resampling(info: RasterInfo, grid: Grid) -> Resampling:
    """Means where many pixels become one; else bilinear."""
    return Resampling.average if grid.gsd_m > 1.5 * info.gsd_m else Resampling.bilinear


def _shift(info: RasterInfo, grid: Grid) -> tuple[int, int] | None:
    """Row and column of the image that the grid begins at; None where their pixels do not coincide. Where they do, nothing is invented."""
    col, row = ~info.transform @ (grid.transform.c, grid.transform.f)
    same_axes = np.allclose(
        [info.transform.a, info.transform.b, info.transform.d, info.transform.e],
        [grid.transform.a, grid.transform.b, grid.transform.d, grid.transform.e],
        rtol=1e-9,
        atol=0,
    )
    if same_axes and info.crs == grid.crs and np.allclose((row, col), np.round((row, col)), rtol=0, atol=1e-3):
        return round(row), round(col)
    return None


def _open_near_resolution(info: RasterInfo, ratio: float, *, has_alpha: bool) -> Any:
    """The image, or its coarsest overview that is still finer than the grid: no more is read than is needed."""
    if "alpha" in info.colours and not has_alpha:
        return rasterio.open(_colours_only(info))
    with open_image(info.href, info.fingerprint) as source:
        factors = source.overviews(1)
    levels = [i for i, factor in enumerate(factors) if factor <= ratio * 1.01]
    return open_image(info.href, info.fingerprint, levels[-1] if levels else None)


def _colours_only(info: RasterInfo) -> str:
    """GDAL VRT of the image in which no band is called alpha."""
    with open_image(info.href, info.fingerprint) as source:
        nodata = f"<NoDataValue>{info.nodata!r}</NoDataValue>" if info.nodata is not None else ""
        bands = "".join(
            f'<VRTRasterBand dataType="{_GDAL_TYPES[source.dtypes[i]]}" band="{i + 1}">{nodata}<SimpleSource>'
            f'<SourceFilename relativeToVRT="0">{_escaped(gdal_path(info.href, info.fingerprint))}</SourceFilename>'
            f"<SourceBand>{i + 1}</SourceBand></SimpleSource></VRTRasterBand>"
            for i in range(source.count)
        )
        transform = ",".join(repr(v) for v in source.transform.to_gdal())
    return (
        f'<VRTDataset rasterXSize="{info.width}" rasterYSize="{info.height}"><SRS>{_escaped(info.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
    )


_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float16": "Float16", "float32": "Float32", "float64": "Float64",
}  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
