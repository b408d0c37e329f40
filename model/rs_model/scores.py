"""From the heads' logits to probabilities (METHODS.md section 0).

`P_word = p · max(S, max over q in K of m_q · r_q)` with p presence, S the semantic map, m and r a query's mask and score, and
K the queries with r · p above a threshold. Presence is applied once. Logits are enlarged first, then turned into
probabilities: the other way round blunts every edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Instances:
    """Masks of the queries, for models whose queries were trained."""

    masks: Tensor
    """(B, Q, h, w) logits."""
    scores: Tensor
    """(B, Q) logits: does the query match the prompt."""
    least_score: float
    """Queries whose r · p is below it are left out, 0…1."""


def word_probability(semantic: Tensor, presence: Tensor, size: tuple[int, int], instances: Instances | None = None) -> Tensor:
    """Probability of each pixel to be what its prompt asks for.

    Parameters
    ----------
    semantic: (B, 1, h, w) logits. presence: (B, 1) logits.
    size: height and width that come out.

    Returns
    -------
    (B, H, W) in [0, 1].
    """
    present = torch.sigmoid(presence)
    probability = torch.sigmoid(_enlarge(semantic, size))
    if instances is not None:
        scores = torch.sigmoid(instances.scores)
        kept = torch.where(scores * present > instances.least_score, scores, 0)
        masks = torch.sigmoid(_enlarge(instances.masks, size)) * kept[:, :, None, None]
        probability = torch.maximum(probability, masks.amax(1, keepdim=True))
    return (probability * present[:, :, None, None]).squeeze(1)


def class_probability(words: Tensor, prompts_per_class: Sequence[int]) -> Tensor:
    """(N, P, H, W) → (N, K, H, W): a class is as likely as its likeliest word; prompts are in class order."""
    if all(count == 1 for count in prompts_per_class):
        return words
    return torch.stack([group.amax(1) for group in torch.split(words, list(prompts_per_class), 1)], 1)


def _enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
