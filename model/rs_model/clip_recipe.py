"""The recipe of the small CLIP: a YAML file, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rs_model.recipe import SOURCES, Count, Mix, Phase, Positive, Share
from rs_pipeline.config import bad_value, read_yaml
from rs_pipeline.errors import ConfigError

Size = Annotated[int, Field(ge=1)]


class Towers(BaseModel):
    """Sizes of the model; both towers are transformers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_px: Size
    width: Size
    layers: Annotated[int, Field(ge=2)]
    head_width: Size
    text_width: Size
    text_layers: Size
    text_heads: Size
    joint: Size
    """Dimensions of the space that both meet in."""

    @model_validator(mode="after")
    def _heads_fill_the_width(self) -> Self:
        if self.width % self.head_width or self.text_width % self.text_heads:
            raise ValueError("width must be a multiple of head_width, and text_width of text_heads")
        return self


class ClipRecipe(BaseModel):
    """`configs/train/rs-clip.yaml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["rs-clip"]
    seed: int
    steps: Count
    crop_px: Annotated[int, Field(ge=64)]
    crops: Count
    windows: Annotated[tuple[Count, ...], Field(min_length=1)]
    captions: Count
    attention: Literal["maskclip", "sclip", "clearclip"]
    learning_rate: Positive
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    ema_decay: Share
    most_scale: Annotated[float, Field(gt=1, le=100)]
    checkpoint_every: Count
    threads: Count
    demo_scenes: Count
    demo_px: Count
    gsd_m: Positive
    towers: Towers
    mix: dict[str, Mix]

    @property
    def phases(self) -> tuple[Phase]:
        """How crops are drawn, as a mixture asks for it: there is one phase, the whole training."""
        own = {name: getattr(self, name) for name in ("steps", "crops", "crop_px", "learning_rate", "warmup")}
        return (Phase.model_construct(lesson="dense", **own),)

    @model_validator(mode="after")
    def _windows_are_whole_patches(self) -> Self:
        patches, rest = divmod(self.crop_px, self.towers.patch_px)
        if rest or any(patches % windows for windows in self.windows):
            raise ValueError(f"patches of {self.towers.patch_px} px must fill the crop, and be shared out evenly among windows")
        return self


def read_clip_recipe(path: Path, steps: int | None) -> ClipRecipe:
    """The recipe in a file; `steps`, where given, takes the place of its own.

    Raises
    ------
    ConfigError: no such file, an unknown or missing key, a bad value, or no source with a weight.
    """
    data: dict[str, Any] = dict(read_yaml(path))
    if steps is not None:
        data["steps"] = steps
    try:
        recipe = ClipRecipe.model_validate(data)
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/train/rs-clip.yaml.") from error
    unknown = sorted(set(recipe.mix) - set(SOURCES))
    if unknown or not any(m.weight for m in recipe.mix.values()):
        raise ConfigError(f"mix: weights of {', '.join(SOURCES)}, one above 0", ", ".join(unknown) or "no weight", f"Mend {path}.")
    return recipe
