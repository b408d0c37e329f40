"""What the decoder looked at: its vision cross-attention, pooled to one weight per token (METHODS.md section 2).

Attention comes as (B, L, heads, 1+Q, N), each row summing to 1 over the tokens; row 0 is the presence token, which asks
whether there is anything at all, not where. Weights go out in float32 at least: at N = 5184 half of them would be rounding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def patch_importance(attention: Tensor, scores: Tensor, pooling: Literal["score", "mean", "max", "entropy"], layers: int) -> Tensor:
    """How much the queries looked at each token.

    Parameters
    ----------
    attention: (B, L, heads, 1+Q, N).
    scores: (B, Q) in [0, 1]; only "score" reads them.
    pooling: over the queries: "score" weighs them by their scores (alike where all are 0), "mean" alike, "entropy" by how
        concentrated they are (1 - entropy / log N); "max" takes the strongest look at each token.
    layers: so many of the last layers are averaged.

    Returns
    -------
    (B, N), not negative, each row sums to 1.
    """
    looks = late_attention(attention, layers)[:, 1:]
    if scores.shape != looks.shape[:2]:
        raise ValueError(f"scores must be {tuple(looks.shape[:2])} for this attention, got {tuple(scores.shape)}")
    if pooling == "max":
        pooled = looks.amax(1)
    elif pooling == "mean":
        pooled = looks.mean(1)
    else:
        weights = scores.to(looks.dtype) if pooling == "score" else _concentration(looks)
        pooled = torch.einsum("bq,bqn->bn", _share(weights), looks)
    return pooled / pooled.sum(1, keepdim=True)


def presence_attention(attention: Tensor, layers: int) -> Tensor:
    """(B, N), each row sums to 1: what the presence token looked at in the last `layers` layers."""
    return late_attention(attention, layers)[:, 0]


def late_attention(attention: Tensor, layers: int) -> Tensor:
    """(B, L, heads, 1+Q, N) → (B, 1+Q, N): the mean over the last layers and all heads."""
    if attention.dim() != 5 or attention.shape[3] < 2:
        raise ValueError(f"attention must be (B, L, heads, 1+Q, N), got {tuple(attention.shape)}")
    if layers < 1:
        raise ValueError(f"at least one layer is needed, got {layers}")
    return attention[:, -layers:].mean((1, 2), dtype=torch.promote_types(attention.dtype, torch.float32))


def _concentration(looks: Tensor) -> Tensor:
    """(B, Q, N) → (B, Q) in [0, 1]: 0 for an even look over all tokens, 1 for a look at a single one."""
    entropy = -torch.xlogy(looks, looks).sum(2)
    return (1 - entropy / math.log(max(looks.shape[2], 2))).clamp_min(0)


def _share(weights: Tensor) -> Tensor:
    """(B, Q) → the same, each row sums to 1; alike where all are 0."""
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(weights.dtype).tiny), 1 / weights.shape[1])
