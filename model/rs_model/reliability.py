"""How far probabilities can be believed: pixels counted by score and truth, and from these counts every figure.

Expected calibration error as in Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015, here of one
class against all else: the mean over bins of |share of the class - mean probability|, weighted by pixels. Adaptive bins hold equal
numbers of pixels (Nixon et al., "Measuring calibration in deep learning", CVPRW 2019): most pixels of a rare class are in the
lowest bin of equal width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

BINS = 15
LIMIT, STEP = 16.0, 0.01
"""Log-odds are counted from -16 to 16 (1e-7 from 0 and 1) in steps that move a probability by 0.0025 at the utmost."""
LOG_ODDS: NDArray[np.float64] = np.concatenate([[-np.inf], np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / STEP) + 1)])
"""Of each column of a `Tally`; the first is probability 0 itself."""

Rescale = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Log-odds to probabilities: as they are, or calibrated."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Pixels of one class by truth and score: all that its reliability and its thresholds depend on, however many pixels. Adds up."""

    counts: NDArray[np.int64]
    """(2, len(LOG_ODDS)): row 0 of other pixels, row 1 of the class."""

    @classmethod
    def of(cls, probability: NDArray[np.floating], is_class: NDArray[np.bool_]) -> Self:
        """Counts of pixels with their truth, two arrays of one shape."""
        odds = np.clip(np.nan_to_num(logit(probability.astype(np.float64)), posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT)
        column = np.where(probability == 0, 0, np.rint((odds + LIMIT) / STEP).astype(np.int64) + 1)
        both = np.bincount((column + is_class * len(LOG_ODDS)).ravel(), minlength=2 * len(LOG_ODDS))
        return cls(both.reshape(2, -1).astype(np.int64))

    @classmethod
    def empty(cls) -> Self:
        """No pixel."""
        return cls(np.zeros((2, len(LOG_ODDS)), np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts)

    def iou(self, threshold: float, rescale: Rescale = expit) -> float:
        """Of the pixels that reach a threshold; NaN where neither they nor the truth hold one."""
        other, own = self.counts[:, rescale(LOG_ODDS) >= threshold].sum(1)
        either = int(other + self.counts[1].sum())
        return int(own) / either if either else float("nan")


@dataclass(frozen=True, slots=True)
class Reliability:
    """What scores promise and what they keep, bin by bin; bins without pixels are left out."""

    share: NDArray[np.float64]
    """(b,) of all pixels; sums to 1."""
    promised: NDArray[np.float64]
    """(b,) mean probability."""
    kept: NDArray[np.float64]
    """(b,) share of the pixels that are of the class."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0…1; NaN without pixels."""
        return float((self.share * np.abs(self.kept - self.promised)).sum()) if self.share.size else float("nan")


def reliability(tally: Tally, rescale: Rescale = expit, *, adaptive: bool = False, bins: int = BINS) -> Reliability:
    """Bins of equal width, or `adaptive` ones of about equal numbers of pixels (equal scores stay together)."""
    probability, pixels = rescale(LOG_ODDS), tally.counts.sum(0)
    if adaptive:
        middle = (pixels.cumsum() - pixels / 2) / max(pixels.sum(), 1)
        column = np.minimum((middle * bins).astype(np.int64), bins - 1)
    else:
        column = np.minimum((probability * bins).astype(np.int64), bins - 1)
    total, promised, kept = (np.bincount(column, weights, minlength=bins) for weights in (pixels, pixels * probability, tally.counts[1]))
    held = total > 0
    return Reliability(total[held] / max(pixels.sum(), 1), promised[held] / total[held], kept[held] / total[held])
