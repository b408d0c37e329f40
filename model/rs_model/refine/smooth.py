"""Token smoothing: `E' = (E + a·S(E)) / (1+a)`, S the 3 x 3 mean (METHODS.md section 1).

Without the division a constant field would grow by 1 + a, and that alone moves results (trap 1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rs_model.refine.token_map import to_map, to_tokens


def smooth(tokens: Tensor, grid: tuple[int, int], strength: float) -> Tensor:
    """Tokens drawn towards the mean of their neighbourhood.

    Parameters
    ----------
    tokens: (B, N, C) float.
    grid: h and w, h·w = N.
    strength: a, 0 or more; a → ∞ leaves only the mean.

    Returns
    -------
    (B, N, C) in the dtype that came.
    """
    if strength == 0:
        return tokens
    field = to_map(tokens, grid)
    return to_tokens(torch.lerp(field, _neighbourhood_mean(field), strength / (1 + strength)), tokens.dtype)


def _neighbourhood_mean(field: Tensor) -> Tensor:
    """(B, h, w, C) → the same: mean over 3 x 3 tokens, the border repeated; zeros there would darken edges to 0.67 (trap 2)."""
    bordered = F.pad(field.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(bordered, 3, stride=1).permute(0, 2, 3, 1)
