"""Held-out consistency: does a model say the same of two views of tiles that it did not learn from.

A model that says nothing anywhere is consistent, too, and so is one that says yes to everything. So a class that the unadapted model
finds on these tiles has to be found still, on about as much ground: what it grew or shrank by counts against it, and one that is gone is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rs_model.adapt.forward import see
from rs_model.adapt.parts import Model
from rs_model.adapt.views import Views, make_views
from rs_model.stages import Aligner, Prompts
from rs_pipeline.adaptation import Box, UnlabelledTiles
from rs_pipeline.errors import TrainingError

_EDGE = 1e-6
"""Of a tile's side: neighbours without overlap meet by rounding alone."""
FREE_AREA = 0.9
"""An area may grow or shrink to so much of the other without counting against a class: the better map has seldom the very same one."""
MAPPED = 0.5
"""Least probability of a pixel that counts as the class."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two views, over some tiles."""

    both: NDArray[np.int64]
    """(P,) pixels that both views give a class."""
    either: NDArray[np.int64]
    """(P,) pixels that at least one does."""
    plain: NDArray[np.int64]
    """(P,) pixels that the plain view does."""

    def score(self, before: Agreement) -> float:
        """Mean over the classes that the unadapted model finds, 0…1: intersection over union; less where this model and the unadapted
        one map areas of which the smaller is less than `FREE_AREA` of the larger.

        Parameters
        ----------
        before: of the unadapted model; of itself, the plain mean.
        """
        found = before.plain > 0
        iou = self.both / np.maximum(self.either, 1)
        kept = np.minimum(self.plain, before.plain) / np.maximum(np.maximum(self.plain, before.plain), 1)
        return float((iou * np.minimum(kept / FREE_AREA, 1))[found].mean())


class HeldOut:
    """Fixed tiles in fixed views."""

    def __init__(self, tiles: UnlabelledTiles, indices: Sequence[int], seed: int, device: torch.device) -> None:
        self._tiles, self._indices, self._seed, self._device = tiles, tuple(indices), seed, device

    def _views(self, index: int) -> Views:
        image, valid = self._tiles.read(index)
        side = min(image.shape[1:])
        return make_views([(image[:, :side, :side], valid[:side, :side])], np.random.default_rng([self._seed, index])).to(self._device)

    @torch.no_grad()
    def agreement(self, model: Model, aligner: Aligner | None, prompts: Prompts, precision: torch.autocast) -> Agreement:
        """Of a model with its adapter, if it has one."""
        both, either, plain = (np.zeros(len(prompts), np.int64) for _ in range(3))
        for index in self._indices:
            views = self._views(index)
            with precision:
                first = see(model, aligner, views.plain, prompts).probability[None]
                second = see(model, aligner, views.other, prompts).probability[None]
            valid = views.turned(views.valid)[0]
            a, b = (views.turned(first)[0] >= MAPPED) & valid, (second[0] >= MAPPED) & valid
            both += _pixels(a & b)
            either += _pixels(a | b)
            plain += _pixels(a)
        return Agreement(both, either, plain)


def _pixels(maps: Tensor) -> NDArray[np.int64]:
    """(P, H, W) bool → (P,)."""
    return np.asarray(maps.sum((1, 2)).cpu().numpy(), np.int64)


def check_found(agreement: Agreement, names: Sequence[str]) -> None:
    """Refuse tiles on which the unadapted model finds nothing.

    Raises
    ------
    TrainingError: there is nothing to be consistent about.
    """
    if not agreement.plain.any():
        fix = "Adapt to an area that holds these classes, or to other classes."
        raise TrainingError(f"held-out tiles on which the model finds one of {', '.join(names)}", "none", fix)


def split_tiles(footprints: Sequence[Box], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the tiles that train, and of those that are held out: no ground is in both.

    Held out is one end of the area, in one of four directions: tiles overlap their neighbours, and scenes lie over each other, so that
    tiles drawn here and there would share most of their ground. What overlaps a held-out tile trains nothing.

    Parameters
    ----------
    footprints: of the tiles, in one CRS.
    share: of the tiles that is held out, at the least.

    Raises
    ------
    TrainingError: no two tiles that lie apart.
    """
    boxes = np.asarray(footprints, np.float64).reshape(-1, 4)
    count = max(1, round(share * len(boxes)))
    for direction in np.random.default_rng(seed).permutation(4):
        axis, sign = direction % 2, 1 if direction < 2 else -1
        order = np.argsort(sign * (boxes[:, axis] + boxes[:, axis + 2]), kind="stable")
        held = np.sort(order[:count])
        train = np.array([i for i in order[count:] if not _meets(boxes[i], boxes[held]).any()], np.int64)
        if len(train):
            return np.sort(train), held
    fix = "Take a larger --aoi, more scenes, or a lower seen_share."
    raise TrainingError("at least two tiles that do not overlap, one of them to be held out", f"{len(boxes)} tiles", fix)


def _meets(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes (m, 4) share more than an edge with a box (4,)."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.asarray((shared > _EDGE * (box[2:] - box[:2])).all(1))
