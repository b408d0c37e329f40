"""How well labels agree with a truth. Pure numpy; formulas as in Everingham et al., "The PASCAL VOC challenge", IJCV 2015.

With C the confusion matrix, rows truth and columns prediction, and for class k TP = C[k, k], FN = row sum - TP and
FP = column sum - TP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of pixels by truth and prediction. Add two to pool images."""

    counts: NDArray[np.int64]
    """(n, n): row truth, column prediction."""
    not_observed: int
    """Pixels that have a truth but were not observed; they are in no other figure."""

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts, self.not_observed + other.not_observed)

    @property
    def not_observed_share(self) -> float:
        """Share, 0…1, of the pixels with a truth that were not observed; NaN without pixels."""
        return float(_ratio(self.not_observed, self.counts.sum() + self.not_observed))

    @property
    def pixel_accuracy(self) -> float:
        """Σ TP / Σ C; NaN without pixels."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    @property
    def iou(self) -> NDArray[np.float64]:
        """(n,) TP / (TP + FP + FN); NaN for a class in neither truth nor prediction."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(n,) TP / (TP + FP); NaN for a class never predicted."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """(n,) TP / (TP + FN); NaN for a class not in the truth."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=1))

    @property
    def f1(self) -> NDArray[np.float64]:
        """(n,) 2 TP / (2 TP + FP + FN); NaN for a class in neither truth nor prediction."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(axis=0) + self.counts.sum(axis=1))

    def mean_iou(self, first: int = 0) -> float:
        """Mean IoU of classes `first`… that truth or prediction holds (1 leaves the background out); NaN if none does."""
        iou = self.iou[first:]
        present = ~np.isnan(iou)
        return float(iou[present].mean()) if present.any() else float("nan")


def confusion(truth: NDArray[np.integer], predicted: NDArray[np.integer], n: int, ignore: int = NOT_OBSERVED) -> Confusion:
    """Count the pixels of two label arrays of one shape.

    Parameters
    ----------
    truth: labels 0…n-1 (0 background); pixels equal to `ignore` have no truth and count nowhere.
    predicted: labels 0…n-1, or 255 where not observed.
    n: number of labels, the background included, at most 255.
    ignore: the label of the truth that says nothing.

    Raises
    ------
    ValueError: shapes differ, or a label is not one of those above.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth and prediction have one shape, got {truth.shape} and {predicted.shape}")
    known = truth != ignore
    observed = predicted != NOT_OBSERVED
    both = known & observed
    t, p = truth[both].astype(np.int64), predicted[both].astype(np.int64)
    for name, labels in (("truth", t), ("prediction", p)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n:
            raise ValueError(f"labels of the {name} are 0…{n - 1}, got {labels.min()}…{labels.max()}")
    counts = np.bincount(t * n + p, minlength=n * n).reshape(n, n)
    return Confusion(counts.astype(np.int64), int((known & ~observed).sum()))


def _ratio(part: NDArray[np.integer] | int, whole: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """Quotient, NaN where `whole` is 0."""
    quotient: NDArray[np.float64] = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=quotient, where=np.asarray(whole) > 0)
    return quotient
