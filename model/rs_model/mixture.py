"""The training set: scenes of the recipe's sources in memory, and the crops and words of any step, drawn from its number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.augment import blank, cut, disturb, place, turn
from rs_model.instances import InstanceTargets, instance_targets
from rs_model.labels import CLASSES, IGNORE, MEANING, NOTHING, UNKNOWN
from rs_model.phrases import composed_phrase, other_phrase, training_phrase
from rs_model.places import TRAINING_FIRST_SEED, generated_scene
from rs_model.recipe import TAUGHT, Lesson, Recipe
from rs_model.scenes import Scene, read_banepa, read_chesapeake, read_dubai, read_dubai_tiles
from rs_model.spectral import read_spectral
from rs_model.teacher import UNTAUGHT, Teacher
from rs_pipeline.errors import TrainingError

COMPOSED_SHARE = 0.5
"""Share of a class's phrases that are composed for certain, in the lessons `COMPOSING`; of the others a quarter is, as everywhere."""
COARSE = ("dubai",)
"""Those of `TAUGHT` whose labels are so coarse that a teacher is heard everywhere; in the others it is where the labels say nothing."""
COMPOSING: tuple[Lesson, ...] = ("words", "together")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step is shown."""

    images: NDArray[np.float32]
    """(N, 3, S, S) in [0, 1]."""
    codes: NDArray[np.uint8]
    """(N, S, S) label codes."""
    words: tuple[str, ...]
    """One phrase per class, in class order, and one of something else."""
    instances: tuple[InstanceTargets, ...]
    """The buildings of each crop, one by one; none in a dense phase, which has no use for them."""
    taught: NDArray[np.float32] | None = None
    """(N, 5, S/2, S/2) what the phase's teacher says of each class; `UNTAUGHT` where it says nothing. None without a teacher."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Scenes by source, and how often each source is drawn."""

    scenes: dict[str, list[Scene]]
    recipe: Recipe

    def batch(self, index: int, step: int, teacher: Teacher | None = None) -> Batch:
        """The crops of a step of the `index`-th phase: the same for the same recipe and step, whatever came before."""
        rng = np.random.default_rng([self.recipe.seed, index, step])
        phase = self.recipe.phases[index]
        names = list(self.scenes)
        weights = np.array([phase.share(name, self.recipe.mix) for name in names])
        sources = [names[i] for i in rng.choice(len(names), phase.crops, p=weights / weights.sum())]
        drawn = [self._crop(source, phase.crop_px, rng, teacher) for source in sources]
        images = np.stack([np.moveaxis(image, -1, 0) for image, _, _ in drawn])
        codes = np.stack([c for _, c, _ in drawn])
        taught = None if teacher is None else np.stack([t for _, _, t in drawn])
        words = (*(_phrase(phase.lesson, c, rng) for c in CLASSES), other_phrase(rng))
        return Batch(images, codes, words, () if phase.lesson == "dense" else tuple(_instances(codes, sources)), taught)

    def taught_scenes(self, index: int) -> Iterator[tuple[Scene, float]]:
        """The scenes of the `index`-th phase that a teacher looks at, and the middle of their zooms."""
        phase = self.recipe.phases[index]
        for source, scenes in self.scenes.items():
            if source in TAUGHT and phase.share(source, self.recipe.mix) > 0:
                zoom = float(np.sqrt(np.prod(self.recipe.mix[source].zoom)))
                yield from ((scene, zoom) for scene in scenes)

    def digest(self) -> str:
        """sha256 of every pixel and label that may be drawn, hexadecimal."""
        digest = hashlib.sha256()
        for scenes in self.scenes.values():
            for scene in scenes:
                digest.update(f"{scene.name} {scene.image.shape}".encode())
                digest.update(scene.image.tobytes())
                digest.update(scene.codes.tobytes())
        return digest.hexdigest()

    def _crop(
        self, source: str, side_px: int, rng: np.random.Generator, teacher: Teacher | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
        """Image (S, S, 3) in [0, 1], codes (S, S), and what the teacher says, (5, S/2, S/2); without one (5, 0, 0)."""
        scenes, mix = self.scenes[source], self.recipe.mix[source]
        area = np.array([scene.codes.size for scene in scenes], np.float64) ** 0.5
        scene = scenes[rng.choice(len(scenes), p=area / area.sum())]
        zoom = float(np.exp(rng.uniform(*np.log(mix.zoom))))
        window = place(scene.codes, side_px, zoom, rng)
        says = np.zeros((0, 0, len(CLASSES)), np.float32) if teacher is None else teacher.cut(scene.name, window, side_px // 2)
        image, codes, says = turn((*cut(scene, window, side_px), says), rng)
        pixels, known, taught = disturb(image, rng), codes.copy(), says.copy()
        blank(pixels, known, rng)
        if teacher is not None:
            halved = known[::2, ::2]
            taught[halved == NOTHING] = UNTAUGHT
            if source not in COARSE:
                taught[MEANING[halved] != UNKNOWN] = UNTAUGHT
        return pixels, known, np.moveaxis(taught, -1, 0)


def _phrase(lesson: Lesson, name: str, rng: np.random.Generator) -> str:
    draw = composed_phrase if lesson in COMPOSING and rng.random() < COMPOSED_SHARE else training_phrase
    return draw(name, rng)


def _instances(codes: NDArray[np.uint8], sources: Sequence[str]) -> list[InstanceTargets]:
    """Banepa's footprints run together at the scale of the crops: which building is which is unknown there."""
    merged = np.array([source == "banepa" for source in sources])[:, None, None]
    known = np.where(merged & (codes == CLASSES.index("building")), np.uint8(IGNORE), codes)
    return instance_targets(known, [source == "demo" for source in sources])


def read_mixture(data: Path, recipe: Recipe) -> Mixture:
    """Every source that has a weight, held-out places left out.

    Raises
    ------
    TrainingError: the data folder, or a source's folder in it, is missing.
    """
    if not data.is_dir():
        raise TrainingError("a folder of training data", f"{data}, which is none", "Point --data at it.")
    wanted = [name for name, mix in recipe.mix.items() if mix.weight > 0]
    return Mixture({name: list(_read(name, data, recipe)) for name in wanted}, recipe)


def _read(name: str, data: Path, recipe: Recipe) -> Iterator[Scene]:
    if name == "dubai":
        tiles = recipe.mix[name].tiles
        return read_dubai(data, "train") if tiles is None else read_dubai_tiles(data, tiles)
    if name == "banepa":
        return read_banepa(data, "train")
    if name == "spectral":
        return read_spectral(data)
    return read_chesapeake(data) if name == "chesapeake" else _render_demo(recipe)


def _render_demo(recipe: Recipe) -> Iterator[Scene]:
    """Scenes of the demonstration's generator, whose labels are exact."""
    for seed in range(TRAINING_FIRST_SEED, TRAINING_FIRST_SEED + recipe.demo_scenes):
        yield generated_scene(f"demo {seed}", seed, recipe.demo_px, recipe.gsd_m)
