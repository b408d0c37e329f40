"""What names the tiles of a run, and the run: digests of everything that decides what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rs_pipeline.classes import ClassSet
from rs_pipeline.job import SceneJob
from rs_pipeline.options import ModelOptions, RefineSettings, ScoringSettings, Section
from rs_pipeline.segmenter import ModelInfo
from rs_pipeline.tiles import TilePlan

TILE_FORMAT = 2
"""Raised whenever the same inputs would give other tiles than before."""
PRODUCT_FORMAT = 2
"""Raised whenever the same tiles would give other products than before."""


def base_key(plan: TilePlan, scenes: Sequence[SceneJob], classes: ClassSet, info: ModelInfo, options: ModelOptions) -> str:
    """Digest of all that decides a class's scores beside its prompts; where the classes look at each other, of all their prompts too."""
    apart = info.classes_apart and "clip" not in options.refine.active
    return digest(
        {
            "format": TILE_FORMAT,
            "plan": plan.digest,
            "scenes": [[s.info.key(), s.bands, s.opaque, s.stretch.low, s.stretch.high] for s in scenes],
            "prompts": None if apart else [c.prompts for c in classes],
            "model": [info.name, info.weights_sha256, info.code_version],
            # What auto means depends on the device.
            "dtype": [options.dtype, options.device] if options.dtype == "auto" else options.dtype,
            "scoring": _scoring_facts(options.scoring),
            **refine_facts(options.refine),
            **adapter_facts(options),
        }
    )


def refine_facts(refine: RefineSettings) -> dict[str, Any]:
    """What of the refinements decides scores, JSON-ready."""
    return {
        "refine": [[step, _step_facts(getattr(refine, step))] for step in refine.active],
        "look": refine.look.model_dump() if refine.is_guided else None,
    }


def _scoring_facts(scoring: ScoringSettings) -> dict[str, Any]:
    """What is not asked for is left out, so that a setting more is no other tile."""
    return scoring.model_dump(mode="json", exclude={"threshold", "feedback"} | (set() if scoring.apart else {"apart"}))


def adapter_facts(options: ModelOptions) -> dict[str, Any]:
    """What of an adapter decides scores, JSON-ready; nothing where there is none, so that runs without one keep their keys."""
    return {"adapter": [options.adapter.sha256, options.scoring.feedback]} if options.adapter is not None else {}


def digest(facts: dict[str, Any]) -> str:
    """SHA-256 of JSON-ready facts, hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _step_facts(step: Section) -> dict[str, Any]:
    """Settings of a refinement; files that they name count by what is in them."""
    facts = step.model_dump(mode="json")
    return {key: _file_digest(value) if isinstance(value, str) and Path(value).is_file() else value for key, value in facts.items()}


def _file_digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
