"""The adapter file: tensors, and a header that says what they are for (`rs_pipeline.adapters` reads it without PyTorch)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rs_model.adapt.adapter import put_on
from rs_model.adapt.alignment import Alignment
from rs_model.adapt.parts import Model
from rs_pipeline.adapters import FORMAT, KIND, adapter_file, check_base, read_facts
from rs_pipeline.errors import OutputError, SegmenterError
from rs_pipeline.options import AdapterFile


def write_adapter(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Written aside, then put under its name.

    Parameters
    ----------
    facts: model, base_sha256, classes, settings, data_sha256, history.

    Raises
    ------
    OutputError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    header = {"rs-seg": json.dumps({"kind": KIND, "format": FORMAT, **facts}, sort_keys=True)}
    try:
        save_file(dict(tensors), aside, header)
        aside.chmod(0o644)  # safetensors makes it readable by its owner alone
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise OutputError("a place for the adapter", f"{path} ({error})", "Check permissions and disk space.") from error


def wear(model: Model, told: AdapterFile, base_sha256: str, *, feedback: bool) -> Alignment:
    """Puts an adapter on a loaded model.

    Parameters
    ----------
    told: the file, and the digest it had when the run was planned.
    base_sha256: of the model's weights.

    Raises
    ------
    SegmenterError: the file is not what it was, or none, or for other weights.
    """
    path = Path(told.path)
    if adapter_file(path).sha256 != told.sha256:
        fix = "Run again, and leave adapters of running jobs alone."
        raise SegmenterError(f"the adapter that the run was planned with ({told.sha256[:12]}…)", f"another one at {path}", fix)
    facts = read_facts(path)
    check_base(facts, base_sha256)
    return put_on(model, facts.shape, load_file(path), feedback=feedback)
