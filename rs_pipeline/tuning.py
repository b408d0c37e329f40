"""Thresholds chosen on labelled images: for each class, the one of the best IoU.

A pixel belongs to the class that scores highest if it reaches that class's threshold, so each class's threshold decides over its own
pixels only: the classes are tuned apart, exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, SCORE_MAX, ClassSet
from rs_pipeline.config import RunSettings
from rs_pipeline.datasets import Dataset, Pair, Truth, read_truth
from rs_pipeline.image_runs import BlankImage, ImageRun, nothing_to_score, run_images
from rs_pipeline.mosaic import label_block
from rs_pipeline.reporting import Reporter

THRESHOLDS = tuple(percent / 100 for percent in range(20, 61, 5))
"""0.2…0.6; a class's own threshold is tried too."""
_SCORES = SCORE_MAX + 1


def tune(dataset: Dataset, settings: RunSettings, classes: ClassSet, reporter: Reporter) -> ClassSet:
    """The classes with the thresholds of the best IoU, pooled over the images; the lower of equally good ones.

    A class that the masks do not show keeps its threshold, and a note says so.

    Raises
    ------
    RsSegError: as `evaluate` does.
    """

    def count(pair: Pair, run: ImageRun | BlankImage) -> NDArray[np.int64]:
        return count_scores(read_truth(pair.mask, dataset.layout, classes), run.scores())

    counts = np.sum(run_images(dataset, settings, classes, reporter, count), axis=0)
    if not counts.any():
        raise nothing_to_score(dataset)
    tuned = []
    for wanted, own in zip(classes, counts, strict=True):
        if not own[1:].any():
            reporter.note(f"{wanted.name} is in no mask of {dataset.folder}: its threshold stays {wanted.threshold:g}")
            tuned.append(wanted)
        else:
            tuned.append(replace(wanted, threshold=best_threshold(own, sorted({*THRESHOLDS, wanted.threshold}))))
    return ClassSet(tuple(tuned))


def count_scores(truth: Truth, scores: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(K, 3, 255): pixels with a truth by class and score, where the class wins and is wrong, wins and is right, and does not win and is
    the truth.

    Parameters
    ----------
    scores: (K, H, W), 0…254 means 0…1, 255 not observed.
    """
    winner = label_block(scores, [0.0] * len(scores))
    known = (truth.labels != NOT_OBSERVED) & (winner != NOT_OBSERVED)
    counts = np.zeros((len(scores), 3, _SCORES), np.int64)
    for k, band in enumerate(scores, BACKGROUND + 1):
        right, wins = known & (truth.labels == k), known & (winner == k)
        for i, where in enumerate((wins & ~right, wins & right, right & ~wins)):
            counts[k - 1, i] = np.bincount(band[where], minlength=_SCORES)
    return counts


def best_threshold(counts: NDArray[np.int64], candidates: list[float]) -> float:
    """The threshold of the best IoU of a class, the first of equally good ones; `counts` (3, 255) as `count_scores` has them."""
    wrong, right, missed = counts
    reached = np.array([int(np.ceil(threshold * SCORE_MAX)) for threshold in candidates])
    false, hits = (pixels.sum() - np.concatenate([[0], pixels.cumsum()])[reached] for pixels in (wrong, right))
    iou = hits / np.maximum(right.sum() + missed.sum() + false, 1)
    return candidates[int(np.argmax(iou))]
