"""Low-rank additions to linear layers (Hu et al., "LoRA", ICLR 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A frozen linear layer and what is learned beside it: `W x + b + scale · B A x`, B at 0 in the beginning."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        device = base.weight.device
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        out: Tensor = self.base(x) + self.scale * (x @ self.down.T @ self.up.T)
        return out


def add_low_rank(root: nn.Module, names: Mapping[str, nn.Linear], rank: int, scale: float) -> dict[str, LowRank]:
    """Puts a `LowRank` in the place of each of the named layers of `root`, by name."""
    added = {}
    for name, layer in names.items():
        parent, _, last = name.rpartition(".")
        added[name] = LowRank(layer, rank, scale)
        setattr(root.get_submodule(parent), last, added[name])
    return added


@torch.no_grad()
def merge_low_rank(layer: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
    """Adds what was learned to the layer's own weights, in place: it costs nothing from then on."""
    layer.weight += scale * (up.to(layer.weight) @ down.to(layer.weight))
