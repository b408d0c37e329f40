"""What `rs-seg adapt` can be told: a YAML file of `configs/adapt/`, validated.

Plain frozen settings, known to the pipeline so that a wrong one fails before anything is computed. Weights, ranks and starts are those
of METHODS.md sections 3 and 4 unless a table of the model card says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rs_pipeline.adapters import AdapterShape
from rs_pipeline.config import bad_value, configs_folder, overlay, parse_set, read_yaml
from rs_pipeline.errors import ConfigError
from rs_pipeline.options import Count, NotNegative, Positive, Section, Share
from rs_pipeline.segmenter import model_kind


class ConsistencySettings(Section):
    """L_seg."""

    weight: NotNegative
    sure: Annotated[float, Field(gt=0.5, lt=1)]


class ImportanceSettings(Section):
    """L_attn."""

    weight: NotNegative
    form: Literal["kl", "topk", "rank", "l1"]
    top_share: Annotated[float, Field(gt=0, lt=1)]
    layers: Count


class ContrastSettings(Section):
    """L_contrast."""

    weight: NotNegative
    masks: Count
    patches: Annotated[int, Field(ge=2)]
    temperature: Positive


class BoundarySettings(Section):
    """L_boundary."""

    weight: NotNegative


class DistillSettings(Section):
    """L_distill."""

    weight: NotNegative


class TextImageSettings(Section):
    """TMC."""

    weight: NotNegative


class LossSettings(Section):
    """The losses and their weights; 0 is off."""

    consistency: ConsistencySettings
    importance: ImportanceSettings
    contrast: ContrastSettings
    boundary: BoundarySettings
    distill: DistillSettings
    text_image: TextImageSettings

    @model_validator(mode="after")
    def _something_is_minimised(self) -> Self:
        if not self.active:
            raise ValueError("at least one loss of a weight above 0")
        return self

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the losses that count."""
        return tuple(name for name in type(self).model_fields if getattr(self, name).weight > 0)


class AdaptSettings(AdapterShape):
    """`configs/adapt/default.yaml` says what each means."""

    seed: Annotated[int, Field(ge=0)]
    steps: Count | None
    batch: Count
    crop_px: Annotated[int, Field(ge=64)] | None
    learning_rate: Positive
    added_learning_rate: Positive
    weight_decay: NotNegative
    clip_norm: Positive
    warmup: Share
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "float32", "bfloat16"]
    checkpointing: bool
    tiles: Annotated[int, Field(ge=2)]
    held_out: Annotated[float, Field(gt=0, lt=1)]
    seen_share: Share
    check_every: Count
    patience: Count
    losses: LossSettings

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        a = self.align
        if not (self.train.low_rank or self.train.neck or a.encoder.use or a.decoder.use or a.cross_modal.use or a.feedback.use):
            raise ValueError("something to train: train.low_rank, train.neck or a module of align")
        return self

    @model_validator(mode="after")
    def _what_is_trained_hears_of_a_loss(self) -> Self:
        a = self.align
        if a.decoder.use and not self.losses.consistency.weight:
            raise ValueError("losses.consistency, the one loss that align.decoder can lower, or align.decoder.use false")
        return self


def default_config(model: str) -> str:
    """Name of the settings that fit a model, a name or folder of weights: the file of `configs/adapt/` that is called like it."""
    kind = model_kind(model)
    return kind if (configs_folder() / "adapt" / f"{kind}.yaml").is_file() else "default"


def load_adapt_settings(config: str | Path = "default", sets: Iterable[str] = (), rows: Iterable[Mapping[str, Any]] = ()) -> AdaptSettings:
    """Settings of an adaptation.

    Parameters
    ----------
    config: name of a file in `configs/adapt/`, or a path; what it leaves out is as in `default.yaml`.
    sets: `key=value` texts, laid over it.
    rows: mappings laid over it after those, as an ablation has them.

    Raises
    ------
    ConfigError: an unknown key (named with the nearest one that exists), or a bad value.
    """
    folder = configs_folder() / "adapt"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    name = str(config)
    if name not in known and not name.endswith((".yaml", ".yml")):
        raise ConfigError(f"adaptation settings ({', '.join(known)}) or a YAML file", repr(name), "Choose one with --config.")
    merged = read_yaml(known["default"])
    overlay(merged, read_yaml(known.get(name, Path(name))), name)
    for text in sets:
        overlay(merged, parse_set(text), f"--set {text}")
    for row in rows:
        overlay(merged, row, "a row of the table")
    try:
        return AdaptSettings.model_validate(merged)
    except ValidationError as error:
        raise bad_value(error, "the adaptation's settings", "See configs/adapt/default.yaml for what it means.") from error
