"""The border between the pipeline and a model: what a segmenter is, and how one is found.

A model package announces itself in the entry-point group `rs_pipeline.segmenters`; the pipeline never imports it by
name. The entry point is a callable `(folder: Path | None) -> Provider`: `folder` holds weights the user brought, None
means the ones the package ships.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import RsSegError, SegmenterError
from rs_pipeline.options import ModelOptions

GROUP = "rs_pipeline.segmenters"
TYPES_GROUP = "rs_pipeline.model_types"
"""Further `model_type`s of a weights folder's config.json, where a model goes by several."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the pipeline must know of a model before it is loaded."""

    name: str
    weights_sha256: str
    """Digest of the weights and of everything that changes what they mean (vocabulary, architecture)."""
    gsd_m: float | None
    """Native ground sampling distance, metres per pixel; None: whatever the scene has."""
    gsd_range_m: tuple[float, float] | None
    """Finest and coarsest ground sampling distance the model was trained on, metres per pixel, where that is known."""
    tile_px: int
    """Side of the square input it was trained on, pixels."""
    vocabulary: tuple[str, ...] | None
    """Every word the model knows, or None when it takes any text."""
    weights_bytes: int = 0
    """What the loaded weights take."""
    bytes_per_px: int = 640
    """Memory at the peak of a forward pass for each pixel of a batch, whatever the number of classes; for the estimate of a dry run."""
    refinements: tuple[str, ...] = ()
    """Refinement steps it can do (`rs_pipeline.options.Step`)."""
    fuller_model: str | None = None
    """The full model to name when a word is unknown."""
    trained_on: tuple[str, ...] | None = None
    """The classes it was trained to find, where it takes any text but was not trained on any."""
    trained_words: tuple[str, ...] = ()
    """Nouns that these classes went by in training, in lower case: "lagoon", "apartment block"."""
    code_version: int = 1
    """Raised whenever the same weights give other scores than before: tiles of another version are not used."""
    classes_apart: bool = False
    """True where the scores of a class do not depend on which others are asked: the store then keeps what it has of each.
    CLIP, which compares classes, is seen to by the pipeline."""


class Segmenter(Protocol):
    """A loaded model."""

    def segment(self, images: NDArray[np.float32], valid: NDArray[np.bool_], classes: ClassSet) -> NDArray[np.float32]:
        """Class probabilities of a batch.

        Parameters
        ----------
        images: (N, 3, H, W) float32 in [0, 1], red green blue; 0 where not valid.
        valid: (N, H, W) bool, True where the pixel was seen.
        classes: the K classes.

        Returns
        -------
        (N, K, H, W) float32 in [0, 1]; what it holds where `valid` is False is not used.
        """
        ...


class Provider(Protocol):
    """A model that can be described at once and loaded when needed."""

    @property
    def description(self) -> str:
        """One line for a list; says itself without reading weights."""
        ...

    def info(self) -> ModelInfo:
        """Facts about the model; must not import torch. May fetch the weights, if the model has a place to fetch them from."""
        ...

    def load(self, options: ModelOptions, threads: int | None) -> Segmenter:
        """The model, ready to run. Slow.

        Parameters
        ----------
        options: device (`cpu`, `cuda`, `cuda:1`, … or `auto`, a GPU where there is one), precision, scoring, refinements.
        threads: CPU threads the model may use; None leaves the library's choice.
        """
        ...


def known_models() -> dict[str, EntryPoint]:
    """Installed models by name, not yet imported."""
    return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


def describe_models() -> dict[str, str]:
    """One line about each installed model; no weights are looked for."""
    return {name: entry.load()(None).description for name, entry in known_models().items()}


def model_kind(model: str) -> str:
    """The installed name of what `--model` names: itself, or for a folder of weights the model that its config.json is of."""
    folder = Path(model)
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return model  # not a folder of weights: `find_provider` says what is wrong with it
    names = {entry.value: name for name, entry in known_models().items()}
    other = {entry.name: entry.value for entry in entry_points(group=TYPES_GROUP)}
    return names.get(other.get(kind, ""), str(kind))


def find_provider(model: str) -> Provider:
    """The provider for `--model`.

    Parameters
    ----------
    model: an installed model's name, a folder of weights, or `package.module:callable`.

    Raises
    ------
    SegmenterError: nothing of that name, or a folder that is not a model's.
    """
    if Path(model).is_dir():
        return _from_folder(Path(model).resolve())
    if ":" in model:
        return _from_callable(model)
    names = known_models()
    if model not in names:
        choice = f"an installed model ({', '.join(names)}), a folder, or package.module:callable"
        raise SegmenterError(choice, f"--model {model!r}", "See `rs-seg models list`.")
    return _provider(names[model].load(), None, model)


def _from_folder(folder: Path) -> Provider:
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmenterError(
            "a model folder with a config.json that has a model_type", f"{folder} ({error})", "Point --model at such a folder."
        ) from error
    kinds = known_models() | {e.name: e for e in entry_points(group=TYPES_GROUP)}
    if kind not in kinds:
        raise SegmenterError(f"a model_type of {', '.join(kinds)}", f"{kind!r} in {config}", "Install the package that runs it.")
    return _provider(kinds[kind].load(), folder, str(folder))


def _from_callable(spec: str) -> Provider:
    module, _, name = spec.partition(":")
    try:
        factory = getattr(import_module(module), name)
    except Exception as error:
        raise _not_a_model(spec, error) from error
    return _provider(factory, None, spec)


def _provider(factory: Callable[[Path | None], Any], folder: Path | None, spec: str) -> Provider:
    """Call a factory, whoever wrote it, and see that a model comes out that can say what it is."""
    try:
        provider: Provider = factory(folder)
        info = provider.info()
    except RsSegError:
        raise
    except Exception as error:
        raise _not_a_model(spec, error) from error
    if not isinstance(info, ModelInfo):
        raise _not_a_model(spec, TypeError(f"info() gave {type(info).__name__}"))
    return provider


def _not_a_model(spec: str, error: Exception) -> SegmenterError:
    came = f"--model {spec!r} ({type(error).__name__}: {' '.join(str(error).split())})"
    return SegmenterError("package.module:callable that gives a model", came, "Check the spelling and the install.")


def check_vocabulary(info: ModelInfo, classes: ClassSet) -> None:
    """Refuse words that the model does not know.

    Raises
    ------
    SegmenterError: names the words, what the model knows, and the fuller model.
    """
    if info.vocabulary is None:
        return
    known = set(info.vocabulary)
    unknown = sorted({w for c in classes for p in c.prompts for w in p.lower().split() if w not in known})
    if unknown:
        fuller = f" The full model, {info.fuller_model}, takes any text." if info.fuller_model else ""
        knows = f"words that {info.name} knows ({', '.join(sorted(known))})"
        raise SegmenterError(knows, ", ".join(repr(w) for w in unknown), f"Choose among them.{fuller}")


def check_refinements(info: ModelInfo, steps: tuple[str, ...]) -> None:
    """Refuse refinements that the model cannot do: they would be left out in silence.

    Raises
    ------
    SegmenterError: names the steps.
    """
    unknown = [step for step in steps if step not in info.refinements]
    if unknown:
        can = ", ".join(info.refinements) or "none"
        raise SegmenterError(f"refinements that {info.name} can do ({can})", ", ".join(unknown), "Use --refine none.")
