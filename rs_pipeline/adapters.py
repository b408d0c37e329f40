"""What an adapter file says of itself, read without the model: a safetensors file whose header names base, classes and settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import SegmenterError
from rs_pipeline.options import AdapterFile, Count, Positive, Section

Learned = Literal["fixed", "learnable"]

KIND = "rs-seg adapter"
FORMAT = 1
"""Raised whenever older files mean something else."""
_FIX = "Point --adapter at a file that `rs-seg adapt` wrote."


class TrainSettings(Section):
    """What of the model itself is trained."""

    low_rank: Annotated[int, Field(ge=0)]
    low_rank_scale: Positive
    neck: bool


class AlignmentSettings(Section):
    """A module in which image tokens ask the text: SSA-lite or decoder alignment."""

    use: bool
    temperature: Learned
    gate: Learned
    start: Positive


class CrossModalSettings(Section):
    """CMA."""

    use: bool
    top_tokens: Count
    start: Positive
    learning_rate: Positive


class FeedbackSettings(Section):
    """Feedback module."""

    use: bool
    hidden: Count


class AlignSettings(Section):
    """The alignment modules."""

    encoder: AlignmentSettings
    decoder: AlignmentSettings
    cross_modal: CrossModalSettings
    feedback: FeedbackSettings


class AdapterShape(Section):
    """What of the settings says which tensors an adapter has, and how they are put on a model; the rest is history."""

    train: TrainSettings
    align: AlignSettings


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """The header of an adapter."""

    path: Path
    model: str
    base_sha256: str
    """Digest of the weights it was made for."""
    classes: dict[str, tuple[str, ...]]
    """Prompts of each class it was made for."""
    settings: dict[str, Any]
    shape: AdapterShape
    data_sha256: str
    """Digest of the tiles it learned from."""
    history: dict[str, Any]
    """Steps, consistency before and after."""


def read_facts(path: Path) -> AdapterFacts:
    """The header of an adapter.

    Raises
    ------
    SegmenterError: no such file, or one that is none.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get("rs-seg")
        facts: dict[str, Any] = json.loads(header or "{}")
        _check_format(facts)
        classes = {str(name): tuple(prompts) for name, prompts in facts["classes"].items()}
        settings = facts["settings"]
        shape = AdapterShape.model_validate({part: settings[part] for part in AdapterShape.model_fields})
        made_for = facts["model"], facts["base_sha256"], classes
        return AdapterFacts(path, *made_for, settings, shape, facts["data_sha256"], facts["history"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SegmenterError("an adapter file", f"{path} ({reason})", _FIX) from error


def _check_format(facts: dict[str, Any]) -> None:
    if (facts.get("kind"), facts.get("format")) != (KIND, FORMAT):
        raise ValueError(f"no adapter of format {FORMAT}")


def adapter_file(path: str | Path) -> AdapterFile:
    """An adapter as a model is told of it: where it is, and the digest of what it holds.

    Raises
    ------
    SegmenterError: no such file.
    """
    try:
        with Path(path).open("rb") as file:
            return AdapterFile(path=str(Path(path).absolute()), sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise SegmenterError("an adapter file", f"{path} ({error})", _FIX) from error


def check_adapter(facts: AdapterFacts, base_sha256: str, classes: ClassSet) -> None:
    """Refuse an adapter for another model, or for other classes: it would do harm in silence.

    Raises
    ------
    SegmenterError: says which.
    """
    check_base(facts, base_sha256)
    strange = [c.name for c in classes if c.prompts != facts.classes.get(c.name)]
    if strange:
        known = ", ".join(facts.classes)
        came = f"{', '.join(strange)}, which it was not made for, or by other words"
        raise SegmenterError(f"classes that {facts.path.name} was made for ({known})", came, "Ask for those, or adapt to these.")


def check_base(facts: AdapterFacts, base_sha256: str) -> None:
    """Refuse an adapter for other weights.

    Raises
    ------
    SegmenterError: says which.
    """
    if facts.base_sha256 != base_sha256:
        expected = f"an adapter for the weights {base_sha256[:12]}…"
        came = f"{facts.path}, made for {facts.model} {facts.base_sha256[:12]}…"
        raise SegmenterError(expected, came, "Adapt this model, or give --model the one it was made for.")


def describe_adapter(facts: AdapterFacts, sha256: str) -> dict[str, Any]:
    """For a run's manifest, JSON-ready."""
    return {"path": str(facts.path), "sha256": sha256, "classes": list(facts.classes), "data_sha256": facts.data_sha256, **facts.history}
