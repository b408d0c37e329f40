"""Whether stitched rasters hold what the stub says of the whole scene, untiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from peers.inputs import STRIP
from peers.stub import CLASSES, TOP, mask, scores
from rasterio.windows import Window

SCORE_OFF = 0.01
"""Scores that are further from the stub's count as wrong."""


class Answer(NamedTuple):
    """What a product says of some rows."""

    wrong: NDArray[np.bool_]
    """(…, H, W): the class is not the one that scores highest; for hard masks, one such plane per class."""
    empty: NDArray[np.bool_]
    """(H, W): no value."""
    score_off: NDArray[np.bool_] | None
    """(H, W): the score of some class is wrong; None where no scores were made."""


class Truth(NamedTuple):
    """What the stub says of some rows."""

    image: NDArray[np.uint8]
    scores: NDArray[np.float32]
    labels: NDArray[np.uint8]


Reader = Callable[[Window, Truth], Answer]


def check_rasters(source: Path, open_product: Callable[[ExitStack], Reader]) -> dict[str, Any]:
    """Shares of the scene's pixels with a wrong class, without a value, and with a wrong score."""
    wrong = empty = off = 0.0
    scored, pixels = True, 0
    with ExitStack() as files:
        read = open_product(files)
        for window, truth in _strips(files.enter_context(rasterio.open(source))):
            answer = read(window, truth)
            wrong += float(answer.wrong.mean()) * truth.labels.size
            empty += int(answer.empty.sum())
            scored &= answer.score_off is not None
            off += int(answer.score_off.sum()) if answer.score_off is not None else 0
            pixels += truth.labels.size
    return {"wrong": wrong / pixels, "empty": empty / pixels, "score_off": off / pixels if scored else None}


def _strips(file: Any) -> Iterator[tuple[Window, Truth]]:
    for top in range(0, file.height, STRIP):
        window = Window(0, top, file.width, min(STRIP, file.height - top))
        image = file.read(window=window)
        every = scores(image.astype(np.float32) / TOP)
        yield window, Truth(image, every, (np.argmax(every, axis=0) + 1).astype(np.uint8))


def labels_and_scores(folder: Path, top: int, first: int, nothing: int) -> Callable[[ExitStack], Reader]:
    """`labels.tif` with classes from `first`, and `scores.tif` uint8 in which `top` means 1; `nothing` is the label of no value."""

    def opened(files: ExitStack) -> Reader:
        labels, stored = (files.enter_context(rasterio.open(folder / name)) for name in ("labels.tif", "scores.tif"))

        def read(window: Window, truth: Truth) -> Answer:
            found = labels.read(1, window=window)
            shares = stored.read(window=window).astype(np.float32) / top
            return Answer(found != truth.labels - np.uint8(1 - first), found == nothing, _off(shares, truth))

        return read

    return opened


def float_scores(path: Path) -> Callable[[ExitStack], Reader]:
    """A raster of float scores with nodata."""

    def opened(files: ExitStack) -> Reader:
        stored = files.enter_context(rasterio.open(path))

        def read(window: Window, truth: Truth) -> Answer:
            found = stored.read(window=window)
            empty = ((found == stored.nodata) | ~np.isfinite(found)).any(axis=0)
            return Answer((np.argmax(found, axis=0) + 1 != truth.labels) | empty, empty, _off(found, truth))

        return read

    return opened


def hard_labels(path: Path) -> Callable[[ExitStack], Reader]:
    """A raster of labels 1…6, 0 where nothing was written."""

    def opened(files: ExitStack) -> Reader:
        stored = files.enter_context(rasterio.open(path))

        def read(window: Window, truth: Truth) -> Answer:
            found = stored.read(1, window=window)
            return Answer(found != truth.labels, found == 0, None)

        return read

    return opened


def hard_masks(folder: Path) -> Callable[[ExitStack], Reader]:
    """A 0/1 raster per class; pixels that are wrong are counted in each, and averaged."""

    def opened(files: ExitStack) -> Reader:
        stored = [files.enter_context(rasterio.open(folder / f"{k}.tif")) for k in range(CLASSES)]

        def read(window: Window, truth: Truth) -> Answer:
            planes = [(s.read(1, window=window) > 0) != mask(truth.image, k, TOP) for k, s in enumerate(stored)]
            return Answer(np.stack(planes), np.zeros(truth.labels.shape, np.bool_), None)

        return read

    return opened


def _off(found: NDArray[np.float32], truth: Truth) -> NDArray[np.bool_]:
    off: NDArray[np.bool_] = ~(np.abs(found - truth.scores) <= SCORE_OFF).all(axis=0)
    return off
