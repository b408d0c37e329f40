"""The training recipe: a YAML file, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rs_pipeline.config import bad_value, read_yaml
from rs_pipeline.errors import ConfigError

SOURCES = ("dubai", "banepa", "chesapeake", "spectral", "demo")
TAUGHT = ("dubai", "chesapeake", "spectral")
"""Sources that a teacher is heard of; not footprints, nor generated scenes, of which labels know more than it does."""

Lesson = Literal["dense", "prompted", "instances", "words", "together"]
"""What a phase teaches, and which parts learn it: `Student.learns`."""

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Mix(BaseModel):
    """One source of crops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: NotNegative
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


class Phase(BaseModel):
    """Steps on crops, with a cycle of the learning rate of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lesson: Lesson
    steps: Count
    crops: Count
    crop_px: Annotated[int, Field(ge=64, multiple_of=32)]
    learning_rate: Positive
    warmup: Share
    instance_weight: NotNegative = 0.0
    """Of the queries' loss beside that of the maps."""
    teacher_weight: NotNegative = 0.0
    """Of the loss against the maps of the model that the phase begins with; 0 has none made."""
    shares: dict[str, NotNegative] | None = None
    """Of the sources, in the place of the weights of `mix`."""
    blend: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the phase's own weights in what it ends with; the rest are those that it began with (Wortsman et al. 2022, arXiv:2109.01903)."""

    def share(self, source: str, mix: Mapping[str, Mix]) -> float:
        """Of a source in the crops, relative to the others."""
        return mix[source].weight if self.shares is None else self.shares.get(source, 0.0)

    @property
    def looks_back(self) -> bool:
        """To its end it needs the weights that it begins with."""
        return self.teacher_weight > 0 or self.blend < 1

    @model_validator(mode="after")
    def _weighs_losses_that_it_has(self) -> Self:
        if self.lesson in {"dense", "instances"} and (self.instance_weight or self.teacher_weight):
            raise ValueError(
                f"instance_weight and teacher_weight: not in a phase {self.lesson}, which has no maps of prompts to weigh them against"
            )
        return self


class Recipe(BaseModel):
    """`configs/train/rs-tiny.yaml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["rs-tiny"]
    seed: int
    threads: Count
    precision: Literal["bfloat16", "float32"]
    backbone: str
    weight_decay: NotNegative
    clip_norm: Positive
    ema_decay: Share
    checkpoint_every: Count
    text: TextPhase
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    presence_weight: NotNegative
    demo_scenes: Count
    demo_px: Count
    gsd_m: Positive
    gsd_range_m: tuple[Positive, Positive]
    tile_px: Annotated[int, Field(ge=64, multiple_of=32)]
    mix: dict[str, Mix]

    @model_validator(mode="after")
    def _phases_draw_from_what_is_read(self) -> Self:
        read = {name for name, mix in self.mix.items() if mix.weight > 0}
        for phase in self.phases:
            if phase.shares is not None and not (set(phase.shares) <= read and any(phase.shares.values())):
                raise ValueError(f"shares of a phase: sources that have a weight ({', '.join(sorted(read))}), one above 0")
            if phase.teacher_weight and not any(phase.share(name, self.mix) > 0 for name in read & set(TAUGHT)):
                raise ValueError(f"of a phase with a teacher_weight, crops of {', '.join(TAUGHT)}: of no other is a teacher heard")
        return self


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
    text = recipe.text.model_copy(update={"steps": min(recipe.text.steps, steps)})
    phases = tuple(phase.model_copy(update={"steps": min(phase.steps, steps)}) for phase in recipe.phases)
    return recipe.model_copy(update={"text": text, "phases": phases})
