"""Labelled data sets on disk: which image has which mask, and a mask as labels."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, ClassSet
from rs_pipeline.errors import CatalogError, RasterError, UsageError
from rs_pipeline.layouts import IGNORE, OTHER, Layout
from rs_pipeline.raster import opened, reading

_UNKNOWN = -1
"""Stands in a mask for what no palette can name."""


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

    Links are followed, hidden files left out, and suffixes are the same in capitals.

    Raises
    ------
    UsageError: a split that the layout does not have.
    CatalogError: no image, or no image with a mask; two images with one mask; a path that is not UTF-8.
    """
    if split is not None and split not in layout.splits:
        known = ", ".join(layout.splits) or "none"
        raise UsageError(f"a split of this layout ({known})", f"--split {split!r}", "Leave it out for all images.")
    _check_utf8(folder)
    found = [name for name in _files_below(folder) if any(_is_at_end(name, pattern) for pattern in layout.images)]
    names = _of_split(sorted(found), folder, layout.splits[split]) if split is not None else sorted(found)
    if not names:
        where = f"{folder}{f' in split {split}' if split else ''}"
        fix = "Check --data and --layout."
        raise CatalogError(f"images {' or '.join(layout.images)}", f"none in {where}", fix)
    listing = cache(_listing)
    # Where a link leads back into the folder, one image may be met twice with one mask.
    unique: dict[tuple[Path, Path | None], tuple[str, Path | None]] = {}
    for name in names:
        mask = _mask_of(layout, folder / name, listing)
        unique.setdefault(((folder / name).resolve(), mask and mask.resolve()), (name, mask))
    pairs = [Pair(name, folder / name, mask) for name, mask in unique.values() if mask is not None]
    if not pairs:
        first = layout.masks[0].format(folder="FOLDER", parent="FOLDER/..", stem="NAME")
        raise CatalogError("masks beside the images", f"none for {len(unique)} images in {folder}", f"They are looked for as {first}.")
    _check_one_image_each(pairs)
    without = len(unique) - len(pairs)
    if limit is not None and limit < len(pairs):
        pairs = [pairs[i * len(pairs) // limit] for i in range(limit)]
    return Dataset(folder, layout, tuple(pairs), without)


def _files_below(folder: Path) -> Iterator[str]:
    """Paths below `folder` of the files at any depth.

    Nearest first, and each folder once by each of its names in each folder, however many links lead there: what else a path may hold says
    nothing about masks, and loops end. Folders that cannot be read are passed over.
    """
    seen: set[tuple[int, int, str]] = set()
    waiting = deque([PurePath()])
    while waiting:
        here = waiting.popleft()
        try:
            home = (folder / here).stat()
            entries = sorted(os.scandir(folder / here), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            key = home.st_dev, home.st_ino, entry.name
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield str(here / entry.name)
            elif key not in seen:
                seen.add(key)
                waiting.append(here / entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_at_end(name: str, pattern: str) -> bool:
    """True where the last parts of a path match the parts of a pattern."""
    parts, wanted = PurePath(_small_suffix(name)).parts, PurePath(_small_suffix(pattern)).parts
    return len(parts) >= len(wanted) and all(map(fnmatchcase, parts[-len(wanted) :], wanted))


def _small_suffix(name: str) -> str:
    """A path whose suffix has small letters: files come as .jpg and as .JPG."""
    path = PurePath(name)
    return str(path.with_suffix(path.suffix.lower()))


def _of_split(names: list[str], folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The names that a split has by their path below the folder; if there are none, by their whole path: the folder may be a split's.

    Links are not followed: a split may be told by their names.
    """
    for above in ("", folder.absolute().as_posix()):
        told = [n for n in names if any(fnmatchcase(_small_suffix(f"{above}/{n}"), _small_suffix(p)) for p in patterns)]
        if told:
            return told
    return []


def _mask_of(layout: Layout, image: Path, listing: Callable[[Path], dict[str, Path]]) -> Path | None:
    stem = image.stem.removesuffix(layout.image_suffix)
    image = image.absolute()
    places = (Path(t.format(folder=image.parent, parent=image.parent.parent, stem=stem)) for t in layout.masks)
    masks = (place if place.is_file() else listing(place.parent).get(_small_suffix(place.name)) for place in places)
    return next((mask for mask in masks if mask is not None and mask != image), None)


def _listing(folder: Path) -> dict[str, Path]:
    """Files of a folder by their names with suffixes in small letters."""
    return {_small_suffix(path.name): path for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}


def _check_one_image_each(pairs: list[Pair]) -> None:
    of_mask: dict[Path, Pair] = {}
    for pair in pairs:
        _check_utf8(pair.image)
        other = of_mask.setdefault(pair.mask, pair)
        if other is not pair:
            fix = "Take one of the two away: they would count twice."
            raise CatalogError("a mask for each image", f"{pair.mask} for both {other.name} and {pair.name}", fix)


def _check_utf8(path: Path) -> None:
    """Refuse what neither GDAL nor JSON can name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CatalogError("paths in UTF-8", f"{os.fsencode(path)!r}", "Rename it.") from error


def read_truth(mask: Path, layout: Layout, classes: ClassSet) -> Truth:
    """A mask as labels.

    Raises
    ------
    RasterError: cannot be read, or is not of the kind that the layout has: whole numbers, or colours.
    """
    codes = _read_numbers(mask) if layout.has_numbers else _read_colours(mask)
    values = {IGNORE: NOT_OBSERVED, OTHER: BACKGROUND} | {c.name: c.value for c in classes}
    labels = np.full(codes.shape, NOT_OBSERVED, np.uint8)
    known = np.zeros(codes.shape, np.bool_)
    for key, name in layout.palette.items():
        here = codes == (key if isinstance(key, int) else int(key[1:], 16))
        labels[here] = values.get(name, BACKGROUND)
        known |= here
    return Truth(labels, int(known.size - known.sum()))


def check_mask(mask: Path, layout: Layout) -> None:
    """Refuse a mask that `read_truth` would refuse; its pixels are read only where the header does not tell.

    Raises
    ------
    RasterError: as `read_truth`.
    """
    with opened(str(mask)) as source:
        fits = source.count == 1 if layout.has_numbers else source.count >= 3 or _has_table(source)
        told = fits and np.dtype(source.dtypes[0]).kind in "ui"
    if not told:
        _read_numbers(mask) if layout.has_numbers else _read_colours(mask)


def _read_numbers(mask: Path) -> NDArray[np.int64]:
    """(H, W): the one band of an index mask, or any of several equal ones; a colour table is only how it looks."""
    with opened(str(mask)) as source, reading(str(mask)):
        bands = source.read()
    if len(bands) in {3, 4} and not (bands[0] == bands[1:3]).all():
        raise RasterError(
            "a mask of class numbers, one band", f"a colour image, {mask}", "Check --layout, and which masks were downloaded."
        )
    return _whole(bands[0], mask)


def _read_colours(mask: Path) -> NDArray[np.int64]:
    """(H, W): red * 65536 + green * 256 + blue, -1 for what is none; colour tables resolved."""
    with opened(str(mask)) as source, reading(str(mask)):
        if not _has_table(source) and source.count < 3:
            came = f"{source.count} band{'s' * (source.count > 1)} without a colour table, {mask}"
            raise RasterError("a mask of colours", came, "Check --layout, and which masks were downloaded.")
        bands = _whole(source.read(), mask)
        table = source.colormap(1) if _has_table(source) else None
    if table is not None:
        packed = np.full(max(256, max(table) + 1), _UNKNOWN, np.int64)
        for index, (red, green, blue, _) in table.items():
            packed[index] = red << 16 | green << 8 | blue
        looked_up: NDArray[np.int64] = packed[bands[0]]
        return looked_up
    red, green, blue = bands[:3]
    are_colours = ((bands[:3] >= 0) & (bands[:3] <= 255)).all(axis=0)
    colours: NDArray[np.int64] = np.where(are_colours, red << 16 | green << 8 | blue, _UNKNOWN)
    return colours


def _has_table(source: Any) -> bool:
    return bool(source.colorinterp[0].name == "palette")


def _whole(bands: NDArray[Any], mask: Path) -> NDArray[np.int64]:
    """Values of a mask as whole numbers, -1 where they are not finite."""
    filled = bands if bands.dtype.kind in "ui" else np.where(np.isfinite(bands), bands, _UNKNOWN)
    numbers: NDArray[np.int64] = filled.real.astype(np.int64)
    if (numbers != filled).any():
        came = f"{filled[numbers != filled][0]} in {mask}"
        raise RasterError("a mask of whole numbers", came, "Resample masks with the nearest neighbour.")
    return numbers
