"""Scores on the places that training never sees: `python -m rs_model.score --data ../shared/data`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.labels import CLASSES, NOT_BUILDING
from rs_model.provider import tiny_provider
from rs_model.scenes import Scene, read_banepa, read_dubai
from rs_model.words import SYNONYMS
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import RsSegError
from rs_pipeline.metrics import Confusion, confusion
from rs_pipeline.segmenter import Segmenter

BANEPA_ZOOM = 0.26
"""0.13 m drone pixels to the model's 0.5 m."""
BUILDING_THRESHOLD = 0.5
BUILDING = CLASSES.index("building")
UNKNOWN_TRUTH = 255
PLAIN = load_settings(sets=["device=cpu", "refine.preset=none"]).options
"""The model as it is."""


def all_classes() -> ClassSet:
    """The five training classes, each by its first word."""
    return ClassSet(tuple(Class(i + 1, name, SYNONYMS[name][:1], (0, 0, 0), 0.5) for i, name in enumerate(CLASSES)))


def predict(segmenter: Segmenter, image: NDArray[np.uint8], classes: ClassSet, tile_px: int) -> NDArray[np.float32]:
    """(H, W, 3) → (K, H, W): windows that overlap by a quarter, blended by a ramp that falls to each window's edge."""
    height, width = image.shape[:2]
    side = (min(tile_px, height), min(tile_px, width))
    ramp = np.minimum.outer(*(np.minimum(np.arange(s) + 1, np.arange(s)[::-1] + 1) for s in side)).astype(np.float32)
    total, weight = np.zeros((len(classes), height, width), np.float32), np.zeros((height, width), np.float32)
    for top in _starts(height, side[0]):
        for left in _starts(width, side[1]):
            inside = np.s_[top : top + side[0], left : left + side[1]]
            pixels = np.moveaxis(image[inside], -1, 0)[None].astype(np.float32) / np.float32(255)
            total[:, *inside] += segmenter.segment(pixels, np.ones((1, *side), bool), classes)[0] * ramp
            weight[inside] += ramp
    return total / weight


def _starts(length: int, side: int) -> list[int]:
    """Window starts: a quarter of a window overlaps the next, the last one is flush with the end."""
    return sorted({*range(0, length - side, max(side * 3 // 4, 1)), length - side})


def confusion_of(segmenter: Segmenter, scenes: Iterable[Scene], tile_px: int) -> Confusion:
    """(5, 5) pixels by true class (row) and likeliest class (column), over the pixels whose class is known."""
    count = len(CLASSES)
    total = Confusion(np.zeros((count, count), np.int64), 0)
    for scene in scenes:
        likeliest = predict(segmenter, scene.image, all_classes(), tile_px).argmax(0)
        total += confusion(np.where(scene.codes < count, scene.codes, UNKNOWN_TRUTH), likeliest, count, ignore=UNKNOWN_TRUTH)
    return total


def building_iou(segmenter: Segmenter, scenes: Iterable[Scene], tile_px: int) -> float:
    """IoU of buildings where footprints are all that is known, at a fixed threshold, on the scene brought to 0.5 m."""
    from PIL import Image

    hits = either = 0
    for scene in scenes:
        size = (round(scene.codes.shape[1] * BANEPA_ZOOM), round(scene.codes.shape[0] * BANEPA_ZOOM))
        image = np.asarray(Image.fromarray(scene.image).resize(size, Image.Resampling.BILINEAR))
        codes = np.asarray(Image.fromarray(scene.codes).resize(size, Image.Resampling.NEAREST))
        found = predict(segmenter, image, all_classes(), tile_px)[BUILDING] >= BUILDING_THRESHOLD
        true, known = codes == BUILDING, (codes == BUILDING) | (codes == NOT_BUILDING)
        hits += int((found & true & known).sum())
        either += int(((found | true) & known).sum())
    return hits / max(either, 1)


def main() -> int:
    """Prints IoU per class and their mean on Dubai Tile 7, and the building IoU on the held-out quarter of Banepa."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", type=Path, help="weights folder; the shipped one if left out")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args()
    try:
        provider = tiny_provider(args.model)
        tile_px, segmenter = provider.info().tile_px, provider.load(PLAIN, args.threads)
        scores = confusion_of(segmenter, read_dubai(args.data, held_out=True), tile_px).iou
        for name, score in zip(CLASSES, scores, strict=True):
            print(f"dubai tile 7  {name:<11} {score:.3f}")  # noqa: T201
        print(f"dubai tile 7  mean        {scores.mean():.3f}")  # noqa: T201
        print(f"banepa quarter building   {building_iou(segmenter, read_banepa(args.data, held_out=True), tile_px):.3f}")  # noqa: T201
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
