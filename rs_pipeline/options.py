"""What a model can be told: precision, how scores are made, and the refinements of METHODS.md sections 1 and 2.

Plain frozen settings, known to the pipeline so that a wrong one fails before anything is computed, and to any model that
cares. Strength 0 is always the identity, bit for bit.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(ge=0.25, le=4)]
EachOnce = AfterValidator(lambda names: tuple(sorted(set(names))))
"""For names whose order decides nothing, so that the key of a run does not hang on it."""

TokenPlace = Literal["backbone", "encoder"]
"""Tokens of the image, once for all prompts; or tokens of image and prompt, after the DETR encoder."""
Step = Literal["smooth", "lowpass", "laplacian", "reweight", "presence_gate", "query_gate", "prune", "clip"]

GUIDED: tuple[Step, ...] = ("reweight", "presence_gate", "query_gate", "prune")
"""Steps that look at the decoder's attention first."""


class Section(BaseModel):
    """Settings that do not change once read, and that refuse keys nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class SmoothSettings(Section):
    """Token smoothing by a 3 x 3 mean."""

    at: TokenPlace
    strength: NotNegative


class LowpassSettings(Section):
    """Frequency low-pass over the token grid."""

    at: TokenPlace
    strength: Share
    radius: Positive


class LaplacianSettings(Section):
    """Graph Laplacian over the 8 neighbours of each token."""

    at: TokenPlace
    strength: NotNegative
    temperature: Positive
    solver: Literal["cg", "sparse"]
    steps: Count


class LookSettings(Section):
    """What the guided steps make of the decoder's attention: how much each token was looked at."""

    pooling: Literal["score", "mean", "max", "entropy"]
    layers: Count


class ReweightSettings(Section):
    """Attention patch reweighting."""

    strength: NotNegative


class PresenceGateSettings(Section):
    """Presence gate."""

    strength: Share
    by: Literal["presence", "position"]


class QueryGateSettings(Section):
    """Query-guided reweighting: a strength of its own for each token."""

    strength: NotNegative
    by: Literal["attention", "mlp"]
    weights: str | None

    @model_validator(mode="after")
    def _an_mlp_has_weights(self) -> Self:
        if (self.by == "mlp") != (self.weights is not None):
            raise ValueError("by: mlp needs weights, a .safetensors file of the trained gate; by: attention has none")
        return self


class PruneSettings(Section):
    """Two-pass pruning: `strength` is the share of tokens that the second pass does not look at."""

    strength: Annotated[float, Field(ge=0, lt=1)]


class ClipSettings(Section):
    """CLIP constraint."""

    strength: Share
    model: str
    pretrained: str | None
    image_px: Count
    attention: Literal["maskclip", "sclip", "clearclip"]
    fusion: Literal["loglinear", "proxy"]
    gate: bool
    scale: Positive
    contrast: tuple[str, ...]


class RefineSettings(Section):
    """The refinements and their order; only those among `steps` are done."""

    preset: str
    steps: tuple[Step, ...]
    smooth: SmoothSettings
    lowpass: LowpassSettings
    laplacian: LaplacianSettings
    look: LookSettings
    reweight: ReweightSettings
    presence_gate: PresenceGateSettings
    query_gate: QueryGateSettings
    prune: PruneSettings
    clip: ClipSettings

    @model_validator(mode="after")
    def _each_step_once(self) -> Self:
        if len(set(self.steps)) != len(self.steps):
            raise ValueError(f"each step once, got {', '.join(self.steps)}")
        return self

    @property
    def active(self) -> tuple[Step, ...]:
        """Steps that change something: those of strength 0 are left out, not multiplied by one."""
        return tuple(step for step in self.steps if getattr(self, step).strength > 0)

    @property
    def is_guided(self) -> bool:
        """True where a step asks the decoder what it looked at."""
        return not set(self.active).isdisjoint(GUIDED)


class TtaSettings(Section):
    """Test-time augmentation: the mean of a tile's scores at several sizes and mirrored; one scale of 1 and no flips is the tile itself."""

    scales: Annotated[tuple[Scale, ...], Field(min_length=1)]
    flips: bool

    @model_validator(mode="after")
    def _each_scale_once(self) -> Self:
        if len(set(self.scales)) != len(self.scales):
            raise ValueError(f"each scale once, got {', '.join(f'{scale:g}' for scale in self.scales)}")
        return self


class AdapterFile(Section):
    """What `rs-seg adapt` made for a model."""

    path: str
    sha256: str
    """Of what the file held when the run was planned, hexadecimal."""


class ScoringSettings(Section):
    """From logits to class probabilities (METHODS.md section 0)."""

    threshold: Share | None
    presence_power: NotNegative
    absent_below: Share
    instances: bool | None
    query_threshold: Share
    top_queries: Count
    apart: Annotated[tuple[str, ...], EachOnce]
    geometry_token: bool
    calibrated: bool | None
    feedback: bool
    tta: TtaSettings


class ModelOptions(Section):
    """Everything a model is told when it is loaded."""

    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    compile: bool
    prompt_batch: Count | None
    adapter: AdapterFile | None = None
    scoring: ScoringSettings
    refine: RefineSettings
