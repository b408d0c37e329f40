"""What the small CLIP knows by itself: `python -m rs_model.clip_score --data ../shared/data`.

Zero-shot: square crops that are nearly of one class, each given to the class whose text is nearest. Dense: every pixel to the class
whose text is nearest to its patch. Both on the places that calibrate; what CLIP does to a run is `bench/effects.py`'s to say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rs_model.clip import OWN, load_dense_clip
from rs_model.clip_dense import DenseClip
from rs_model.labels import CLASSES
from rs_model.places import PLACES
from rs_model.scenes import Scene
from rs_pipeline.config import load_settings
from rs_pipeline.errors import RsSegError
from rs_pipeline.metrics import Confusion, confusion

CROP_PX = 112
"""Side of a crop: 56 m at 0.5 m per pixel."""
PURE_SHARE = 0.9
"""Least share of one class in it."""
MOST_CROPS = 100
"""Of a class in a place, evenly chosen: some classes have thousands."""
TILE_PX = 512
"""Side of the windows that dense features are made for, as rs-tiny's tiles."""
UNKNOWN_TRUTH = 255


def pure_crops(scenes: Iterable[Scene]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Crops side by side that are nearly of one class: (M, S, S, 3) pixels and (M,) classes, at most 100 of each class."""
    found: dict[int, list[NDArray[np.uint8]]] = {k: [] for k in range(len(CLASSES))}
    for scene in scenes:
        for rows, cols in _windows(scene.codes.shape, CROP_PX):
            codes, counts = np.unique(scene.codes[rows, cols], return_counts=True)
            if codes[counts.argmax()] < len(CLASSES) and counts.max() >= PURE_SHARE * CROP_PX**2:
                found[int(codes[counts.argmax()])].append(scene.image[rows, cols])
    some = {k: [crops[i] for i in np.linspace(0, len(crops) - 1, min(len(crops), MOST_CROPS)).astype(int)] for k, crops in found.items()}
    pixels = [crop for crops in some.values() for crop in crops]
    empty = np.zeros((0, CROP_PX, CROP_PX, 3), np.uint8)
    return np.stack(pixels) if pixels else empty, np.repeat(list(some), [len(crops) for crops in some.values()])


def _windows(shape: tuple[int, ...], side: int) -> Iterator[tuple[slice, slice]]:
    """Whole windows side by side."""
    for top in range(0, shape[0] - side + 1, side):
        for left in range(0, shape[1] - side + 1, side):
            yield slice(top, top + side), slice(left, left + side)


@torch.no_grad()
def zero_shot(clip: DenseClip, crops: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(M, S, S, 3) → (M,) the class whose text is nearest to the whole crop's feature."""
    texts, nearest = clip.encode_texts(CLASSES), []
    for crop in crops:
        feature = clip.model.encode_image(clip.prepare(_tensor(crop)), normalize=True)
        nearest.append(int((feature @ texts.T).argmax()))
    return np.array(nearest, np.int64)


def dense_confusion(clip: DenseClip, scenes: Iterable[Scene]) -> Confusion:
    """(5, 5) pixels by true class and nearest class, over the pixels whose class is known."""
    texts, count = clip.encode_texts(CLASSES), len(CLASSES)
    total = Confusion(np.zeros((count, count), np.int64), 0)
    for scene in scenes:
        for top in range(0, scene.codes.shape[0], TILE_PX):
            for left in range(0, scene.codes.shape[1], TILE_PX):
                part = np.s_[top : top + TILE_PX, left : left + TILE_PX]
                codes = scene.codes[part]
                similarity = torch.einsum("nhwd,td->nthw", clip.features(_tensor(scene.image[part])), texts)
                nearest = F.interpolate(similarity, size=codes.shape, mode="bilinear", align_corners=False).argmax(1)[0].numpy()
                total += confusion(np.where(codes < count, codes, UNKNOWN_TRUTH), nearest, count, ignore=UNKNOWN_TRUTH)
    return total


def _tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """(H, W, 3) → (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0))[None].astype(np.float32) / 255)


def main() -> int:
    """Prints zero-shot accuracy of every calibration place, and the dense IoU of each attention where all classes are labelled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", help="a model.safetensors that `rs-seg train` wrote; the shipped one if left out")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = load_settings(flags={"refine.preset": "clip"}).refine.clip
    try:
        clip = load_dense_clip(OWN, args.weights, settings.image_px, settings.attention, torch.device("cpu"))
        for place in (place for place in PLACES if place.split == "calibration"):
            scenes = list(place.read(args.data))
            crops, truth = pure_crops(scenes)
            right = zero_shot(clip, crops) == truth
            shares = [f"{CLASSES[k]} {right[truth == k].mean():.2f} of {(truth == k).sum()}" for k in np.unique(truth)]
            print(f"{place.name}, zero-shot: " + ", ".join(shares))  # noqa: T201
            if place.classes == CLASSES:
                for attention in ("maskclip", "sclip", "clearclip"):
                    clip.attention = attention
                    iou = dense_confusion(clip, scenes).iou
                    of_class = ", ".join(f"{name} {value:.3f}" for name, value in zip(CLASSES, iou, strict=True))
                    print(f"{place.name}, {attention}: mean IoU {np.nanmean(iou):.3f}: {of_class}")  # noqa: T201
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
