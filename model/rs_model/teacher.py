"""A model as the teacher of its own next phase: its maps of the training scenes, each the mean over sizes and mirror images.

Such a mean is better than the plain view on most places (model card, Test-time augmentation), and costs a student nothing: it learns to say
at once what its teacher says in eight looks, also where there are no labels (self-distillation: Furlanello et al. 2018, arXiv:1805.04770).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rs_model.augment import Window
from rs_model.labels import CLASSES
from rs_model.provider import tiny_provider
from rs_model.scenes import Scene
from rs_model.score import all_classes, options_of, predict

UNTAUGHT = -1.0
LOOKS = ("scoring.tta.flips=true", "scoring.tta.scales=[1.0,1.4]")
PLAIN = ("scoring.presence_power=0", "scoring.absent_below=0", "scoring.instances=false", "scoring.calibrated=false")
"""Maps as the phase's own losses see them: of the words alone."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """What it says of some scenes."""

    maps: dict[str, NDArray[np.uint8]]
    """By scene: (5, h, w) probabilities of the classes, 255 is 1, of the whole scene at a scale of its own."""
    sizes: dict[str, tuple[int, int]]
    """By scene: its height and width."""

    def cut(self, name: str, window: Window, side_px: int) -> NDArray[np.float32]:
        """(side_px, side_px, 5) of a window of a scene; `UNTAUGHT` where it has not seen the scene."""
        if name not in self.maps:
            return np.full((side_px, side_px, len(CLASSES)), UNTAUGHT, np.float32)
        maps, (height, width) = self.maps[name], self.sizes[name]
        y, x = maps.shape[1] / height, maps.shape[2] / width
        box = (window.left * x, window.top * y, (window.left + window.side) * x, (window.top + window.side) * y)
        resized = [np.asarray(Image.fromarray(m).resize((side_px, side_px), Image.Resampling.BILINEAR, box=box)) for m in maps]
        return np.stack(resized, -1).astype(np.float32) / np.float32(255)


def look_at(weights: Path, scenes: Iterable[tuple[Scene, float]], tile_px: int, threads: int) -> Teacher:
    """The model of a weights folder looks at scenes, each brought to the size that is given with it (its pixels per scene pixel)."""
    segmenter, classes = tiny_provider(weights).load(options_of(*LOOKS, *PLAIN), threads), all_classes()
    maps, sizes = {}, {}
    for scene, zoom in scenes:
        height, width = sizes[scene.name] = scene.codes.shape
        size = (max(round(width * zoom), 32), max(round(height * zoom), 32))
        image = np.asarray(Image.fromarray(scene.image).resize(size, Image.Resampling.BILINEAR))
        maps[scene.name] = np.rint(predict(segmenter, image, classes, tile_px).clip(0, 1) * 255).astype(np.uint8)
    return Teacher(maps, sizes)
