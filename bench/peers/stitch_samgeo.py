"""samgeo: `tiff_to_tiff`, hard labels; tiles of 1024 px that share 128 with their neighbours (896 and 64 on each side)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from measure import measured
from samgeo.common import tiff_to_tiff
from stub import labels


def segment(image: np.ndarray[Any, np.dtype[np.uint8]], **_: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) to labels (H, W); what else samgeo tells its model is of no use here."""
    return labels(image.transpose(2, 0, 1))


if __name__ == "__main__":
    measured(lambda: tiff_to_tiff(sys.argv[1], sys.argv[2], segment, sample_size=(896, 896), bound=64), "segment-geospatial")
