"""What changed between two label rasters: pure.

Two pictures of one place never fit to the pixel: along every outline they differ though nothing changed. So a class is gained where it is
now, was not, and is farther than the tolerance from where it was: the test against a buffer (Goodchild & Hunter, "A simple positional
accuracy measure for linear features", IJGIS 11(3), 1997), here on pixels. That leaves the cores of real changes. They grow
back inside the pixels that differ, about as far as the buffer reached in (opening by reconstruction; Soille, "Morphological Image
Analysis", 2003, chapter 6; in a bounded number of steps, so that no sliver along a whole outline comes back with a change that touches it).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rs_pipeline.classes import NOT_OBSERVED

NO_CHANGE = 0
_SQUARE = np.ones((3, 3), np.bool_)
_EPSILON = 1e-9
_REACH = 2
"""Cores grow back by this many tolerances: the buffer takes that much of a corner of 60°, and less of wider ones."""


def margin_px(tolerance_px: float) -> int:
    """Pixels around a block on which its changes depend."""
    return math.ceil(tolerance_px) + _steps(tolerance_px)


def find_gained(before: NDArray[np.uint8], after: NDArray[np.uint8], tolerance_px: float) -> NDArray[np.uint8]:
    """Which class each pixel belongs to after, and did not before. What is lost is what is gained the other way round.

    A pixel that was not observed before may have been anything, so beside such pixels, too, a change must be wider than the tolerance.

    Parameters
    ----------
    before, after: (H, W) labels, 0 background, 255 not observed; `margin_px` at their edges say nothing.
    tolerance_px: distance between pixel centres up to which a class may have been misplaced; 0: every pixel that differs counts.

    Returns
    -------
    (H, W) uint8: the class; 0 no change; 255 where either was not observed, which is neither.
    """
    seen = (before != NOT_OBSERVED) & (after != NOT_OBSERVED)
    changed = np.where(before != after, after, np.uint8(NO_CHANGE))
    gained = np.where(seen, changed, np.uint8(NOT_OBSERVED))
    if tolerance_px > 0:
        counts = np.bincount(gained.ravel(), minlength=NOT_OBSERVED)
        for value in 1 + np.flatnonzero(counts[1:NOT_OBSERVED]):
            differs = gained == value
            was_there = (before == value) | (before == NOT_OBSERVED)
            gained[differs & ~_grown_back(differs, was_there, tolerance_px)] = NO_CHANGE
    return gained


def _grown_back(differs: NDArray[np.bool_], was_there: NDArray[np.bool_], tolerance_px: float) -> NDArray[np.bool_]:
    cores = differs & ~_within(was_there, tolerance_px)
    grown: NDArray[np.bool_] = ndimage.binary_dilation(cores, _SQUARE, iterations=_steps(tolerance_px), mask=differs)
    return grown


def _within(mask: NDArray[np.bool_], distance_px: float) -> NDArray[np.bool_]:
    """Pixels whose centre is at most so far from that of one in `mask`: row by row of a disk, from its rim to its middle."""
    near, wide, half = np.zeros_like(mask), mask.copy(), 0
    for row in range(math.floor(distance_px), -1, -1):
        while half < math.floor(math.sqrt(distance_px**2 - row**2) + _EPSILON):
            half += 1
            wide[:, half:] |= mask[:, :-half]
            wide[:, :-half] |= mask[:, half:]
        rest = max(0, len(mask) - row)
        near[row:] |= wide[:rest]
        near[:rest] |= wide[row:]
    return near


def _steps(tolerance_px: float) -> int:
    return math.ceil(_REACH * tolerance_px)
