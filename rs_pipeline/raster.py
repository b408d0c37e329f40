"""Images in: headers, bands, and a first look at the pixels. `scene_reader` brings them onto a grid; `cog` writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import RasterError
from rs_pipeline.fingerprints import fingerprint
from rs_pipeline.grid import Grid, Window
from rs_pipeline.outline import lon_lat_outline, outline

# GDAL reads this once, at the first file; its own choice, a twentieth of the machine, is too much for many workers.
os.environ.setdefault("GDAL_CACHEMAX", "64")
# By itself GDAL waits for a web server for ever, and takes its first bad answer for its last.
for _option, _value in {"CONNECTTIMEOUT": "10", "TIMEOUT": "60", "MAX_RETRY": "3", "RETRY_DELAY": "0.5"}.items():
    os.environ.setdefault(f"GDAL_HTTP_{_option}", _value)
HALF_OPAQUE = 127
"""GDAL masks are 0…255: above this a pixel counts as seen."""
_MASKLIKE_SHARE = 0.98
_SLACK_DEG = 1e-3


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
    """Value that says nothing was seen: the file's own, or the one that the run was told."""
    colours: tuple[str, ...]
    """Colour interpretation of each band, as GDAL names it."""
    gsd_m: float
    """Ground sampling distance at the image's centre, metres, whatever the CRS."""
    footprint: BaseGeometry
    """Outline of the pixels in EPSG:4326, collars included; two parts where it crosses the antimeridian."""
    taken: str | None
    """Content of TIFFTAG_DATETIME, as it stands."""
    fingerprint: str
    """Changes when the image changes; empty where nobody can tell. See `rs_pipeline.fingerprints`."""

    @property
    def count(self) -> int:
        """Bands."""
        return len(self.colours)

    def outline(self, crs: CRS) -> BaseGeometry:
        """Outline of the pixels in any CRS; empty where it cannot express the place."""
        return outline(self.crs, self.transform, self.height, self.width, crs)

    def key(self) -> list[Any]:
        """What decides the pixels that are read, JSON-ready."""
        shape = [list(self.transform)[:6], self.height, self.width]
        return [self.href, self.fingerprint, self.crs.to_wkt(), shape, str(self.nodata), self.colours]


def describe(href: str) -> RasterInfo:
    """Read the header of an image.

    Raises
    ------
    RasterError: cannot be opened, has no CRS or no real-valued bands, or is cut short.
    """
    version = fingerprint(href)
    with opened(href, version) as source:
        if source.crs is None:
            raise RasterError("a georeferenced image", f"{href} without a CRS", "Give it one, for example with `rio edit-info --crs`.")
        if source.transform == Affine.identity():
            raise RasterError("a georeferenced image", f"{href} without a geotransform", "Georeference it first.")
        if any(np.dtype(d).kind not in "uif" for d in source.dtypes):
            raise RasterError("bands of real numbers", f"{source.dtypes[0]} in {href}", "Convert it, for example to float32.")
        _check_blocks(source, href)
        left, right = sorted((source.bounds.left, source.bounds.right))
        if source.crs.is_geographic and (left < -180 - _SLACK_DEG or right > 180 + _SLACK_DEG):
            fix = "Bring it there, for example with `gdalwarp -t_srs EPSG:4326 -te -180 S 180 N`, or give it a projected CRS."
            raise RasterError("longitudes in -180…180", f"{left:g}…{right:g} in {href}", fix)
        crs = CRS.from_user_input(source.crs)
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
            footprint=_footprint(crs, source, href),
            taken=source.tags().get("TIFFTAG_DATETIME"),
            fingerprint=version,
        )


def _footprint(crs: CRS, source: Any, href: str) -> BaseGeometry:
    footprint = lon_lat_outline(crs, source.transform, source.height, source.width)
    if footprint.is_empty:
        raise RasterError("a place on the Earth", f"bounds {tuple(source.bounds)} of {href}", "Check the CRS and the geotransform.")
    return footprint


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
    with opened(info.href, info.fingerprint) as source, reading(info.href):
        stored = source.read(list(bands), out_shape=(3, *shape))
        opaque = None
        seen: NDArray[np.bool_] = np.ones(shape, np.bool_)
        if "alpha" not in info.colours:
            seen = join_bands(source.read_masks(list(bands), out_shape=(3, *shape)) > HALF_OPAQUE, info.dtype)
        else:
            alpha = source.read(info.colours.index("alpha") + 1, out_shape=shape)
            opaque = _opaque_from(alpha)
            if opaque is not None:
                seen = alpha >= opaque
    image = stored.astype(np.float32)
    return Sample(image, seen & has_values(stored, info.nodata) & np.isfinite(image).all(axis=0), opaque)


