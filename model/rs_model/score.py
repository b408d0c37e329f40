"""Every figure of the model card, from one command: `python -m rs_model.score --data ../shared/data`.

    python -m rs_model.score --data DIR [--model FOLDER] [--split test,calibration,train | --generated 101 112]
                             [--set scoring.tta.flips=true] [--threads N] [--card] [--json] [--pictures OUT [--maps-only]]

IoU and expected calibration error per place and class. Two rules give labels. *Likeliest*: the likeliest of the five classes, no
threshold, one confusion matrix over the labelled pixels of a place. *As a run*: the same, where it reaches its class's threshold
(`configs/classes/default.yaml`; `--set vocabulary=mine.yaml` for others), else background; on places whose labels know one class,
that class alone against its threshold.
Memory is that of the largest image, 20 bytes a pixel and the model's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.labels import CLASSES, MEANING, UNKNOWN, YES
from rs_model.places import PLACES, Place, generated_place
from rs_model.provider import tiny_provider
from rs_model.reliability import Tally, reliability
from rs_model.scenes import Scene, Split
from rs_pipeline.classes import SCORE_MAX, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import RsSegError
from rs_pipeline.metrics import Confusion, confusion
from rs_pipeline.mosaic import label_block
from rs_pipeline.options import ModelOptions
from rs_pipeline.segmenter import Segmenter
from rs_pipeline.vocabulary import load_vocabulary

Scores = NDArray[np.float32]
"""(5, H, W) probabilities of an image."""
NO_TRUTH = 255


def all_classes(*sets: str) -> ClassSet:
    """The five training classes as a run knows them: prompts, colours, thresholds; `sets` as `rs-seg run --set` takes them.

    Raises
    ------
    ConfigError: an unknown key or a bad value, or a vocabulary that cannot be read.
    """
    settings = load_settings(sets=sets)
    classes, threshold = load_vocabulary(settings.vocabulary).class_set(CLASSES), settings.scoring.threshold
    return classes if threshold is None else classes.at_threshold(threshold)


def options_of(*sets: str) -> ModelOptions:
    """The model as it is, on the CPU, without refinements; `sets` as `rs-seg run --set` takes them.

    Raises
    ------
    ConfigError: an unknown key or a bad value.
    """
    return load_settings(sets=["device=cpu", "refine.preset=none", *sets]).options


def predict(segmenter: Segmenter, image: NDArray[np.uint8], classes: ClassSet, tile_px: int) -> Scores:
    """(H, W, 3) → (K, H, W): windows that overlap by a quarter, blended by a ramp that falls to each window's edge."""
    height, width = image.shape[:2]
    side = (min(tile_px, height), min(tile_px, width))
    ramp = np.minimum.outer(*(np.minimum(np.arange(s) + 1, np.arange(s)[::-1] + 1) for s in side)).astype(np.float32)
    total, weight = np.zeros((len(classes), height, width), np.float32), np.zeros((height, width), np.float32)
    for top in starts(height, side[0]):
        for left in starts(width, side[1]):
            inside = np.s_[top : top + side[0], left : left + side[1]]
            pixels = np.moveaxis(image[inside], -1, 0)[None].astype(np.float32) / np.float32(255)
            total[:, *inside] += segmenter.segment(pixels, np.ones((1, *side), bool), classes)[0] * ramp
            weight[inside] += ramp
    return total / weight


