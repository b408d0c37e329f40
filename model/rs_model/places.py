"""The labelled places and what each is for: scores, calibration, or training. A place is never two of these.

Dubai as its images are, Banepa brought to 0.5 m, generated scenes of 0.5 m, Chesapeake at its own metre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rs_model.labels import CLASSES, IGNORE
from rs_model.scenes import Scene, Split, read_banepa, read_chesapeake, read_dubai, stretch
from rs_pipeline.errors import TrainingError

BANEPA_ZOOM = 0.26
"""0.13 m drone pixels to the model's 0.5 m."""
TEST_SEEDS = (1, 7, 42)
"""Generated scenes that scores are reported on; 7 is the demonstration."""
MORE_TEST_SEEDS = (*range(101, 113), *range(201, 241))
"""More of them: of so few as three, a single pond decides what is said of water."""
CALIBRATION_SEEDS = (2001, 2002, 2003, 2004)
"""Generated scenes that neither training nor any reported score uses."""
TRAINING_FIRST_SEED = 1000
"""Generated training scenes count from here; demonstrations and tests use seeds below."""
GENERATED_PX, GENERATED_GSD_M = 1024, 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Labelled images of one place."""

    name: str
    split: Split
    classes: tuple[str, ...]
    """What its labels know of every labelled pixel; other classes are not scored on it."""
    read: Callable[[Path], Iterator[Scene]]
    """From the folder of all data sets; raises TrainingError where the place's files are not there."""


def _dubai(split: Split) -> Callable[[Path], Iterator[Scene]]:
    return lambda data: read_dubai(data, split)


def _banepa(split: Split) -> Callable[[Path], Iterator[Scene]]:
    return lambda data: map(_to_half_metre, read_banepa(data, split))


def _to_half_metre(scene: Scene) -> Scene:
    height, width = scene.codes.shape
    size = (round(width * BANEPA_ZOOM), round(height * BANEPA_ZOOM))
    image = np.asarray(Image.fromarray(scene.image).resize(size, Image.Resampling.BILINEAR))
    return Scene(scene.name, image, np.asarray(Image.fromarray(scene.codes).resize(size, Image.Resampling.NEAREST)))


def generated_scene(name: str, seed: int, side_px: int, gsd_m: float) -> Scene:
    """A scene of the demonstration's generator, as the model sees it."""
    from rs_pipeline.demo import DEMO_CLASSES, render_scene

    scene = render_scene(seed, side_px, side_px, gsd_m)
    codes = np.array([IGNORE, *(CLASSES.index(label) for label in DEMO_CLASSES)], np.uint8)
    return Scene(name, stretch(np.moveaxis(scene.image, 0, -1)), codes[scene.labels])


def _generated(seeds: Iterable[int]) -> Callable[[Path], Iterator[Scene]]:
    return lambda _: (generated_scene(f"generated {seed}", seed, GENERATED_PX, GENERATED_GSD_M) for seed in seeds)


def generated_place(first: int, last: int) -> Place:
    """Generated scenes of the seeds from one to another, both included: more of them than those that are always scored.

    Raises
    ------
    TrainingError: seeds in the wrong order, or of scenes that are trained on.
    """
    if not 0 <= first <= last < TRAINING_FIRST_SEED:
        expected = f"two seeds from 0 to {TRAINING_FIRST_SEED - 1}, the lower first"
        raise TrainingError(expected, f"{first} {last}", "Scenes from there on train a model, or calibrate it.")
    return Place(f"generated, {first} to {last}", "test", CLASSES, _generated(range(first, last + 1)))


PLACES = (
    Place("Dubai Tile 7", "test", CLASSES, _dubai("test")),
    Place("Banepa south-east", "test", ("building",), _banepa("test")),
    Place("generated, test", "test", CLASSES, _generated(TEST_SEEDS)),
    Place("generated, more", "test", CLASSES, _generated(MORE_TEST_SEEDS)),
    Place("Dubai Tile 2", "calibration", CLASSES, _dubai("calibration")),
    Place("Banepa south-west", "calibration", ("building",), _banepa("calibration")),
    Place("generated, calibration", "calibration", CLASSES, _generated(CALIBRATION_SEEDS)),
    Place("Chesapeake", "train", ("vegetation",), read_chesapeake),
)
