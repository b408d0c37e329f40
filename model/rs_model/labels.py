"""Label codes of the training images: what a pixel says about each of the five classes.

Sources differ in what they know. A footprint map says where buildings are and, elsewhere, only that there is none; a land
cover map may say "built-up" for roofs and car parks alike. A code therefore stands for a row of yes / no / unknown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rs_model.words import SYNONYMS

CLASSES = tuple(SYNONYMS)
"""building, land, road, vegetation, water: codes 0…4."""
NOT_BUILDING = 5
"""Not a building; which of the others is unknown."""
SEALED = 6
"""A roof or a paved surface."""
IGNORE = 7
"""Nothing is known."""
DRY = 8
"""Neither green nor wet: a roof, a road or bare ground."""
NOTHING = 9
"""No ground at all: a collar without data that the file does not declare."""

YES, NO, UNKNOWN = 1, 0, -1

MEANING: NDArray[np.int8] = np.array(
    [
        *np.eye(len(CLASSES), dtype=np.int8),
        [NO, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN],
        [UNKNOWN, NO, UNKNOWN, NO, NO],
        [UNKNOWN] * len(CLASSES),
        [UNKNOWN, UNKNOWN, UNKNOWN, NO, NO],
        [NO] * len(CLASSES),
    ],
    np.int8,
)
"""(10, 5): what each code says about each class."""
