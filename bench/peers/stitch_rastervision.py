"""Raster Vision: smooth labels from overlapping windows, saved by its label store as labels and uint8 scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from measure import measured
from rastervision.core.box import Box
from rastervision.core.data import ClassConfig, RasterioSource, SemanticSegmentationLabels, SemanticSegmentationLabelStore
from stub import CLASSES, TOP, scores

TILE_PX, STRIDE_PX = 1024, 896


def predict(source: str, folder: str) -> None:
    """The whole scene."""
    image = RasterioSource(source)
    windows: Sequence[Box] = image.extent.get_windows(TILE_PX, STRIDE_PX)

    def predictions() -> Iterator[np.ndarray]:
        for window in windows:
            chip = image.get_chip(window).transpose(2, 0, 1)
            yield scores(chip.astype(np.float32) / TOP)

    labels = SemanticSegmentationLabels.from_predictions(windows, predictions(), smooth=True, extent=image.extent, num_classes=CLASSES)
    names = [*(f"c{k}" for k in range(1, CLASSES + 1)), "null"]
    classes = ClassConfig(names=names, null_class="null")
    store = SemanticSegmentationLabelStore(folder, image.crs_transformer, classes, smooth_output=True, smooth_as_uint8=True)
    store.save(labels)


if __name__ == "__main__":
    measured(lambda: predict(sys.argv[1], sys.argv[2]), "rastervision_core")
