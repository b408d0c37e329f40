"""Tokens as a map and back, in one place: `.view(B, C, h, w)` of (B, N, C) tokens would scramble them (METHODS.md, trap 8).

Maps are channels-last here, (B, h, w, C): that is how tokens lie in memory, so nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) → (B, h, w, C), in float32 at least: filters add up many terms, and the CPU has no FFT of half precision.

    Raises
    ------
    ValueError: the tokens do not fill the grid.
    """
    h, w = grid
    if tokens.dim() != 3 or tokens.shape[1] != h * w:
        raise ValueError(f"tokens must be (B, {h * w}, C) for a grid of {h} x {w}, got {tuple(tokens.shape)}")
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32)).reshape(len(tokens), h, w, -1)


def to_tokens(field: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, h, w, C) → (B, N, C) of the dtype that the tokens came in."""
    return field.flatten(1, 2).to(dtype)
