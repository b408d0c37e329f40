"""Frequency low-pass: `E' = (1-b)·E + b·LP(E)` over the token grid (METHODS.md section 1).

The gain of a wave is 2^(-(f/radius)²/2): 1 at zero, 1/√2 (-3 dB) at the radius, 1/4 at twice the radius; f is the length of
its frequency vector.
The mask lies in the order of `rfft2`, zero frequency first: one centred at h//2 would keep the high frequencies (trap 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rs_model.refine.token_map import to_map, to_tokens

REFERENCE = 72
"""Width of the grid whose frequency bins the radius counts: SAM 3 at 1008 px."""
LEAST_BORDER = 8
"""Tokens. A Gaussian cut off at the Nyquist frequency rings a little; this far away by no more than 0.0012 of the input."""


def lowpass(tokens: Tensor, grid: tuple[int, int], strength: float, radius: float) -> Tensor:
    """Tokens with their fast changes damped.

    Parameters
    ----------
    tokens: (B, N, C) float.
    grid: h and w, h·w = N.
    strength: b, 0…1.
    radius: frequency of the -3 dB point, in bins of a 72-wide grid: radius·h/72 bins down and radius·w/72 bins across, so
        radius/72 cycles per token on every grid.

    Returns
    -------
    (B, N, C) in the dtype that came.
    """
    if strength == 0:
        return tokens
    field = to_map(tokens, grid)
    return to_tokens(torch.lerp(field, _slow_part(field, radius / REFERENCE), strength), tokens.dtype)


def _slow_part(field: Tensor, cutoff: float) -> Tensor:
    """(B, h, w, C) → the same, low-passed at `cutoff` cycles per token; mirrored borders keep opposite edges apart."""
    h, w = field.shape[1:3]
    # 5 deviations of the filter's Gaussian kernel
    border = max(LEAST_BORDER, math.ceil(5 * math.sqrt(math.log(2)) / (2 * math.pi * cutoff)))
    down, across = min(border, h - 1), min(border, w - 1)  # a mirror shows no more than there is
    bordered = F.pad(field.permute(0, 3, 1, 2), (across, across, down, down), mode="reflect")
    size = (bordered.shape[-2], bordered.shape[-1])
    slow: Tensor = torch.fft.irfft2(torch.fft.rfft2(bordered) * _gain(size, cutoff, field), s=size)
    return slow[..., down : down + h, across : across + w].permute(0, 2, 3, 1)


def _gain(size: tuple[int, int], cutoff: float, like: Tensor) -> Tensor:
    """(H, W//2 + 1), in the layout of `rfft2`."""
    down = torch.fft.fftfreq(size[0], dtype=like.dtype, device=like.device)[:, None]
    across = torch.fft.rfftfreq(size[1], dtype=like.dtype, device=like.device)
    return torch.exp2(-(down.square() + across.square()) / (2 * cutoff**2))
