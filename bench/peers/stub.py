"""The stub model of `bench/stitch.py`: six class scores, pixel by pixel, from red, green and blue.

The scene holds values 0…128. The scores are value / 128 of each band, then one minus each of those: multiples of 1/128, exact in
float32 and float16 and apart from each other in uint8. So nothing but the stitching can change which one is highest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 6
TOP = 128
MASK_ABOVE = 0.615
"""Score above which a hard mask of one class holds a pixel: between two multiples, of 1/128 and of 1/255 too."""


def scores(image: Any, concatenate: Any = np.concatenate) -> Any:
    """(…, 3, H, W) value / 128, numpy or torch, to (…, 6, H, W) in [0, 1] of the same kind."""
    return concatenate((image, 1 - image), -3)


def mask(image: NDArray[np.uint8], k: int, top: int) -> NDArray[np.bool_]:
    """Hard mask (H, W) of class k, 0…5; image (3, H, W) of values 0…`top`."""
    share = image[k % 3].astype(np.float32) / np.float32(top)
    return (share if k < CLASSES // 2 else 1 - share) > MASK_ABOVE


def labels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, H, W) values 0…128 to (H, W): 1…6, the class that scores highest, the first where several do."""
    # The value in the high bits, 7 - class in the low ones: the greatest is the highest score, then the first class.
    keys = [(each.astype(np.uint16) << 3) | (7 - k) for k, each in enumerate((*image, *(TOP - image)))]
    return (8 - (np.maximum.reduce(keys) & 7)).astype(np.uint8)
