"""The stub as a segmenter of this project: `--model stub_model:provider`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import stub
from numpy.typing import NDArray

from rs_pipeline.classes import ClassSet
from rs_pipeline.options import ModelOptions
from rs_pipeline.segmenter import ModelInfo


class StubSegmenter:
    """Scores from the bands alone."""

    def segment(self, images: NDArray[np.float32], valid: NDArray[np.bool_], classes: ClassSet) -> NDArray[np.float32]:  # noqa: ARG002
        """(N, 3, H, W) to (N, 6, H, W)."""
        return cast("NDArray[np.float32]", stub.scores(images))


class StubProvider:
    """Takes any word, needs nothing."""

    description = "six scores from three bands"

    def info(self) -> ModelInfo:
        """No weights."""
        return ModelInfo("stub", "0" * 64, gsd_m=None, gsd_range_m=None, tile_px=1024, vocabulary=None)

    def load(self, options: ModelOptions, threads: int | None) -> StubSegmenter:  # noqa: ARG002
        """Ready at once."""
        return StubSegmenter()


def provider(folder: Path | None) -> StubProvider:  # noqa: ARG001
    """What `--model` calls."""
    return StubProvider()
