"""Labelled data sets looked over before anything is computed on them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS
from shapely import Polygon

from rs_pipeline.datasets import Dataset, Pair, check_mask
from rs_pipeline.errors import RasterError, UsageError
from rs_pipeline.raster import RasterInfo, choose_bands, describe, opened, reading

_PNG = b"\x89PNG\r\n\x1a\n"
_Shape = tuple[tuple[int, ...], tuple[str, ...]]


def check_pairs(dataset: Dataset, bands: tuple[int, int, int] | None = None) -> None:
    """Refuse damaged files, pairs of different sizes, images without the bands to show and masks of the wrong kind.

    Parameters
    ----------
    bands: of the images, as in the settings.

    Raises
    ------
    RasterError: names the file or the pair.
    """
    for pair in dataset.pairs:
        for path in (pair.image, pair.mask):
            check_png(path)
        with opened(str(pair.image)) as image, opened(str(pair.mask)) as mask:
            if (image.height, image.width) != (mask.height, mask.width):
                expected = f"a mask of {image.height} x {image.width} px, as {pair.name} has"
                raise RasterError(expected, f"{mask.height} x {mask.width} px in {pair.mask}", "Check that they belong together.")
        choose_bands(_header(pair, dataset.layout.gsd_m), bands)
        check_mask(pair.mask, dataset.layout)


def check_png(path: Path) -> None:
    """Refuse a PNG that was cut short or changed, by its checksums: GDAL reads invented pixels from one, and does not say so.

    Raises
    ------
    RasterError: names the file. Files of other formats pass.
    """
    content = memoryview(path.read_bytes())
    if content[: len(_PNG)] != _PNG:
        return
    offset, kind = len(_PNG), b""
    while kind != b"IEND":
        try:
            length, kind = struct.unpack_from(">I4s", content, offset)
            (checksum,) = struct.unpack_from(">I", content, offset + 8 + length)
        except struct.error as error:
            raise RasterError("a whole PNG file", f"one that was cut short, {path}", "Copy it again.") from error
        if zlib.crc32(content[offset + 4 : offset + 8 + length]) != checksum:
            raise RasterError("a PNG file as it was written", f"one with a wrong checksum, {path}", "Copy it again.")
        offset += 12 + length


def is_georeferenced(source: Any) -> bool:
    """Whether an open image says where it is; one that does not is given a place, and the layout's pixel size."""
    return source.crs is not None and source.transform != Affine.identity()


def _header(pair: Pair, gsd_m: float) -> RasterInfo:
    with opened(str(pair.image)) as source:
        if is_georeferenced(source):
            return describe(str(pair.image))
        if any(np.dtype(d).kind not in "uif" for d in source.dtypes):
            raise RasterError("bands of real numbers", f"{source.dtypes[0]} in {pair.image}", "Convert it, for example to float32.")
        return RasterInfo(
            href=str(pair.image),
            crs=CRS.from_epsg(4326),
            transform=source.transform,
            height=source.height,
            width=source.width,
            dtype=source.dtypes[0],
            nodata=source.nodata,
            colours=tuple(c.name for c in source.colorinterp),
            gsd_m=gsd_m,
            footprint=Polygon(),
            taken=None,
            fingerprint="",
        )


def check_apart(tuning: Dataset, data: Dataset) -> None:
    """Refuse to tune on what is scored.

    The same pixels are found whatever file they are in. Crops of an image, and copies of it in a format that loses something, as JPEG
    does, have other pixels and cannot be told.

    Raises
    ------
    UsageError: one folder is or holds the other, or an image is in both (bands, size, type and sha256 of the pixels).
    RasterError: an image cannot be read.
    """
    one, other = tuning.folder.resolve(), data.folder.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        expected = "--tune-on a folder apart from --data"
        raise UsageError(expected, f"{tuning.folder} and {data.folder}", "Tune on images that are not scored.")
    shapes, theirs = ({pair: _shape(pair.image) for pair in dataset.pairs} for dataset in (data, tuning))
    # Only images of a shape that both have are read.
    common = set(shapes.values()) & set(theirs.values())
    suspects = {(shape, _digest(pair.image)): pair for pair, shape in theirs.items() if shape in common}
    for pair, shape in shapes.items():
        twin = suspects.get((shape, _digest(pair.image))) if shape in common else None
        if twin is not None:
            came = f"{twin.image}, the same pixels as {pair.image}"
            raise UsageError("images that are not scored in --tune-on", came, "Take it out of one.")


def _shape(image: Path) -> _Shape:
    with opened(str(image)) as source:
        return (source.count, source.height, source.width), tuple(source.dtypes)


def _digest(image: Path) -> bytes:
    with opened(str(image)) as source, reading(str(image)):
        return hashlib.sha256(source.read().data).digest()