def starts(length: int, side: int) -> list[int]:
    """Window starts: a quarter of a window overlaps the next, the last one is flush with the end."""
    return sorted({*range(0, length - side, max(side * 3 // 4, 1)), length - side})


def _no_pixels() -> Confusion:
    return Confusion(np.zeros((len(CLASSES) + 1,) * 2, np.int64), 0)


@dataclass(slots=True)
class PlaceScore:
    """What the images of one place add up to."""

    place: Place
    images: int = 0
    likeliest: Confusion = field(default_factory=_no_pixels)
    """By true and likeliest class, 0 for none; only where the labels know every class."""
    as_run: Confusion = field(default_factory=_no_pixels)
    """By true class and the label of a run."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Of each class that the labels know: its score against all else."""

    def add(self, scene: Scene, scores: Scores, classes: ClassSet) -> float:
        """Counts an image; its own mean IoU as a run labels it, over the classes that it or its truth holds."""
        self.images += 1
        for name in self.place.classes:
            k = CLASSES.index(name)
            truth = MEANING[scene.codes, k]
            known = truth != UNKNOWN
            self.tallies[name] = self.tallies.get(name, Tally.empty()) + Tally.of(scores[k][known], truth[known] == YES)
        truth, count = truth_of(scene, self.place), len(CLASSES) + 1
        labels = labels_of(scores, classes, self.place)
        own = confusion(truth, labels, count, ignore=NO_TRUTH)
        self.as_run += own
        if len(self.place.classes) > 1:
            self.likeliest += confusion(truth, scores.argmax(0) + 1, count, ignore=NO_TRUTH)
        return own.mean_iou(first=1)

    def iou(self, name: str, *, as_run: bool) -> float:
        """Of a class, by either rule; NaN where the labels do not know it, or the rule needs all."""
        if name not in self.place.classes:
            return float("nan")
        counts = self.as_run if as_run else self.likeliest
        return float(counts.iou[CLASSES.index(name) + 1])

    def calibration_error(self, name: str, *, adaptive: bool = False) -> float:
        """Expected calibration error of a class against all else; NaN where the labels do not know it."""
        return reliability(self.tallies[name], adaptive=adaptive).error if name in self.tallies else float("nan")


def truth_of(scene: Scene, place: Place) -> NDArray[np.uint8]:
    """(H, W) 1…5 by class, 0 for what is none of those the place knows, 255 where nothing is known."""
    if len(place.classes) > 1:
        return np.where(scene.codes < len(CLASSES), scene.codes + 1, NO_TRUTH).astype(np.uint8)
    k = CLASSES.index(place.classes[0])
    truth = MEANING[scene.codes, k]
    return np.where(truth == UNKNOWN, NO_TRUTH, np.where(truth == YES, k + 1, 0)).astype(np.uint8)


def labels_of(scores: Scores, classes: ClassSet, place: Place) -> NDArray[np.uint8]:
    """(H, W) 0…5 as a run that asks for the place's classes labels it."""
    asked = [k for k, c in enumerate(classes) if c.name in place.classes]
    labels = label_block(np.rint(scores[asked] * SCORE_MAX).astype(np.uint8), [classes.classes[k].threshold for k in asked])
    return np.asarray([0, *(k + 1 for k in asked)], np.uint8)[labels]


Look = Callable[[Place, Scene, Scores, float], None]
"""Is shown every image with its scores and its mean IoU."""


def score_places(
    segmenter: Segmenter, tile_px: int, data: Path, places: Sequence[Place], look: Look | None = None, classes: ClassSet | None = None
) -> list[PlaceScore]:
    """One model on all images of some places.

    Parameters
    ----------
    classes: the five of them, with thresholds of one's own; None: as they ship.

    Raises
    ------
    TrainingError: a place's files are missing.
    """
    classes, found = classes or all_classes(), []
    for place in places:
        score = PlaceScore(place)
        for scene in place.read(data):
            scores = predict(segmenter, scene.image, classes, tile_px)
            iou = score.add(scene, scores, classes)
            if look is not None:
                look(place, scene, scores, iou)
        found.append(score)
    return found


def places_of(splits: Sequence[Split]) -> list[Place]:
    """The places of some splits, in order."""
    return [place for place in PLACES if place.split in splits]


def main() -> int:
    """Prints the figures as text, as the card's Markdown or as JSON, and draws pictures if asked."""
    from rs_model.score_tables import as_card, as_json, as_text

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", type=Path, help="weights folder; the shipped one if left out")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", default="test,calibration,train", help="which places: test, calibration, train")
    which.add_argument("--generated", type=int, nargs=2, metavar="SEED", help="generated scenes of these seeds alone, from one to another")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="a setting, as a run takes them")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--card", action="store_true", help="Markdown, as the model card has it")
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.add_argument("--pictures", type=Path, metavar="OUT", help="folder for pictures of test images and of all imagery")
    parser.add_argument("--maps-only", action="store_true", help="pictures of predictions and mistakes alone, without imagery")
    args = parser.parse_args()
    try:
        provider = tiny_provider(args.model)
        info, segmenter, album = provider.info(), provider.load(options_of(*args.sets), args.threads), None
        classes = all_classes(*args.sets)
        if args.pictures is not None:
            from rs_model.pictures import Album

            album = Album(args.pictures, imagery=not args.maps_only, classes=classes)
        look = None if album is None else album.look
        places = places_of(args.split.split(",")) if args.generated is None else [generated_place(*args.generated)]
        scores = score_places(segmenter, info.tile_px, args.data, places, look, classes)
        print(json.dumps(as_json(scores, info)) if args.json else as_card(scores) if args.card else as_text(scores))  # noqa: T201
        if album is not None:
            album.save()
        if args.pictures is not None and not args.maps_only:
            from rs_model.imagery import draw_imagery

            for line in draw_imagery(args.data, args.pictures, args.model, args.sets):
                print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
