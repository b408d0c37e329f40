"""Where to cut each class's probability: IoU at several thresholds, on training places and generated scenes that no score is reported on.

`python -m rs_model.thresholds --data ../shared/data` prints the table that the thresholds of `configs/classes/default.yaml` come from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.labels import CLASSES, IGNORE
from rs_model.provider import tiny_provider
from rs_model.scenes import Scene, read_dubai, stretch
from rs_model.score import PLAIN, all_classes, predict
from rs_pipeline.errors import RsSegError
from rs_pipeline.segmenter import Segmenter

THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
SEEDS = range(2001, 2005)
"""Generated scenes that neither training nor any reported score uses."""
EVERY_THIRD = 3
"""Of the training images: enough to choose by, and quick."""


def generated_scenes() -> Iterator[Scene]:
    """Scenes of 1024² pixels of 0.5 m, one per seed."""
    from rs_pipeline.demo import DEMO_CLASSES, render_scene

    codes = np.array([IGNORE, *(CLASSES.index(name) for name in DEMO_CLASSES)], np.uint8)
    for seed in SEEDS:
        scene = render_scene(seed, 1024, 1024)
        yield Scene(f"demo {seed}", stretch(np.moveaxis(scene.image, 0, -1)), codes[scene.labels])


def iou_by_threshold(segmenter: Segmenter, scenes: Iterable[Scene], tile_px: int) -> NDArray[np.float64]:
    """(5 classes, thresholds) IoU of each class against all else, pooled over the known pixels of the scenes."""
    both, either = np.zeros((2, len(CLASSES), len(THRESHOLDS)))
    for scene in scenes:
        scores = predict(segmenter, scene.image, all_classes(), tile_px)
        known = scene.codes < len(CLASSES)
        for k, t in np.ndindex(both.shape):
            found, true = (scores[k] >= THRESHOLDS[t]) & known, scene.codes == k
            both[k, t] += (found & true).sum()
            either[k, t] += (found | true).sum()
    return np.asarray(both / np.maximum(either, 1), np.float64)


def main() -> int:
    """Prints IoU per class and threshold for both sets of scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    args = parser.parse_args()
    try:
        provider = tiny_provider(None)
        tile_px, segmenter = provider.info().tile_px, provider.load(PLAIN, None)
        training = [scene for i, scene in enumerate(read_dubai(args.data, held_out=False)) if i % EVERY_THIRD == 0]
        for title, scenes in (("dubai, training tiles", training), ("generated", list(generated_scenes()))):
            print(f"{title:<24}" + "".join(f"{t:>7}" for t in THRESHOLDS))  # noqa: T201
            for name, row in zip(CLASSES, iou_by_threshold(segmenter, scenes, tile_px), strict=True):
                print(f"{name:<24}" + "".join(f"{v:7.3f}" for v in row))  # noqa: T201
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
