"""The head of the dense phase: five plain logits per pixel from the pyramid, so that the image encoder learns without prompts.

A prompted head runs once per class and costs twice what the image encoder does. The dense one costs next to nothing: the same time
trains the encoder on three times the pixels. It is thrown away when the prompted phase begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from rs_model.labels import CLASSES

GROUPS = 8


class DenseHead(nn.Module):
    """Top-down pyramid (Lin et al., CVPR 2017), as SAM 3's pixel decoder is one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(GROUPS, width), nn.ReLU()) for _ in range(2)
        )
        self.classify = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels fine to coarse, (N, C, H/4, W/4), (N, C, H/8, W/8), (N, C, H/16, W/16) → (N, 5, H/4, W/4) logits."""
        merged = levels[-1]
        for level, conv in zip(levels[-2::-1], self.merge, strict=True):
            merged = conv(F.interpolate(merged, size=level.shape[-2:], mode="nearest") + level)
        return cast("Tensor", self.classify(merged))
