"""Readers of the training imagery, one function per source: files in, stretched images and label codes out.

Which place serves what is fixed here (`Split`): Dubai Tile 7 and the south-eastern quarter of the Banepa mosaic are for the last
score alone, Dubai Tile 2 and the south-western quarter for calibration and for every choice, the rest trains. A reader opens no
file of another split than it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize

from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING, SEALED
from rs_pipeline.errors import TrainingError

DUBAI_COLOURS = {
    (60, 16, 152): "building",
    (132, 41, 246): "land",
    (110, 193, 228): "road",
    (254, 221, 58): "vegetation",
    (226, 169, 41): "water",
}
"""Colours as the masks have them (SOURCES.md; classes.json of the data set lists others). Any other colour is ignored."""
Split = Literal["train", "calibration", "test"]
DUBAI_TILES: dict[Split, tuple[int, ...]] = {"train": (1, 5, 8), "calibration": (2,), "test": (7,)}
BANEPA_QUARTERS: dict[Split, str] = {"train": "north", "calibration": "south-west", "test": "south-east"}
BANEPA_EAST_X, BANEPA_SOUTH_Y = 386693, 220245
"""Web-map tile numbers where the south-eastern quarter begins."""
CHESAPEAKE_CODES = {1: "water", 2: "vegetation", 3: "vegetation", 4: "land", 6: "road"}
CHESAPEAKE_IMPERVIOUS = 5
STRETCH_PERCENT = (2.0, 98.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """One image and what is known of it."""

    name: str
    image: NDArray[np.uint8]
    """(H, W, 3) stretched per band; 255 is 1.0."""
    codes: NDArray[np.uint8]
    """(H, W) label codes, see `labels`."""


def stretch(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) of any number type → uint8, each band's 2nd…98th percentile over 0…255, as a run stretches its scenes."""
    low, high = np.percentile(image[::2, ::2].reshape(-1, image.shape[-1]), STRETCH_PERCENT, axis=0)
    scaled = (image.astype(np.float32) - low.astype(np.float32)) / np.maximum(high - low, 1e-6).astype(np.float32)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), np.uint8)


def read_dubai(root: Path, split: Split) -> Iterator[Scene]:
    """MBRSC Dubai: the images of a split's tiles."""
    yield from read_dubai_tiles(root, DUBAI_TILES[split])


def read_dubai_tiles(root: Path, tiles: Sequence[int]) -> Iterator[Scene]:
    """The images of some tiles, whatever they are for otherwise."""
    for tile in tiles:
        for path in find_files(root / "dubai_mbrsc" / f"Tile {tile}" / "images", "*.jpg"):
            mask = path.parent.parent / "masks" / f"{path.stem}.png"
            yield Scene(f"dubai {tile}/{path.stem}", stretch(_read_rgb(path)), dubai_codes(_read_rgb(mask)))


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3), palettes resolved."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise TrainingError("a readable image", f"{path} ({error})", "Fetch the data set again.") from error


def dubai_codes(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) mask colours → (H, W) codes; grey, black and anything unlisted is `IGNORE`."""
    packed = colours.astype(np.int32) @ np.array([65536, 256, 1])
    codes = np.full(packed.shape, IGNORE, np.uint8)
    for (red, green, blue), name in DUBAI_COLOURS.items():
        codes[packed == red * 65536 + green * 256 + blue] = CLASSES.index(name)
    return codes


def read_banepa(root: Path, split: Split) -> Iterator[Scene]:
    """Drone chips of Banepa with building footprints, mosaicked by quarter; the two northern ones are one."""
    folder = root / "banepa_oam_buildings" / "train"
    footprints = [f["geometry"] for p in find_files(folder / "osm", "*.geojson") for f in json.loads(p.read_text())["features"]]
    chips = {(int(n[1]), int(n[2])): p for p in find_files(folder / "oam", "*.tif") if (n := re.search(r"-(\d+)-(\d+)-\d+$", p.stem))}
    wanted = {key: path for key, path in sorted(chips.items()) if _quarter(*key) == BANEPA_QUARTERS[split]}
    yield _mosaic(f"banepa {BANEPA_QUARTERS[split]}", wanted, footprints)


def _quarter(x: int, y: int) -> str:
    """Of a web-map tile."""
    if y < BANEPA_SOUTH_Y:
        return "north"
    return "south-east" if x >= BANEPA_EAST_X else "south-west"


def _mosaic(name: str, chips: dict[tuple[int, int], Path], footprints: Sequence[dict[str, object]]) -> Scene:
    """Chips by web-map tile number → one scene; a missing chip is ignored ground."""
    columns, rows = sorted({x for x, _ in chips}), sorted({y for _, y in chips})
    parts = {key: _burn(path, footprints) for key, path in chips.items()}
    side = next(iter(parts.values()))[1].shape[0]
    image = np.zeros(((rows[-1] - rows[0] + 1) * side, (columns[-1] - columns[0] + 1) * side, 3), np.uint8)
    codes = np.full(image.shape[:2], IGNORE, np.uint8)
    for (x, y), (pixels, burned) in parts.items():
        top, left = (y - rows[0]) * side, (x - columns[0]) * side
        image[top : top + side, left : left + side] = pixels
        codes[top : top + side, left : left + side] = burned
    return Scene(name, stretch(image), codes)


def _burn(path: Path, footprints: Sequence[dict[str, object]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One chip's pixels (S, S, 3) and codes (S, S); rasterio finds the georeferencing in the .aux.xml beside it."""
    with rasterio.open(path) as chip:
        pixels = np.moveaxis(chip.read([1, 2, 3]), 0, -1)
        codes = rasterize(
            ((g, CLASSES.index("building")) for g in footprints), chip.shape, fill=NOT_BUILDING, transform=chip.transform, dtype="uint8"
        )
    return pixels, codes


def read_chesapeake(root: Path) -> Iterator[Scene]:
    """NAIP patches of West Virginia with 1 m land cover; the newer and the older flight are two images of one map."""
    for path in find_files(root / "chesapeake_naip_wv" / "test-train_patches", "*.npz"):
        with np.load(path) as archive:
            patch = archive["arr_0"][0]
        codes = np.full(patch.shape[1:], IGNORE, np.uint8)
        for value, name in CHESAPEAKE_CODES.items():
            codes[patch[8] == value] = CLASSES.index(name)
        codes[patch[8] == CHESAPEAKE_IMPERVIOUS] = SEALED
        for date, first in (("new", 0), ("old", 4)):
            yield Scene(f"chesapeake {path.stem} {date}", stretch(np.moveaxis(patch[first : first + 3], 0, -1)), codes)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder, sorted; a folder that is missing or holds none is the user's to mend."""
    found = sorted(folder.glob(pattern))
    if not found:
        got = "none" if folder.is_dir() else "no such folder"
        raise TrainingError(f"files {pattern} in {folder}", got, "Point --data at the folder of all data sets, or set its weight to 0.")
    return found
