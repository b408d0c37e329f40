"""Images in: any CRS, bands, dtype, nodata or mask, onto the run's grid. Images out are in `cog`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import RasterError
from rs_pipeline.grid import Grid, Window

CACHE_MB = 256
"""Memory that GDAL may use for blocks of open files, per process."""
BLOCK_PX = 512
"""Side of the blocks of the grid that images are warped in."""
_BLOCKS_KEPT_BYTES = 128e6
_HALF_OPAQUE = 127
_MASKLIKE_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What the header of an image says."""

    href: str
    """Path or URL."""
    crs: CRS
    transform: Affine
    height: int
    width: int
    dtype: str
    nodata: float | None
    colours: tuple[str, ...]
    """Colour interpretation of each band, as GDAL names it."""
    gsd_m: float
    """Ground sampling distance at the image's centre, metres, whatever the CRS."""
    footprint: BaseGeometry
    """Outline of the pixels in EPSG:4326, collars included."""
    taken: str | None
    """Content of TIFFTAG_DATETIME, as it stands."""
    fingerprint: str
    """Changes when the file changes: size and modification time; empty for URLs."""

    @property
    def count(self) -> int:
        """Bands."""
        return len(self.colours)


def describe(href: str) -> RasterInfo:
    """Read the header of an image.

    Raises
    ------
    RasterError: cannot be opened, has no CRS or no real-valued bands, or is cut short.
    """
    with _opened(href) as source:
        if source.crs is None:
            raise RasterError("a georeferenced image", f"{href} without a CRS", "Give it one, for example with `rio edit-info --crs`.")
        if source.transform == Affine.identity():
            raise RasterError("a georeferenced image", f"{href} without a geotransform", "Georeference it first.")
        if any(np.dtype(d).kind not in "uif" for d in source.dtypes):
            raise RasterError("bands of real numbers", f"{source.dtypes[0]} in {href}", "Convert it, for example to float32.")
        _check_blocks(source, href)
        crs = CRS.from_user_input(source.crs)
        box = GeoBox((source.height, source.width), source.transform, source.crs)
        return RasterInfo(
            href=href,
            crs=crs,
            transform=source.transform,
            height=source.height,
            width=source.width,
            dtype=source.dtypes[0],
            nodata=source.nodata,
            colours=tuple(c.name for c in source.colorinterp),
            gsd_m=ground_sampling_distance(crs, source.transform, source.height, source.width),
            footprint=box.geographic_extent.geom,
            taken=source.tags().get("TIFFTAG_DATETIME"),
            fingerprint=fingerprint(href),
        )


def fingerprint(href: str) -> str:
    """Size and modification time of a local file; empty for anything else."""
    path = Path(href)
    if not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def ground_sampling_distance(crs: CRS, transform: Affine, height: int, width: int) -> float:
    """Metres on the ground between neighbouring pixels at the centre, the mean of both directions (geodesic).

    Raises
    ------
    RasterError: the centre is outside what the CRS can express.
    """
    row, col = height / 2, width / 2
    points = [transform @ p for p in ((col, row), (col + 1, row), (col, row + 1))]
    try:
        xs, ys = zip(*points, strict=True)
        lons, lats = Transformer.from_crs(crs, 4326, always_xy=True).transform(xs, ys, errcheck=True)
    except (ProjError, CRSError) as error:
        raise RasterError("a place on the Earth", f"pixels at {points[0]} ({error})", "Check the CRS and the geotransform.") from error
    _, _, metres = Geod(ellps="WGS84").inv([lons[0], lons[0]], [lats[0], lats[0]], lons[1:], lats[1:])
    return float(np.mean(metres))