def join_bands(valid: NDArray[np.bool_], dtype: str) -> NDArray[np.bool_]:
    """(B, H, W) validity of each band to (H, W) of the pixel.

    In unsigned images the nodata value is also a colour (a 0 of red in dark water): one band with a value makes the pixel. In signed and
    floating-point ones it is a mark outside the range of values: every band must have one.
    """
    joined: NDArray[np.bool_] = np.any(valid, axis=0) if np.dtype(dtype).kind == "u" else np.all(valid, axis=0)
    return joined


def has_values(stored: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """(H, W) bool: where the values (B, H, W) are not `nodata`, joined as `join_bands` does."""
    if nodata is None:
        return np.ones(stored.shape[1:], np.bool_)
    return join_bands(stored != nodata, str(stored.dtype))


def _opaque_from(alpha: NDArray[Any]) -> float | None:
    top = float(alpha.max())
    if top == 0:
        return 1.0
    return top / 2 if ((alpha == 0) | (alpha == top)).mean() >= _MASKLIKE_SHARE else None


def gdal_version() -> str:
    """Version of the GDAL that reads and writes."""
    return str(rasterio.__gdal_version__)


def read_labels(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(H, W) uint8: the one band of a run's `labels.tif`; of another shape, from its overviews, where asked.

    Raises
    ------
    RasterError: cannot be opened or read.
    """
    with opened(str(path)) as source, reading(str(path)):
        labels: NDArray[np.uint8] = source.read(1, out_shape=shape)
    return labels


def read_window(href: str, window: Window) -> NDArray[np.uint8]:
    """(bands, h, w) uint8: a window inside a run's `labels.tif` or `scores.tif`.

    Raises
    ------
    RasterError: cannot be opened or read.
    """
    with opened(href) as source, reading(href):
        values: NDArray[np.uint8] = source.read(window=((window.row_off, window.row_stop), (window.col_off, window.col_stop)))
    return values


def burn_mask(geometry: BaseGeometry, grid: Grid) -> NDArray[np.bool_]:
    """(H, W) bool, True where a pixel's centre lies in `geometry` (in the grid's CRS)."""
    inside: NDArray[np.bool_] = geometry_mask([geometry], grid.shape, grid.transform, invert=True)
    return inside


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
def opened(href: str, version: str = "") -> Iterator[Any]:
    """The image, open as by `open_image`; a `RasterError` where it cannot be."""
    try:
        source = open_image(href, version)
    except (RasterioError, OSError) as error:
        raise RasterError("an image that GDAL can read", f"{href} ({error})", "Check the path and the file.") from error
    with source:
        yield source


def open_image(href: str, version: str = "", overview_level: int | None = None, *, tiff: bool = False) -> Any:
    """The image, open, or one of its overviews.

    Parameters
    ----------
    version: its fingerprint; see `gdal_path`.
    tiff: nothing but a TIFF will do, wherever it is.

    Raises
    ------
    RasterioError, OSError: it cannot be.
    """
    # What a server gives may say that it is a virtual raster of this machine's files: from there, TIFFs alone are images.
    driver = {"driver": "GTiff"} if tiff or "://" in href else {}
    level = {"overview_level": overview_level} if overview_level is not None else {}
    return rasterio.open(gdal_path(href, version), **driver, **level)


def gdal_path(href: str, version: str = "") -> str:
    """What GDAL is given for a path or URL. Beside an image on the web nothing is looked for: no listing, no sidecar files.

    GDAL keeps what it has read of a URL for as long as the process lives. A fragment, which no server is sent, makes another URL of
    another version.
    """
    if not href.startswith(("http://", "https://")):
        return href
    url = f"{href}#{hashlib.sha256(version.encode()).hexdigest()[:16]}" if version else href
    return f"/vsicurl?empty_dir=yes&url={quote(url, safe='')}"


@contextmanager
def reading(href: str) -> Iterator[None]:
    """GDAL's errors while reading pixels as `RasterError`."""
    try:
        yield
    except (RasterioError, OSError) as error:
        raise RasterError("readable pixels", f"{href} ({error})", "The file is damaged or cut short: copy it again.") from error
