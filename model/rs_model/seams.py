"""Where objects of one class touch: the lines along which two queries' masks meet.

A semantic map has no such lines: houses that share a wall are one patch of it. The queries know them one by one, and all that a map
needs to keep them apart is a gap, a pixel wide, between what is nearer to one query's mask and what is nearer to another's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rs_model.scores import MASKS_AT_ONCE, enlarge
from rs_model.stages import NOWHERE, cut_masks

SHARED = 0.15
"""Share of the smaller of two masks that both may have: above it the better query alone stands for what is there."""
LEAST_CELLS = 3
"""Smaller masks part nothing."""
_OUTSIDE = NOWHERE / 2
"""Logits from here on are of a mask's own box, once it was enlarged."""


def seams(masks: Tensor, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels that belong to one object and have another's to their right or below: without them no two objects share a side.

    A pixel is of the mask that says most there, within that one's own box; where no box reaches, of none.

    Parameters
    ----------
    masks: (B, k, h, w) logits of the queries of K. boxes: (B, k, 4) theirs, centre x, centre y, width, height as shares of the image.
    scores: (B, k) theirs, best first; 0 for one that is not in K.
    size: height and width that come out.

    Returns
    -------
    (B, H, W) bool.
    """
    found = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    for seam, row, score in zip(found, cut_masks(masks.float(), boxes), scores, strict=True):
        seam[:] = _of_row(row[_apart(row, score)], size)
    return found


def _apart(masks: Tensor, scores: Tensor) -> Tensor:
    """(k,) bool: the masks, best first, that do not share their ground with a better one."""
    inside = (masks > 0).flatten(1).float()
    area = inside.sum(1)
    conflict = (inside @ inside.T > SHARED * torch.minimum(area[:, None], area)).tolist()
    kept: list[int] = []
    for number in torch.nonzero((scores > 0) & (area >= LEAST_CELLS))[:, 0].tolist():
        if not any(conflict[number][better] for better in kept):
            kept.append(number)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[kept] = True
    return chosen


def _of_row(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, h, w) logits → (H, W) bool."""
    best = torch.full(size, _OUTSIDE, device=masks.device)
    owner = torch.full(size, -1, device=masks.device)
    for start in range(0, len(masks), MASKS_AT_ONCE):
        found, index = enlarge(masks[None, start : start + MASKS_AT_ONCE], size)[0].max(0)
        better = found > best
        best, owner = torch.where(better, found, best), torch.where(better, index + start, owner)
    owned = owner >= 0
    seam = torch.zeros_like(owned)
    seam[:, :-1] = owned[:, :-1] & owned[:, 1:] & (owner[:, :-1] != owner[:, 1:])
    seam[:-1] |= owned[:-1] & owned[1:] & (owner[:-1] != owner[1:])
    return seam
