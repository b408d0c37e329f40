"""What training minimises: per-prompt masks, the choice among classes, and presence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rs_model.labels import CLASSES, MEANING, NO, UNKNOWN, YES

PRESENT_SHARE = 0.001
"""Share of a crop that a class must cover to count as present; less, but some, counts as neither."""
KNOWN_SHARE = 0.9
"""Share of a crop that must be known before a class without a pixel counts as absent."""


def targets_of(codes: Tensor) -> Tensor:
    """(N, h, w) int64 codes → (N, 5, h, w) int8: YES, NO or UNKNOWN per class."""
    return torch.from_numpy(MEANING)[codes].permute(0, 3, 1, 2)


def presence_of(targets: Tensor) -> Tensor:
    """(N, 5, h, w) → (N, 5) int8: is the class in the crop."""
    yes = (targets == YES).float().mean((2, 3))
    known = (targets != UNKNOWN).float().mean((2, 3))
    absent = (yes == 0) & (known >= KNOWN_SHARE)
    verdict = torch.full_like(yes, UNKNOWN, dtype=torch.int8)
    verdict[absent] = NO
    verdict[yes >= PRESENT_SHARE] = YES
    return verdict


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy plus dice over the known pixels; (N, P, h, w) each."""
    known = (targets != UNKNOWN).float()
    yes = (targets == YES).float()
    entropy = F.binary_cross_entropy_with_logits(logits, yes, weight=known, reduction="sum") / known.sum().clamp(min=1)
    probability = torch.sigmoid(logits) * known
    overlap = (probability * yes).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + yes.sum((2, 3)) + 1)
    seen = (yes.sum((2, 3)) > 0).float()
    return entropy + (dice * seen).sum() / seen.sum().clamp(min=1)


def choice_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy among the prompted classes where the class is known; logits (N, 5, h, w), codes (N, h, w) int64."""
    chosen = torch.where(codes < len(CLASSES), codes, -100)
    count = (chosen >= 0).sum().clamp(min=1)
    return F.cross_entropy(logits, chosen, ignore_index=-100, reduction="sum") / count


def presence_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Binary cross-entropy over the prompts whose presence is known; parameters as `total_loss` has them."""
    present = F.pad(presence_of(targets_of(codes[:, ::2, ::2])), (0, logits.shape[1] - len(CLASSES)), value=NO)
    known = (present != UNKNOWN).float()
    return F.binary_cross_entropy_with_logits(logits, (present == YES).float(), weight=known, reduction="sum") / known.sum().clamp(min=1)


def teacher_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Binary cross-entropy against a teacher's probabilities, where it says something: what is learned of labels, softened, and where
    there are none (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

    Parameters
    ----------
    logits: (N, P, h, w) float; the first five prompts are `labels.CLASSES` in order.
    taught: (N, 5, H, W) float in [0, 1]; below 0 where nothing is said.
    """
    said = (taught >= 0).float()
    logits = F.interpolate(logits[:, : len(CLASSES)], size=taught.shape[-2:], mode="bilinear", align_corners=False)
    entropy = F.binary_cross_entropy_with_logits(logits, taught.clamp(min=0), weight=said, reduction="sum")
    return entropy / said.sum().clamp(min=1)


def dense_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Loss of the dense phase: logits (N, 5, H/4, W/4) float32, codes (N, H, W) int64."""
    logits, codes = _matched(logits, codes)
    return mask_loss(logits, targets_of(codes)) + choice_loss(logits, codes)


def _matched(logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Both at half the size of the crop."""
    codes = codes[:, ::2, ::2]
    return F.interpolate(logits, size=codes.shape[-2:], mode="bilinear", align_corners=False), codes


def total_loss(logits: Tensor, presence: Tensor, codes: Tensor, presence_weight: float) -> Tensor:
    """The loss of a prompt's maps and of presence; a run adds that of the queries and, where there is one, of a teacher.

    Parameters
    ----------
    logits: (N, P, H/4, W/4) float; the first five prompts are `labels.CLASSES` in order, the others ask for what is not there.
    presence: (N, P) float logits.
    codes: (N, H, W) int64 label codes.
    """
    present = presence_loss(presence, codes)
    logits, codes = _matched(logits, codes)
    targets = F.pad(targets_of(codes), (0, 0, 0, 0, 0, logits.shape[1] - len(CLASSES)), value=NO)
    return mask_loss(logits, targets) + choice_loss(logits[:, : len(CLASSES)], codes) + presence_weight * present
