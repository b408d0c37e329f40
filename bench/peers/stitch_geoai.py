"""geoai: `predict_geotiff`, blended scores as float32, its defaults but for the tiles."""

from __future__ import annotations

import sys
from typing import Any

import torch
from geoai.inference import predict_geotiff
from measure import measured
from stub import CLASSES, TOP, scores


class Stub(torch.nn.Module):
    """The stub in torch."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, 6, H, W)."""
        found: torch.Tensor = scores(image, torch.concatenate)
        return found


def prepare(tile: Any) -> Any:
    """Values 0…128 to [0, 1]."""
    return tile / TOP


def predict(source: str, target: str) -> None:
    """The whole scene."""
    tiles = {"tile_size": 1024, "overlap": 128}
    predict_geotiff(Stub(), source, target, **tiles, num_classes=CLASSES, preprocess_fn=prepare, device="cpu", verbose=False)


if __name__ == "__main__":
    measured(lambda: predict(sys.argv[1], sys.argv[2]), "geoai-py")
