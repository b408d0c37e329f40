"""Test-time augmentation: a tile at several sizes and mirrored, and the mean of what the model says of each view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from rs_pipeline.options import TtaSettings

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes that are mirrored: seen from above, the world has no upside."""
_SEEN = 0.5
"""Least share of a resized pixel that was seen, for it to count as seen."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a tile."""

    scale: float
    mirrored: tuple[int, ...]
    """Axes, counted from the last."""

    @property
    def is_plain(self) -> bool:
        """True for the tile as it is."""
        return self.scale == 1 and not self.mirrored


def views_of(settings: TtaSettings) -> tuple[View, ...]:
    """Every scale with every flip that was asked for."""
    return tuple(View(scale, axes) for scale in settings.scales for axes in (_FLIPS if settings.flips else _FLIPS[:1]))


def mean_over_views(
    segment: Callable[[Tensor], Tensor], images: Tensor, valid: Tensor, views: Sequence[View], *, fixed_input: bool = False
) -> Tensor:
    """The mean of the probabilities of several views, each brought back to the tile's own pixels.

    Parameters
    ----------
    segment: (N, 3, h, w) → (N, K, h, w) probabilities, for any h and w.
    images: (N, 3, H, W) in [0, 1], 0 where not valid.
    valid: (N, H, W) bool. What was not seen has no part in the resized pixels beside it.
    fixed_input: the model resizes whatever it gets to one size, which would undo a scale: it is shown windows of H x W instead.

    Returns
    -------
    (N, K, H, W).
    """
    size = (images.shape[-2], images.shape[-1])
    total: Tensor | None = None
    for view in views:
        seen = images if view.scale == 1 else _resized(images, valid, view.scale)
        seen = seen.flip(view.mirrored) if view.mirrored else seen
        maps = _by_windows(segment, seen, size) if fixed_input and view.scale != 1 else segment(seen)
        maps = maps.flip(view.mirrored) if view.mirrored else maps
        if maps.shape[-2:] != size:
            maps = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False, antialias=True)
        total = maps / len(views) if total is None else total + maps / len(views)
    if total is None:
        raise ValueError("at least one view is needed")
    return total.clamp(0, 1)  # a sum of shares may end a rounding above 1


def _resized(images: Tensor, valid: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]

    def resize(pixels: Tensor) -> Tensor:
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    if valid.all():
        return resize(images)
    share = resize(valid[:, None].to(images.dtype))
    return torch.where(share >= _SEEN, resize(images) / share.clamp_min(_SEEN), 0)


def _by_windows(segment: Callable[[Tensor], Tensor], images: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of one size over larger images, means where they overlap; smaller images are padded to it by their last row and column."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, max(size[1] - width, 0), 0, max(size[0] - height, 0)), mode="replicate")
    total: Tensor | None = None
    times = torch.zeros(padded.shape[-2:], device=images.device)
    for top, left in product(*(_starts(length, side) for length, side in zip(padded.shape[-2:], size, strict=True))):
        inside = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        maps = segment(padded[inside]).float()
        if total is None:
            total = maps.new_zeros((*maps.shape[:2], *padded.shape[-2:]))
        total[inside] += maps
        times[inside] += 1
    if total is None:
        raise AssertionError("every image has a window")
    return (total / times)[..., :height, :width]


def _starts(length: int, side: int) -> list[int]:
    """As few window starts as cover the length, evenly spread, the last one flush with the end."""
    count = -(-length // side)
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