def choose_bands(info: RasterInfo, bands: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Band numbers (from 1) of red, green and blue.

    Raises
    ------
    RasterError: fewer than three bands and no choice given, or a choice that does not exist.
    """
    if bands is not None:
        if max(bands) > info.count:
            raise RasterError(f"bands 1…{info.count} in {info.href}", f"bands={list(bands)}", "Choose bands that exist.")
        return bands
    named = [info.colours.index(c) + 1 for c in ("red", "green", "blue") if c in info.colours]
    if len(named) == 3:
        return named[0], named[1], named[2]
    if info.count >= 3:
        return 1, 2, 3
    raise RasterError(
        "an image with red, green and blue bands",
        f"{info.count} band{'s' * (info.count > 1)} in {info.href}",
        "Say which to take: --set bands=[1,1,1] shows one band as grey.",
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole image at low resolution."""

    image: NDArray[np.float32]
    """(3, H, W), as stored."""
    valid: NDArray[np.bool_]
    """(H, W)."""
    opaque: float | None
    """Least value of the alpha band that counts as seen: half the largest. None where there is no alpha band, or where the
    band of that name holds measurements, as the near infrared of four-band files often does."""


def read_sample(info: RasterInfo, bands: tuple[int, int, int], longest_px: int) -> Sample:
    """Red, green and blue of the whole image with its longest side at most `longest_px`, from overviews where it has them.

    Raises
    ------
    RasterError: the pixels cannot be read.
    """
    factor = max(1.0, max(info.height, info.width) / longest_px)
    shape = max(1, round(info.height / factor)), max(1, round(info.width / factor))
    with _opened(info.href) as source, _reading(info.href):
        image = source.read(list(bands), out_shape=(3, *shape)).astype(np.float32)
        opaque = None
        if "alpha" in info.colours:
            alpha = source.read(info.colours.index("alpha") + 1, out_shape=shape)
            opaque = _opaque_from(alpha)
            valid = alpha >= opaque if opaque is not None else np.ones(shape, np.bool_)
        else:
            valid = source.dataset_mask(out_shape=shape) > _HALF_OPAQUE
    return Sample(image, valid & np.isfinite(image).all(axis=0), opaque)


def _opaque_from(alpha: NDArray[Any]) -> float | None:
    top = float(alpha.max())
    if top == 0:
        return 1.0
    return top / 2 if ((alpha == 0) | (alpha == top)).mean() >= _MASKLIKE_SHARE else None


class SceneReader:
    """One image, seen on the run's grid. Keeps the file open: one per worker and scene.

    Every pixel depends on the grid alone and not on the window it is read in. GDAL's fast warper does not promise that:
    it interpolates coordinates across the window it is asked for. So it is always asked for the same blocks of the grid.

    Raises
    ------
    RasterError: the image cannot be opened, now or while reading.
    """

    def __init__(self, info: RasterInfo, bands: tuple[int, int, int], grid: Grid, opaque: float | None) -> None:
        self.href = info.href
        self._bands = list(bands)
        self._opaque = opaque
        has_alpha = "alpha" in info.colours and opaque is not None
        with _reading(info.href):
            source = _open_near_resolution(info, grid.gsd_m / info.gsd_m, has_alpha=has_alpha)
            self._source = source
            is_float = np.dtype(source.dtypes[0]).kind == "f"
            nodata = source.nodata if source.nodata is not None else (float("nan") if is_float else None)
            self._vrt = WarpedVRT(
                source,
                crs=grid.crs.to_wkt(),
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=_resampling(info, grid),
                **_mask_options(nodata, has_alpha=has_alpha, per_dataset=MaskFlags.per_dataset in source.mask_flag_enums[0]),
            )
        self._blocks: OrderedDict[tuple[int, int], tuple[Window, NDArray[Any], NDArray[np.bool_]]] = OrderedDict()
        self._alpha_band = info.colours.index("alpha") + 1 if has_alpha else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._vrt.close()
        self._source.close()

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values (3, H, W) float32 as stored, and valid (H, W), of a window of the grid."""
        image = np.empty((3, *window.shape), np.float32)
        valid = np.empty(window.shape, np.bool_)
        for row in range(window.row_off // BLOCK_PX, (window.row_stop - 1) // BLOCK_PX + 1):
            for col in range(window.col_off // BLOCK_PX, (window.col_stop - 1) // BLOCK_PX + 1):
                block, values, seen = self._block(row, col)
                part = block.intersection(window)
                if part is not None:
                    image[:, *part.slices(window)] = values[:, *part.slices(block)]
                    valid[part.slices(window)] = seen[part.slices(block)]
        return image, valid & np.isfinite(image).all(axis=0)

    def _block(self, row: int, col: int) -> tuple[Window, NDArray[Any], NDArray[np.bool_]]:
        if (row, col) in self._blocks:
            self._blocks.move_to_end((row, col))
            return self._blocks[row, col]
        top, left = row * BLOCK_PX, col * BLOCK_PX
        block = Window(top, left, min(BLOCK_PX, self._vrt.height - top), min(BLOCK_PX, self._vrt.width - left))
        where = RasterioWindow(block.col_off, block.row_off, block.width, block.height)
        with _reading(self.href):
            values = self._vrt.read(self._bands, window=where)
            if self._alpha_band is not None:
                seen = self._vrt.read(self._alpha_band, window=where) >= self._opaque
            else:
                seen = self._vrt.dataset_mask(window=where) > _HALF_OPAQUE
        self._blocks[row, col] = block, values, seen
        while len(self._blocks) > 1 and len(self._blocks) * (values.nbytes + seen.nbytes) > _BLOCKS_KEPT_BYTES:
            self._blocks.popitem(last=False)
        return self._blocks[row, col]


def burn_mask(geometry: BaseGeometry, grid: Grid) -> NDArray[np.bool_]:
    """(H, W) bool, True where a pixel's centre lies in `geometry` (in the grid's CRS)."""
    inside: NDArray[np.bool_] = geometry_mask([geometry], grid.shape, grid.transform, invert=True)
    return inside


def _mask_options(nodata: float | None, *, has_alpha: bool, per_dataset: bool) -> dict[str, Any]:
    if has_alpha:
        return {}
    if nodata is not None and not per_dataset:
        return {"src_nodata": nodata, "nodata": nodata}
    return {"add_alpha": True}


def _resampling(info: RasterInfo, grid: Grid) -> Resampling:
    """Nothing is invented where pixels coincide; means where many pixels become one; else bilinear."""
    offset = ~info.transform @ (grid.transform.c, grid.transform.f)
    same_axes = np.allclose(
        [info.transform.a, info.transform.b, info.transform.d, info.transform.e],
        [grid.transform.a, grid.transform.b, grid.transform.d, grid.transform.e],
        rtol=1e-9,
        atol=0,
    )
    if same_axes and info.crs == grid.crs and np.allclose(offset, np.round(offset), atol=1e-3):
        return Resampling.nearest
    return Resampling.average if grid.gsd_m > 1.5 * info.gsd_m else Resampling.bilinear


def _open_near_resolution(info: RasterInfo, ratio: float, *, has_alpha: bool) -> Any:
    """The image, or its coarsest overview that is still finer than the grid: no more is read than is needed."""
    if "alpha" in info.colours and not has_alpha:
        return rasterio.open(_colours_only(info))
    with rasterio.open(info.href) as source:
        factors = source.overviews(1)
    levels = [i for i, factor in enumerate(factors) if factor <= ratio * 1.01]
    return rasterio.open(info.href, overview_level=levels[-1]) if levels else rasterio.open(info.href)


def _colours_only(info: RasterInfo) -> str:
    """GDAL VRT of the image in which no band is called alpha."""
    with rasterio.open(info.href) as source:
        bands = "".join(
            f'<VRTRasterBand dataType="{_GDAL_TYPES[source.dtypes[i]]}" band="{i + 1}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="0">{Path(info.href).absolute() if Path(info.href).exists() else info.href}</SourceFilename>'
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
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _check_blocks(source: Any, href: str) -> None:
    """Refuse a TIFF that was cut short: its header reads well, its last blocks lie past the end of the file."""
    path = Path(href)
    if source.driver not in {"GTiff", "COG"} or not path.is_file():
        return
    size = path.stat().st_size
    rows, cols = source.block_shapes[0]
    last_row, last_col = (source.height - 1) // rows, (source.width - 1) // cols
    for bidx in (1, source.count):
        for row, col in {(0, 0), (0, last_col), (last_row, 0), (last_row, last_col)}:
            offset = source.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=bidx)
            length = source.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=bidx)
            end = int(offset) + int(length) if offset and length else 0
            if end > size:
                raise RasterError(f"a whole file of at least {end} bytes", f"{size} bytes in {href}", "Copy it again.")


@contextmanager
def _opened(href: str) -> Iterator[Any]:
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        try:
            source = rasterio.open(href)
        except (RasterioError, OSError) as error:
            raise RasterError("an image that GDAL can read", f"{href} ({error})", "Check the path and the file.") from error
        with source:
            yield source


@contextmanager
def _reading(href: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        raise RasterError("readable pixels", f"{href} ({error})", "The file is damaged or cut short: copy it again.") from error
