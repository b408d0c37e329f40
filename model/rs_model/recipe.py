"""The training recipe: a YAML file, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rs_pipeline.config import bad_value, read_yaml
from rs_pipeline.errors import ConfigError

SOURCES = ("dubai", "banepa", "chesapeake", "spectral", "demo")

PhaseName = Literal["dense", "prompted", "instances", "words"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
"""In their order."""

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Mix(BaseModel):
    """One source of crops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Annotated[float, Field(ge=0)]
    """Share of the crops, relative to the other sources; 0 leaves the source unread."""
    zoom: tuple[Positive, Positive]
    """Least and greatest output pixels per image pixel."""
    tiles: tuple[int, ...] | None = None
    """Of Dubai: these in the place of those that train rs-tiny, for models that ablations start from."""


class TextPhase(BaseModel):
    """The text encoder alone, on phrases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    phrases: Count
    learning_rate: Positive


class ImagePhase(BaseModel):
    """Steps on crops, with a cycle of the learning rate of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    crops: Count
    crop_px: Annotated[int, Field(ge=64, multiple_of=32)]
    learning_rate: Positive
    warmup: Share


class Recipe(BaseModel):
    """`configs/train/rs-tiny.yaml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["rs-tiny"]
    seed: int
    threads: Count
    precision: Literal["bfloat16", "float32"]
    backbone: str
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    ema_decay: Share
    checkpoint_every: Count
    text: TextPhase
    dense: ImagePhase
    prompted: ImagePhase
    instances: ImagePhase
    words: ImagePhase
    presence_weight: Annotated[float, Field(ge=0)]
    instance_weight: Annotated[float, Field(ge=0)]
    demo_scenes: Count
    demo_px: Count
    gsd_m: Positive
    gsd_range_m: tuple[Positive, Positive]
    tile_px: Annotated[int, Field(ge=64, multiple_of=32)]
    mix: dict[str, Mix]

    def phase(self, name: PhaseName) -> ImagePhase:
        """By its name."""
        phase: ImagePhase = getattr(self, name)
        return phase


def read_recipe(path: Path, steps: int | None) -> Recipe:
    """The recipe in a file; with `steps`, no phase is longer than that.

    Raises
    ------
    ConfigError: no such file, an unknown or missing key, a bad value, or no source with a weight.
    """
    try:
        recipe = Recipe.model_validate(dict(read_yaml(path)))
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/train/rs-tiny.yaml.") from error
    unknown = sorted(set(recipe.mix) - set(SOURCES))
    if unknown or not any(m.weight for m in recipe.mix.values()):
        raise ConfigError(f"mix: weights of {', '.join(SOURCES)}, one above 0", ", ".join(unknown) or "no weight", f"Mend {path}.")
    return recipe if steps is None else _shortened(recipe, steps)


def _shortened(recipe: Recipe, steps: int) -> Recipe:
    if steps < 1:
        raise ConfigError("steps of at least 1", str(steps), "Leave --steps out for those of the recipe.")
    names = ("text", *PHASES)
    return recipe.model_copy(update={n: p.model_copy(update={"steps": min(p.steps, steps)}) for n in names if (p := getattr(recipe, n))})
