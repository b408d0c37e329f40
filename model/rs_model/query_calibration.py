"""How far a query's score can be believed: of the pixels of its mask, how many are of its class.

`P = p · max(S, m · r)` takes r for a probability of pixels. What the matching loss teaches is another thing, whether a query is the one
that an object was given to, among a hundred that might have been: it stays low where most pixels are right, and then a mask, however
sure, adds nothing to the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rs_model.calibration import Scaling, fit_scaling
from rs_model.instance_score import look
from rs_model.labels import CLASSES, MEANING, UNKNOWN, YES
from rs_model.places import Place
from rs_model.reliability import Tally
from rs_model.scenes import Scene
from rs_model.score import starts
from rs_model.tiny import TinySam3

NAME = "building"
"""The class whose objects training knows one by one."""


def fit_queries(model: TinySam3, tile_px: int, data: Path, places: Sequence[Place], least: float) -> Scaling | None:
    """The scaling of the scores of the queries in K, every place that knows buildings and has such queries weighing the same.

    Parameters
    ----------
    least: queries whose score times presence is not above it are not in K, and teach nothing.

    Returns
    -------
    None where nothing can be fitted: no query is in K, or all their pixels are right, or none is.
    """
    tallies = [sum((_tally(model, tile_px, scene, least) for scene in place.read(data)), start=Tally.empty()) for place in places]
    known = [tally for tally in tallies if tally.counts.any()]
    pooled = sum(known, start=Tally.empty()).counts
    return fit_scaling(known) if pooled.any(axis=1).all() else None


def _tally(model: TinySam3, tile_px: int, scene: Scene, least: float) -> Tally:
    """Pixels of the masks of an image's queries by score and truth, in windows as `score.predict` has them."""
    height, width = scene.codes.shape
    found = Tally.empty()
    for top in starts(height, min(tile_px, height)):
        for left in starts(width, min(tile_px, width)):
            window = np.s_[top : top + tile_px, left : left + tile_px]
            seen, truth = look(model, scene.image[window]), MEANING[scene.codes[window], CLASSES.index(NAME)]
            for mask, score in zip(seen.masks, seen.scores, strict=True):
                if score <= least:
                    break  # they are in order
                pixels = truth[mask & (truth != UNKNOWN)]
                found += Tally.of(np.full(pixels.shape, score / seen.presence), pixels == YES)
    return found
