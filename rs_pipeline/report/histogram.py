"""How a run's scores are spread."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.raster import opened, reading


def count_scores(path: Path, most_px: int) -> NDArray[np.int64]:
    """(bands, 256) int64: how many pixels of a run's `scores.tif` have each value.

    Parameters
    ----------
    most_px: of a larger raster, whole blocks that are drawn by lot from those with data, the same at every call, stand for the others.

    Raises
    ------
    RasterError: cannot be opened or read.
    """
    with opened(str(path)) as source, reading(str(path)):
        blocks = _blocks_with_data(source)
        most = max(1, most_px // (source.count * source.block_shapes[0][0] * source.block_shapes[0][1]))
        chosen = np.sort(np.random.default_rng(0).permutation(len(blocks))[:most])
        counts = np.zeros((source.count, 256), np.int64)
        for block in chosen:
            counts += [np.bincount(band.ravel(), minlength=256) for band in source.read(window=blocks[block])]
    return counts


def _blocks_with_data(source: Any) -> list[Any]:
    """Windows of the blocks that are not all nodata, as far as the coarsest overview tells: an average has data where any pixel has."""
    blocks = [window for _, window in source.block_windows(1)]
    factors = source.overviews(1)
    if not factors:
        return blocks
    factor = factors[-1]
    has_data = source.read(1, out_shape=(math.ceil(source.height / factor), math.ceil(source.width / factor))) != source.nodata
    return [
        block
        for block in blocks
        if has_data[
            block.row_off // factor : math.ceil((block.row_off + block.height) / factor),
            block.col_off // factor : math.ceil((block.col_off + block.width) / factor),
        ].any()
    ]
