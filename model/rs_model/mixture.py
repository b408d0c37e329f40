"""The training set: scenes of the recipe's sources in memory, and the crops and words of any step, drawn from its number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.augment import blank, cut, disturb, turn
from rs_model.instances import InstanceTargets, instance_targets
from rs_model.labels import CLASSES, IGNORE
from rs_model.phrases import composed_phrase, other_phrase, training_phrase
from rs_model.recipe import PHASES, PhaseName, Recipe
from rs_model.scenes import Scene, read_banepa, read_chesapeake, read_dubai, read_dubai_tiles, stretch
from rs_model.spectral import read_spectral
from rs_pipeline.errors import TrainingError

DEMO_FIRST_SEED = 1000
"""Generated training scenes count from here; demonstrations and tests use seeds below."""

COMPOSED_SHARE = 0.5
"""Share of a class's phrases in the words phase that are composed; the others are drawn as in the phases before."""


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
    """The buildings of each crop, one by one; none in the dense phase, which has no use for them."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Scenes by source, and how often each source is drawn."""

    scenes: dict[str, list[Scene]]
    recipe: Recipe

    def batch(self, name: PhaseName, step: int) -> Batch:
        """The crops of a phase's step: the same for the same recipe and step, whatever came before."""
        rng = np.random.default_rng([self.recipe.seed, PHASES.index(name), step])
        phase = self.recipe.phase(name)
        names = list(self.scenes)
        weights = np.array([self.recipe.mix[name].weight for name in names])
        sources = [names[i] for i in rng.choice(len(names), phase.crops, p=weights / weights.sum())]
        drawn = [self._crop(source, phase.crop_px, rng) for source in sources]
        images = np.stack([np.moveaxis(image, -1, 0) for image, _ in drawn])
        codes = np.stack([c for _, c in drawn])
        words = (*(_phrase(name, c, rng) for c in CLASSES), other_phrase(rng))
        return Batch(images, codes, words, () if name == "dense" else tuple(_instances(codes, sources)))

    def digest(self) -> str:
        """sha256 of every pixel and label that may be drawn, hexadecimal."""
        digest = hashlib.sha256()
        for scenes in self.scenes.values():
            for scene in scenes:
                digest.update(f"{scene.name} {scene.image.shape}".encode())
                digest.update(scene.image.tobytes())
                digest.update(scene.codes.tobytes())
        return digest.hexdigest()

    def _crop(self, source: str, side_px: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        scenes, mix = self.scenes[source], self.recipe.mix[source]
        area = np.array([scene.codes.size for scene in scenes], np.float64) ** 0.5
        scene = scenes[rng.choice(len(scenes), p=area / area.sum())]
        zoom = float(np.exp(rng.uniform(*np.log(mix.zoom))))
        image, codes = turn(*cut(scene, side_px, zoom, rng), rng)
        pixels, known = disturb(image, rng), codes.copy()
        blank(pixels, known, rng)
        return pixels, known


def _phrase(phase: PhaseName, name: str, rng: np.random.Generator) -> str:
    draw = composed_phrase if phase == "words" and rng.random() < COMPOSED_SHARE else training_phrase
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
    from rs_pipeline.demo import DEMO_CLASSES, render_scene

    codes = np.array([IGNORE, *(CLASSES.index(name) for name in DEMO_CLASSES)], np.uint8)
    for seed in range(DEMO_FIRST_SEED, DEMO_FIRST_SEED + recipe.demo_scenes):
        scene = render_scene(seed, recipe.demo_px, recipe.demo_px, recipe.gsd_m)
        yield Scene(f"demo {seed}", stretch(np.moveaxis(scene.image, 0, -1)), codes[scene.labels])
