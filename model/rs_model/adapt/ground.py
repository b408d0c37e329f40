"""The places of ablations (`rs_pipeline.ablation.ProvingGround`): tiles of Dubai by number, others by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.labels import CLASSES, IGNORE
from rs_model.places import PLACES, Place
from rs_model.scenes import DUBAI_TILES, Scene, Split, read_dubai_tiles
from rs_model.score import NO_TRUTH, Scores, all_classes, labels_of, predict, truth_of
from rs_pipeline.ablation import Judged
from rs_pipeline.adaptation import Box
from rs_pipeline.errors import ConfigError
from rs_pipeline.metrics import confusion
from rs_pipeline.segmenter import Segmenter

_NAMED = ("Banepa", "generated")
"""What the names of places begin with that go by a name: `banepa/south-east`, `generated/test`."""
_APART = 10**6
"""Between the left edges of images, pixels."""
CHIP_PX = 133
"""Side of a part of Banepa that counts as an image of its own, as its chips are one: 512 drone pixels at 0.5 m."""
GENERATED_PART_PX = 512
"""Side of a part of a generated scene that counts as an image of its own, a quarter: three scenes would be too few to draw from."""


class ScenesAsTiles:
    """Windows of images, edge to edge, in the order of the images; see `rs_pipeline.adaptation.UnlabelledTiles`.

    What an image has beyond its last whole window is left out; an image smaller than a window is one tile, blank beside it.
    """

    def __init__(self, scenes: Sequence[Scene], tile_px: int) -> None:
        cut = [(k, window) for k, scene in enumerate(scenes) for window in _windows(scene.image.shape, tile_px)]
        self._tiles = [scenes[k].image[window] for k, window in cut]
        self._corners = [(k * _APART + window[1].start, window[0].start) for k, window in cut]
        self._tile_px = tile_px
        digest = hashlib.sha256()
        for tile in self._tiles:
            digest.update(f"{tile.shape}".encode())
            digest.update(np.ascontiguousarray(tile).tobytes())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(3, S, S) in [0, 1] and (S, S)."""
        pixels = self._tiles[index]
        image, valid = np.zeros((3, self._tile_px, self._tile_px), np.float32), np.zeros((self._tile_px,) * 2, np.bool_)
        image[:, : pixels.shape[0], : pixels.shape[1]] = np.moveaxis(pixels, -1, 0).astype(np.float32) / np.float32(255)
        valid[: pixels.shape[0], : pixels.shape[1]] = True
        return image, valid

    def footprint(self, index: int) -> Box:
        """In pixels; images lie side by side, far apart."""
        left, top = self._corners[index]
        return float(left), float(top), float(left + self._tile_px), float(top + self._tile_px)


def _windows(shape: Sequence[int], side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, max(shape[0] - side, 0) + 1, side):
        for left in range(0, max(shape[1] - side, 0) + 1, side):
            yield np.s_[top : top + side, left : left + side]


class Ground:
    """Data sets below a folder."""

    classes = CLASSES

    def __init__(self, data: Path) -> None:
        self._data = data

    def tiles(self, places: Sequence[str], tile_px: int) -> ScenesAsTiles:
        """See `rs_pipeline.ablation.ProvingGround.tiles`."""
        return ScenesAsTiles([scene for place in places for scene in self._read(place)], tile_px)

    def digest(self, place: str) -> str:
        """See `rs_pipeline.ablation.ProvingGround.digest`."""
        digest = hashlib.sha256()
        for scene in self._read(place):
            digest.update(f"{scene.name} {scene.image.shape}".encode())
            digest.update(scene.image.tobytes())
            digest.update(scene.codes.tobytes())
        return digest.hexdigest()

    def judge(self, segmenter: Segmenter, place: str, tile_px: int) -> Judged:
        """All five classes are asked for. Dubai and generated scenes: the likeliest of them, no threshold, an image after another, or a
        quarter of a scene. Banepa: buildings, at their threshold, a chip after another.
        """
        asked, known, images = all_classes(), _place_of(place), []
        for scene in self._read(place):
            scores = predict(segmenter, scene.image, asked, tile_px)
            truth, labels = truth_of(scene, known), _labels(scores, known)
            for part in _parts(scene, known):
                if len(known.classes) == 1:
                    truth_part, label_part = (_as_one(values[part], known) for values in (truth, labels))
                    images.append(confusion(truth_part, label_part, 2, ignore=NO_TRUTH))
                else:
                    images.append(confusion(truth[part], labels[part], len(CLASSES) + 1, ignore=NO_TRUTH))
        return Judged(known.classes, tuple(images))

    def _read(self, place: str) -> Iterator[Scene]:
        kind, _, name = place.partition("/")
        if kind == "dubai" and name.isdigit() and int(name) in _dubai_tiles():
            yield from read_dubai_tiles(self._data, [int(name)])
        else:
            yield from _place_of(place).read(self._data)


def ground(data: Path) -> Ground:
    """Entry point."""
    return Ground(data)


def _dubai_tiles() -> dict[int, Split]:
    return {tile: split for split, tiles in DUBAI_TILES.items() for tile in tiles}


def _place_of(place: str) -> Place:
    """What its labels know, and how it is read.

    Raises
    ------
    ConfigError: no such place.
    """
    kind, _, name = place.partition("/")
    if kind == "dubai" and name.isdigit() and int(name) in _dubai_tiles():
        return next(each for each in PLACES if each.classes == CLASSES)
    held = {each.name.lower().replace(", ", " ").replace(" ", "/", 1): each for each in PLACES if each.name.startswith(_NAMED)}
    if place in held:
        return held[place]
    known = ", ".join([*(f"dubai/{tile}" for tile in sorted(_dubai_tiles())), *sorted(held)])
    raise ConfigError(f"a place ({known})", repr(place), "Choose one in the grid.")


def _labels(scores: Scores, place: Place) -> NDArray[np.uint8]:
    if len(place.classes) > 1:
        return np.asarray(scores.argmax(0) + 1, np.uint8)
    return labels_of(scores, all_classes(), place)


def _as_one(values: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """Values of a place of one class: 1 for it."""
    own = CLASSES.index(place.classes[0]) + 1
    return np.where(values == own, 1, np.where(values == NO_TRUTH, NO_TRUTH, 0)).astype(np.uint8)


def _parts(scene: Scene, place: Place) -> Iterator[tuple[slice, slice]]:
    """What counts as an image: all of it, or its chips that have a truth."""
    height, width = scene.codes.shape
    side = CHIP_PX if len(place.classes) == 1 else GENERATED_PART_PX if place.name.startswith("generated") else max(height, width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = np.s_[top : top + side, left : left + side]
            if (scene.codes[part] != IGNORE).any():
                yield part
