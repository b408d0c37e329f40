"""How well labels agree with a truth. Pure; formulas as in Everingham et al., "The PASCAL VOC challenge", IJCV 2015.

With C the confusion matrix, rows truth and columns prediction, and for class k TP = C[k, k], FN = row sum - TP and
FP = column sum - TP. Boundaries as in Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013;
intervals by the percentile bootstrap, Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rs_pipeline.classes import NOT_OBSERVED

BOUNDARY_TOLERANCE = 0.0075
"""Share of an image's diagonal that a boundary may be off (Csurka et al.; DAVIS takes 0.008)."""
RESAMPLES = 2000


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


@dataclass(frozen=True, slots=True)
class Boundary:
    """Counts of boundary pixels by class, each array (n,). Add two to pool images."""

    predicted: NDArray[np.int64]
    """Boundary pixels of the prediction."""
    predicted_near: NDArray[np.int64]
    """Those within the tolerance of the truth's boundary of the same class."""
    true: NDArray[np.int64]
    """Boundary pixels of the truth."""
    true_near: NDArray[np.int64]
    """Those within the tolerance of the prediction's boundary of the same class."""

    def __add__(self, other: Boundary) -> Boundary:
        return Boundary(
            self.predicted + other.predicted,
            self.predicted_near + other.predicted_near,
            self.true + other.true,
            self.true_near + other.true_near,
        )

    @property
    def f1(self) -> NDArray[np.float64]:
        """(n,) 2 P R / (P + R), P the near share of the prediction's boundary and R that of the truth's.

        NaN for a class without a boundary in either; 0 where only one has it, or none is near.
        """
        precision, recall = _ratio(self.predicted_near, self.predicted), _ratio(self.true_near, self.true)
        total = np.nan_to_num(precision) + np.nan_to_num(recall)
        score: NDArray[np.float64] = np.where(self.predicted + self.true > 0, 0.0, np.nan)
        np.divide(2 * precision * recall, total, out=score, where=(total > 0) & (self.predicted > 0) & (self.true > 0))
        return score


def boundary(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], n: int, tolerance_px: float | None = None, ignore: int = NOT_OBSERVED
) -> Boundary:
    """Count the boundary pixels of two label arrays of one shape (H, W), class by class.

    A pixel is on the boundary of its class where one of its four neighbours is of another class. The image's edge is no boundary,
    and neither is the edge of what has no truth or was not observed.

    Parameters
    ----------
    truth, predicted, n, ignore: as for `confusion`.
    tolerance_px: greatest distance, pixels, between the centres of two boundary pixels that count as one boundary; default 0.75 % of
        the diagonal.
    """
    tolerance = BOUNDARY_TOLERANCE * float(np.hypot(*truth.shape)) if tolerance_px is None else tolerance_px
    known = (truth != ignore) & (predicted != NOT_OBSERVED)
    true, found = _edges(truth, known), _edges(predicted, known)
    counts = np.zeros((4, n), np.int64)
    for k in range(n):
        ours, real = np.argwhere(found & (predicted == k)), np.argwhere(true & (truth == k))
        counts[:, k] = len(ours), _near(ours, real, tolerance), len(real), _near(real, ours, tolerance)
    return Boundary(*counts)


def _edges(labels: NDArray[np.integer], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) True at known pixels with a known neighbour, of four, of another label."""
    edges = np.zeros(labels.shape, np.bool_)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (labels[one] != labels[other]) & known[one] & known[other]
        edges[one] |= differ
        edges[other] |= differ
    return edges


def _near(points: NDArray[np.int64], others: NDArray[np.int64], tolerance_px: float) -> int:
    """How many of `points` (m, 2) lie within the tolerance, inclusive, of any of `others`."""
    if not len(points) or not len(others):
        return 0
    # Boundaries are thin: a tree of their pixels is faster than a distance transform of the image. Its bound is exclusive, and
    # distances are roots of integers, further apart than this.
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(points, distance_upper_bound=tolerance_px + 1e-6)
    return int(np.isfinite(distances).sum())


def bootstrap_miou(images: Sequence[Confusion], first: int = 0, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """(resamples,) mean IoU of classes `first`… pooled over images drawn with replacement, as many as there are.

    Two settings on the same images, in one order, with one seed are drawn alike: the difference of their results is paired.
    Images count as independent; where they are parts of one scene, an interval of these is too narrow.
    """
    draws = np.random.default_rng(seed).integers(len(images), size=(resamples, len(images)))
    rows = np.arange(resamples)[:, None]
    times = np.bincount((rows * len(images) + draws).ravel(), minlength=resamples * len(images)).reshape(resamples, -1)
    counts = np.stack([image.counts for image in images])
    # Products of float64 are done by BLAS, and exact: counts stay far below 2^53.
    pooled = (times.astype(np.float64) @ counts.reshape(len(images), -1).astype(np.float64)).reshape(resamples, *counts.shape[1:])
    hits = np.diagonal(pooled, axis1=1, axis2=2)
    iou = _ratio(hits, pooled.sum(axis=1) + pooled.sum(axis=2) - hits)[:, first:]
    present = ~np.isnan(iou)
    return _ratio(np.where(present, iou, 0.0).sum(axis=1), present.sum(axis=1))


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the samples that are numbers; NaN where none is."""
    numbers = samples[~np.isnan(samples)]
    if not numbers.size:
        return float("nan"), float("nan")
    low, high = np.percentile(numbers, (2.5, 97.5))
    return float(low), float(high)


def _ratio(part: NDArray[np.integer | np.floating] | int, whole: NDArray[np.integer | np.floating] | int) -> NDArray[np.float64]:
    """Quotient, NaN where `whole` is 0."""
    quotient: NDArray[np.float64] = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=quotient, where=np.asarray(whole) > 0)
    return quotient
