"""A comparison, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyogrio
from pyogrio.errors import DataSourceError

from rs_pipeline.change_layers import COVERAGE_LAYER, change_layer
from rs_pipeline.errors import OutputError
from rs_pipeline.geopackage import plain_path

PRODUCT = "rs-seg changes"
SUMMARY = "changes.json"
LAYERS = "changes.gpkg"
_KEYS = frozenset(
    {"key", "a", "b", "rules", "grid", "compared_m2", "observed_in_a_only_m2", "observed_in_b_only_m2", "classes", "transitions", "notes"}
)


def read_changes(folder: Path) -> dict[str, Any] | None:
    """The content of a comparison's `changes.json`; None where there is nothing of the name.

    Raises
    ------
    OutputError: something else is there.
    """
    if not folder.exists():
        return None
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _something_else(folder) from error
    if not isinstance(found, dict) or found.get("product") != PRODUCT or not found.keys() >= _KEYS:
        raise _something_else(folder)
    return found


def has_layers(folder: Path, names: Iterable[str], size: int = 0) -> bool:
    """Whether the layers of a comparison of these classes can be read, from a file of at least `size` bytes."""
    expected = {COVERAGE_LAYER, *(change_layer(name, change) for name in names for change in ("gained", "lost"))}
    try:
        with plain_path(folder / LAYERS) as path:
            return path.stat().st_size >= size and expected <= {layer for layer, _ in pyogrio.list_layers(path)}
    except (DataSourceError, OSError):
        return False


def _something_else(folder: Path) -> OutputError:
    fix = "Choose another --out, or remove it."
    return OutputError("a free name, or the folder of a comparison", f"{folder}, which holds something else", fix)
