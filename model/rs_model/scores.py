"""From the heads' logits to probabilities (METHODS.md section 0).

`P_word = p · max(S, max over q in K of m_q · r_q)` with p presence, S the semantic map, m and r a query's mask and score, and
K the queries with r · p above a threshold. Presence is applied once; the published code applies it to instances twice, which
`presence_power: 2` does. Logits are enlarged first, then turned into
probabilities: the other way round blunts every edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MASKS_AT_ONCE = 16
"""Enlarged masks of a row that are held together: 16 of 1008² are 65 MB."""


@dataclass(frozen=True, slots=True)
class Instances:
    """Masks of the queries that are worth one, for models whose queries were trained."""

    masks: Tensor
    """(B, k, h, w) logits."""
    scores: Tensor
    """(B, k) r in [0, 1]: does the query match the prompt; 0 for one that is not in K."""


def best_queries(scores: Tensor, presence: Tensor, least: float, most: int) -> tuple[Tensor, Tensor]:
    """The queries of K, best first: (B, k) indices and (B, k) scores r, k the most that any row has, `most` at the utmost.

    Parameters
    ----------
    scores: (B, Q) logits. presence: (B, 1) logits.
    least: queries whose r · p is not above it are not in K; where a row has fewer than k, the rest score 0.
    """
    r = torch.sigmoid(scores)
    kept = torch.where(r * torch.sigmoid(presence) > least, r, 0)
    count = min(int((kept > 0).sum(1).max()), most) if len(kept) else 0
    best, index = kept.topk(count, dim=1)
    return index, best


def word_probability(
    semantic: Tensor, presence: Tensor, size: tuple[int, int], instances: Instances | None = None, power: float = 1.0
) -> Tensor:
    """Probability of each pixel to be what its prompt asks for.

    Parameters
    ----------
    semantic: (B, 1, h, w) logits. presence: (B, 1) logits.
    size: height and width that come out.
    power: how often presence is multiplied into the instances; the semantic map has it once, or less where `power` is below 1.

    Returns
    -------
    (B, H, W) in [0, 1], float32.
    """
    present = torch.sigmoid(presence.float())
    once, again = present ** min(power, 1.0), present ** max(power - 1.0, 0.0)
    probability = torch.sigmoid(enlarge(semantic, size))
    if instances is not None:
        for start in range(0, instances.masks.shape[1], MASKS_AT_ONCE):
            some = slice(start, start + MASKS_AT_ONCE)
            found = torch.sigmoid(enlarge(instances.masks[:, some], size)) * (instances.scores[:, some] * again)[:, :, None, None]
            probability = torch.maximum(probability, found.amax(1, keepdim=True))
    return (probability * once[:, :, None, None]).squeeze(1)


def class_probability(words: Tensor, prompts_per_class: Sequence[int]) -> Tensor:
    """(N, P, H, W) → (N, K, H, W): a class is as likely as its likeliest word; prompts are in class order."""
    if all(count == 1 for count in prompts_per_class):
        return words
    return torch.stack([group.amax(1) for group in torch.split(words, list(prompts_per_class), 1)], 1)


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, k, h, w) → (B, k, H, W) float32, bilinear."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
