"""A weights folder: config.json (all that says what the weights mean) beside model.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rs_pipeline.errors import SegmenterError

MODEL_TYPE = "rs-tiny"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).parent / "weights" / MODEL_TYPE
"""Weights that the package carries."""
KEYS = ("model_type", "architecture", "tokenizer", "words", "gsd_m", "gsd_range_m", "tile_px", "training")


def read_weights_config(folder: Path) -> dict[str, Any]:
    """config.json of a weights folder.

    Raises
    ------
    SegmenterError: no such file, one that is not JSON, of another model, or that lacks a key.
    """
    fix = "Point --model at a folder that `rs-seg train` wrote, or leave it out."
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise SegmenterError(f"a {CONFIG} in the weights folder", f"{folder} ({error})", fix) from error
    missing = [key for key in KEYS if key not in config] if isinstance(config, dict) else list(KEYS)
    if missing or config["model_type"] != MODEL_TYPE:
        got = f"none of {', '.join(missing)}" if missing else repr(config["model_type"])
        raise SegmenterError(f"{folder / CONFIG} of an {MODEL_TYPE} model", got, fix)
    return dict(config)


def weights_digest(folder: Path) -> str:
    """sha256 over both files, hexadecimal.

    Raises
    ------
    SegmenterError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise SegmenterError(f"a {name} in the weights folder", f"{folder} ({error})", "Copy the whole folder.") from error
    return digest.hexdigest()


def write_weights(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Both files at once: written aside, then the folder takes its place."""
    from safetensors.torch import save_file

    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(dict(tensors), aside / WEIGHTS)
    (aside / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    (aside / WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner alone
    install_folder(aside, folder)


def write_calibration(folder: Path, calibration: Mapping[str, Mapping[str, float]]) -> None:
    """Puts a calibration into config.json, in place of an older one; the weights stay, their digest changes with what they mean.

    Raises
    ------
    SegmenterError: not a weights folder.
    """
    config = read_weights_config(folder) | {"calibration": {name: dict(values) for name, values in sorted(calibration.items())}}
    aside = folder / f".{CONFIG}.{os.getpid()}"
    aside.write_text(json.dumps(config, indent=1) + "\n")
    aside.replace(folder / CONFIG)


def install_folder(aside: Path, folder: Path) -> None:
    """Puts a finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
