"""samgeo with SAM 3: `generate_masks_tiled`, a hard mask for one prompt; all six prompts, one after the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from measure import measured
from samgeo.samgeo3 import SamGeo3
from stub import CLASSES, mask


class Stub(SamGeo3):  # type: ignore[misc]
    """SAM 3 replaced by the stub: prompt k is class k, 0…5."""

    def __init__(self) -> None:
        self.backend, self.device = "transformers", "cpu"

    def generate_masks(self, prompt: str, **_: Any) -> None:
        """One mask for the tile that samgeo has set, which it has stretched to 0…255 by itself."""
        self.masks = [mask(self.image.transpose(2, 0, 1), int(prompt), 255)]
        self.boxes, self.scores = [[0, 0, 1, 1]], [0.9]


def predict(source: str, folder: str) -> None:
    """A file per prompt."""
    Path(folder).mkdir()
    model = Stub()
    for k in range(CLASSES):
        model.generate_masks_tiled(
            source, str(k), f"{folder}/{k}.tif", tile_size=1024, overlap=128, unique=False, dtype="uint8", verbose=False
        )


if __name__ == "__main__":
    measured(lambda: predict(sys.argv[1], sys.argv[2]), "segment-geospatial")
