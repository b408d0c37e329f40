"""Buildings one by one: from the label codes of training crops to the masks and boxes that a model's queries are taught.

Labels are rasters, so a building is what hangs together by pixels' sides. Where that is not to be trusted the pixels are
unknown, never background: what is too small to have a mask, what the crop cut down to a sliver, and blocks of houses that a
coarse label drew as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from rs_model.labels import CLASSES, MEANING, UNKNOWN, YES

BUILDING = CLASSES.index("building")
STRIDE = 4
"""Pixels of a crop per cell of a mask, each way."""
SMALLEST_PX = 32
"""Least pixels of an instance: two cells, 8 m² at 0.5 m."""
SMALLEST_CUT_PX = 96
"""Least pixels of one that touches the border of its crop: what is left of it has to look like a building."""
COMPACT_FROM_PX = 3_000
LEAST_SOLIDITY = 0.85
"""Share of its convex hull that an instance of `COMPACT_FROM_PX` or more must fill. Rows of villas under one label of Dubai's fill
0.43…0.84, single buildings of that size over 0.85."""
LARGEST_PX = 10_000
"""Larger ones, 2500 m² at 0.5 m, are taken for blocks whatever their shape: halls are lost with them, and not taught wrongly."""


@dataclass(frozen=True, slots=True)
class InstanceTargets:
    """The instances of one crop of S² pixels. A crop of which nothing is known has none, and `unknown` everywhere."""

    masks: NDArray[np.bool_]
    """(n, S/4, S/4): cells of which an instance has half or more; never empty, and they may share such a cell."""
    boxes: NDArray[np.float32]
    """(n, 4) centre x, centre y, width, height as shares of the crop's side, of the pixels rather than the cells."""
    unknown: NDArray[np.bool_]
    """(S/4, S/4): cells of no instance with a pixel that may be of one."""


def instance_targets(codes: NDArray[np.uint8], exact: Sequence[bool]) -> list[InstanceTargets]:
    """The buildings of every crop.

    Parameters
    ----------
    codes: (N, S, S) label codes, see `labels`; S a multiple of 4.
    exact: per crop, does every building hang together by itself in it. Then none is taken for a block, however large or ragged.
        Footprints drawn one by one are not exact if they touch, or come to touch when the crop is resampled.
    """
    return [_of_crop(crop, one_by_one) for crop, one_by_one in zip(codes, exact, strict=True)]


def _of_crop(codes: NDArray[np.uint8], exact: bool) -> InstanceTargets:
    meaning = MEANING[:, BUILDING][codes]
    labels, count = ndimage.label(meaning == YES)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    windows = ndimage.find_objects(labels)
    kept = np.array([i for i in range(count) if _is_one(labels, i + 1, windows[i], int(areas[i]), exact)], np.int64)
    masks = _cells(labels, kept + 1)
    seen = masks.any((1, 2))
    kept, masks = kept[seen], masks[seen]
    left_out = np.ones(count + 1, np.bool_)
    left_out[[0, *(kept + 1)]] = False
    doubtful = (meaning == UNKNOWN) | left_out[labels]
    unknown = np.asarray(_blocks(doubtful).any((1, 3)) & ~masks.any(0), np.bool_)
    boxes = np.array([_box(windows[i], codes.shape) for i in kept], np.float32).reshape(-1, 4)
    return InstanceTargets(masks, boxes, unknown)


def _is_one(labels: NDArray[np.int32], label: int, window: tuple[slice, slice], area: int, exact: bool) -> bool:
    """Is a component one building of which enough is seen."""
    cut = any(side.start == 0 or side.stop == length for side, length in zip(window, labels.shape, strict=True))
    if area < (SMALLEST_CUT_PX if cut else SMALLEST_PX):
        return False
    if exact or area < COMPACT_FROM_PX:
        return True
    return area <= LARGEST_PX and area >= LEAST_SOLIDITY * _hull_px(labels[window] == label)


def _hull_px(mask: NDArray[np.bool_]) -> float:
    """Pixels of the convex hull of a component that reaches every row of its window."""
    rows = np.arange(len(mask))
    left, right = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    corners = [np.stack([y, x], 1) for x in (left, right) for y in (rows, rows + 1)]
    return float(ConvexHull(np.concatenate(corners)).volume)


def _cells(labels: NDArray[np.int32], chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(S, S) component labels → (n, S/4, S/4): does the i-th chosen component have half of the cell or more."""
    height, width = (length // STRIDE for length in labels.shape)
    number = np.full(labels.max() + 1, -1)
    number[chosen] = np.arange(len(chosen))
    numbered = number[labels]
    rows, cols = np.nonzero(numbered >= 0)
    cell = (numbered[rows, cols] * height + rows // STRIDE) * width + cols // STRIDE
    pixels = np.bincount(cell, minlength=len(chosen) * height * width).reshape(-1, height, width)
    return np.asarray(2 * pixels >= STRIDE**2, np.bool_)


def _blocks(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(S, S) → (S/4, 4, S/4, 4), a view."""
    height, width = pixels.shape
    return pixels.reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE)


def _box(window: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    (y, x), (height, width) = window, shape
    return (x.start + x.stop) / 2 / width, (y.start + y.stop) / 2 / height, (x.stop - x.start) / width, (y.stop - y.start) / height
