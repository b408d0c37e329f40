"""Labelled data sets on disk: which image has which mask, and a mask as labels."""

from __future__ import annotations

import glob
import hashlib
import struct
import zlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, ClassSet
from rs_pipeline.errors import CatalogError, RasterError, UsageError
from rs_pipeline.layouts import IGNORE, OTHER, Layout
from rs_pipeline.raster import opened, reading

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask."""

    name: str
    """Path of the image below the data set's folder."""
    image: Path
    mask: Path


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pairs of one folder."""

    folder: Path
    layout: Layout
    pairs: tuple[Pair, ...]
    without_mask: int
    """Images left out because they have no mask."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a mask says."""

    labels: NDArray[np.uint8]
    """(H, W): 1…K the classes asked for, 0 every other class and the background, 255 no truth."""
    unknown_px: int
    """Pixels of a colour or number that the palette does not have: they have no truth."""


def find_pairs(layout: Layout, folder: Path, split: str | None = None, limit: int | None = None) -> Dataset:
    """The images of a folder that have a mask, in the order of their paths; of `limit` images, spread evenly over that order.

    Raises
    ------
    UsageError: a split that the layout does not have.
    CatalogError: no image, or no image with a mask.
    """
    if split is not None and split not in layout.splits:
        known = ", ".join(layout.splits) or "none"
        raise UsageError(f"a split of this layout ({known})", f"--split {split!r}", "Leave it out for all images.")
    # Path.rglob does not follow links to folders.
    found = {name for pattern in layout.images for name in glob.glob(f"**/{pattern}", root_dir=folder, recursive=True)}  # noqa: PTH207
    # One file may be met twice where a link leads back into the folder.
    unique = {(folder / name).resolve(): name for name in sorted(found, reverse=True)}
    names = sorted(n for n in unique.values() if split is None or any(fnmatchcase(_whole(folder / n), p) for p in layout.splits[split]))
    if not names:
        where = f"{folder}{f' in split {split}' if split else ''}"
        fix = "Check --data and --layout."
        raise CatalogError(f"images {' or '.join(layout.images)}", f"none in {where}", fix)
    pairs = [Pair(name, folder / name, mask) for name in names if (mask := _mask_of(layout, folder / name)) is not None]
    if not pairs:
        first = layout.masks[0].format(folder="FOLDER", parent="FOLDER/..", stem="NAME")
        raise CatalogError("masks beside the images", f"none for {len(names)} images in {folder}", f"They are looked for as {first}.")
    without = len(names) - len(pairs)
    if limit is not None and limit < len(pairs):
        pairs = [pairs[i * len(pairs) // limit] for i in range(limit)]
    return Dataset(folder, layout, tuple(pairs), without)


def _whole(path: Path) -> str:
    """The path as the user sees it, absolute: links are not followed, a split may be told by their names."""
    return path.absolute().as_posix()


def _mask_of(layout: Layout, image: Path) -> Path | None:
    stem = image.stem.removesuffix(layout.image_suffix)
    image = image.absolute()
    places = (Path(t.format(folder=image.parent, parent=image.parent.parent, stem=stem)) for t in layout.masks)
    return next((place for place in places if place.is_file() and place != image), None)


def read_truth(mask: Path, layout: Layout, classes: ClassSet) -> Truth:
    """A mask as labels.

    Raises
    ------
    RasterError: cannot be read, or has colours where the layout has numbers.
    """
    numbers = all(isinstance(key, int) for key in layout.palette)
    codes = _read_numbers(mask) if numbers else _read_colours(mask)
    values = {IGNORE: NOT_OBSERVED, OTHER: BACKGROUND} | {c.name: c.value for c in classes}
    labels = np.full(codes.shape, NOT_OBSERVED, np.uint8)
    known = np.zeros(codes.shape, np.bool_)
    for key, name in layout.palette.items():
        here = codes == (key if isinstance(key, int) else int(key[1:], 16))
        labels[here] = values.get(name, BACKGROUND)
        known |= here
    return Truth(labels, int(known.size - known.sum()))


def _read_numbers(mask: Path) -> NDArray[np.int64]:
    """(H, W): the one band of an index mask, or any of several equal ones; a colour table is only how it looks."""
    with opened(str(mask)) as source, reading(str(mask)):
        bands = source.read()
    if len(bands) in {3, 4} and not (bands[0] == bands[1:3]).all():
        raise RasterError(
            "a mask of class numbers, one band", f"a colour image, {mask}", "Check --layout, and which masks were downloaded."
        )
    numbers: NDArray[np.int64] = bands[0].astype(np.int64)
    return numbers


def _read_colours(mask: Path) -> NDArray[np.int64]:
    """(H, W): red * 65536 + green * 256 + blue; colour tables resolved, grey as three equal bands."""
    with opened(str(mask)) as source, reading(str(mask)):
        bands = source.read().astype(np.int64)
        table = source.colormap(1) if source.colorinterp[0].name == "palette" else None
    if table is not None:
        packed = np.full(max(256, max(table) + 1), -1, np.int64)
        for index, (red, green, blue, _) in table.items():
            packed[index] = red << 16 | green << 8 | blue
        looked_up: NDArray[np.int64] = packed[bands[0]]
        return looked_up
    red, green, blue = bands[:3] if len(bands) >= 3 else (bands[0],) * 3
    colours: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colours


def check_pairs(dataset: Dataset) -> None:
    """Refuse damaged files and pairs of different sizes before anything is computed.

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


def check_apart(tuning: Dataset, data: Dataset) -> None:
    """Refuse to tune on what is scored.

    Raises
    ------
    UsageError: one folder is or holds the other, or an image is in both (size and sha256).
    """
    one, other = tuning.folder.resolve(), data.folder.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        expected = "--tune-on a folder apart from --data"
        raise UsageError(expected, f"{tuning.folder} and {data.folder}", "Tune on images that are not scored.")
    sizes = {pair.image.stat().st_size for pair in data.pairs}
    # Only files of a size that both have are read.
    suspects = {_digest(pair.image): pair for pair in tuning.pairs if pair.image.stat().st_size in sizes}
    sizes = {pair.image.stat().st_size for pair in suspects.values()}
    for pair in data.pairs:
        twin = suspects.get(_digest(pair.image)) if pair.image.stat().st_size in sizes else None
        if twin is not None:
            raise UsageError("images that are not scored in --tune-on", f"{twin.image}, the same as {pair.image}", "Take it out of one.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
