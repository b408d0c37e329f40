"""One radiometric stretch per scene: what makes a pixel's value not depend on the tile it is read in; and what spoils it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

COLLAR_SHARE = 0.01
"""Least share of a scene that counts as a collar."""
ELSEWHERE = 0.002
"""Largest share of a scene that may have the collar's value away from it: shadows and roofs may not come to count as never seen."""
MOSTLY = 10
"""So many times as many pixels have the value along the edges as elsewhere; else it is a colour like others."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear map from a scene's values to [0, 1], band by band."""

    low: tuple[float, ...]
    """Value that becomes 0, per band."""
    high: tuple[float, ...]
    """Value that becomes 1, per band; above `low`."""

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(not lo < hi for lo, hi in zip(self.low, self.high, strict=False)):
            raise ValueError(f"a stretch needs low < high in every band, got {self.low} and {self.high}")

    def apply(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Stretched copy of `image` (B, H, W), float32: clipped to [0, 1], 0 where `valid` (H, W) is False."""
        stretched = np.empty(image.shape, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            for band, out, low, high in zip(image, stretched, self.low, self.high, strict=True):
                np.subtract(band, np.float32(low), out=out, dtype=np.float32)
                np.multiply(out, np.float32(1.0 / (high - low)), out=out)
                np.clip(out, np.float32(0.0), np.float32(1.0), out=out)
        if not valid.all():
            stretched[:, ~valid] = 0.0
        return stretched


def measure_stretch(sample: NDArray[np.float32], valid: NDArray[np.bool_], low_percent: float, high_percent: float) -> Stretch | None:
    """The stretch between two percentiles of the valid pixels of a scene, band by band.

    Parameters
    ----------
    sample: (B, H, W) float32, the whole scene at low resolution.
    valid: (H, W) bool; pixels that are False, and values that are not finite, do not count.
    low_percent, high_percent: 0…100.

    Returns
    -------
    None where no pixel is valid. A band of one value becomes 0.5 everywhere.
    """
    lows, highs = [], []
    for band in sample:
        values = band[valid & np.isfinite(band)]
        if values.size == 0:
            return None
        low, high = (float(v) for v in np.percentile(values, (low_percent, high_percent)))
        if not low < high:
            low, high = float(values.min()), float(values.max())
        if not low < high:
            margin = max(abs(low), 1.0) * 0.5
            low, high = low - margin, high + margin
        lows.append(low)
        highs.append(high)
    return Stretch(tuple(lows), tuple(highs))


@dataclass(frozen=True, slots=True)
class Collar:
    """Pixels along a scene's edges that look like no ground: one extreme value in every band."""

    value: float
    share: float
    """0…1, of the scene's pixels."""
    elsewhere: float
    """0…1, of the scene's pixels: those that would count as nodata, too, if this value did."""

    @property
    def is_apart(self) -> bool:
        """True where the value means nothing but the collar."""
        return self.elsewhere <= ELSEWHERE


def find_collar(sample: NDArray[np.float32], valid: NDArray[np.bool_], dtype: str) -> Collar | None:
    """The largest collar that the file does not declare; None where there is none worth a word, or nothing else.

    Parameters
    ----------
    sample: (B, H, W) float32, the whole scene at low resolution.
    valid: (H, W) bool; what is declared already is False.
    dtype: of the file. Collars are 0, or the largest value of an unsigned integer type.
    """
    is_unsigned = np.dtype(dtype).kind == "u"
    found = []
    for value in (0.0, float(np.iinfo(dtype).max)) if is_unsigned else (0.0,):
        same = sample == value
        around = _from_the_edges(valid & same.all(0))
        if (around == valid).all():
            return None
        lost = valid & (same.all(0) if is_unsigned else same.any(0))  # as `raster.join_bands` has it
        found.append(Collar(value, float(around.mean()), float((lost & ~around).mean())))
    largest = max(found, key=lambda collar: collar.share)
    return largest if largest.share >= max(COLLAR_SHARE, MOSTLY * largest.elsewhere) else None


def _from_the_edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of (H, W) that reach an edge."""
    parts, _ = ndimage.label(mask)
    at_edges = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, at_edges[at_edges > 0])
