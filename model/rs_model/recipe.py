"""The training recipe: a YAML file, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rs_pipeline.config import bad_value, read_yaml
from rs_pipeline.errors import ConfigError

SOURCES = ("dubai", "banepa", "chesapeake", "demo")

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


class Recipe(BaseModel):
    """`configs/train/rs-tiny.yaml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["rs-tiny"]
    seed: int
    steps: Count
    crop_px: Annotated[int, Field(ge=64, multiple_of=32)]
    crops: Count
    learning_rate: Positive
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    ema_decay: Share
    presence_weight: Annotated[float, Field(ge=0)]
    checkpoint_every: Count
    threads: Count
    demo_scenes: Count
    demo_px: Count
    gsd_m: Positive
    gsd_range_m: tuple[Positive, Positive]
    tile_px: Annotated[int, Field(ge=64, multiple_of=32)]
    mix: dict[str, Mix]


def read_recipe(path: Path, steps: int | None) -> Recipe:
    """The recipe in a file; `steps`, where given, takes the place of its own.

    Raises
    ------
    ConfigError: no such file, an unknown or missing key, a bad value, or no source with a weight.
    """
    data = dict(read_yaml(path))
    if steps is not None:
        data["steps"] = steps
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/train/rs-tiny.yaml.") from error
    unknown = sorted(set(recipe.mix) - set(SOURCES))
    if unknown or not any(m.weight for m in recipe.mix.values()):
        raise ConfigError(f"mix: weights of {', '.join(SOURCES)}, one above 0", ", ".join(unknown) or "no weight", f"Mend {path}.")
    return recipe
