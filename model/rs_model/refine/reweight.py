"""Attention patch reweighting: `F' = F·(1 + α·w·N) / mean(1 + α·w·N)` (METHODS.md section 2).

w sums to 1, so a token that is looked at as much as any other has w·N = 1; without the N, α·w would be lost in rounding
(trap 6). The division keeps the mean scale of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reweight(tokens: Tensor, importance: Tensor, strength: float | Tensor) -> Tensor:
    """Tokens scaled by how much they were looked at.

    Parameters
    ----------
    tokens: (B, N, C) float.
    importance: w, (B, N), each row sums to 1.
    strength: α, 0 or more: one for all, or (B, N).

    Returns
    -------
    (B, N, C) in the dtype that came.
    """
    if isinstance(strength, Tensor):
        _check_per_token("strength", strength, tokens)
    elif strength == 0:
        return tokens
    _check_per_token("importance", importance, tokens)
    share = importance.to(torch.promote_types(importance.dtype, torch.float32)) * importance.shape[1]
    gain = 1 + strength * share
    gain = gain / gain.mean(1, keepdim=True)
    return (tokens * gain[..., None]).to(tokens.dtype)


def _check_per_token(name: str, values: Tensor, tokens: Tensor) -> None:
    if tokens.dim() != 3 or values.shape != tokens.shape[:2]:
        raise ValueError(f"{name} must hold one value per token, got {tuple(values.shape)} for tokens {tuple(tokens.shape)}")
