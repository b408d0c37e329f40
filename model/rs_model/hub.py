"""Where SAM 3's weights are: a folder of the user's, or fetched from the hub once. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rs_pipeline.errors import SegmenterError

REPOSITORY = "facebook/sam3"
_FILES = ("*.json", "merges.txt", "*.safetensors")
_SHA256_HEX = 64


def fetch_sam3() -> Path:
    """The folder of `facebook/sam3` in the hub's cache, fetched first (3.4 GB) where it is not there yet.

    Raises
    ------
    SegmenterError: no login, no right to these weights, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    own = "or bring a folder that has them: --model FOLDER"
    try:
        folder = Path(snapshot_download(REPOSITORY, allow_patterns=list(_FILES), local_files_only=True))
        _check_whole(folder)
    except (OSError, SegmenterError):
        pass  # not in the cache yet, or only a part of it
    else:
        return folder
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=list(_FILES)))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        fix = f"Accept the licence at huggingface.co/{REPOSITORY} and log in with `hf auth login`, {own}."
        raise SegmenterError(f"a login that may fetch the weights of {REPOSITORY}", "none", fix) from error
    except Exception as error:  # whatever the network library calls it
        came = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise SegmenterError(f"the weights of {REPOSITORY} in the cache, or a network to fetch them", came, f"Connect, {own}.") from error


def _check_whole(folder: Path) -> None:
    """Raises SegmenterError where a part of the model is missing, as after a download that was cut off."""
    read_sam3_config(folder)
    index = folder / "model.safetensors.index.json"
    parts = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = [part for part in sorted(parts) if not (folder / part).is_file()]
    if missing:
        raise SegmenterError("all parts of the weights", f"{folder} without {missing[0]}", "Fetch it again.")


def read_sam3_config(folder: Path) -> dict[str, Any]:
    """The image model's part of config.json: a folder may hold it alone, or SAM 3 with its video tracker.

    Raises
    ------
    SegmenterError: no safetensors, no tokenizer, or a config.json that is not SAM 3's.
    """
    fix = "Use a folder in transformers' format, as `save_pretrained` writes it."
    try:
        config = json.loads((folder / "config.json").read_text())
        config = config.get("detector_config", config)
        side = config["vision_config"]["backbone_config"].get("image_size", 1008)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegmenterError("a config.json of SAM 3 in the weights folder", f"{folder} ({error!r})", fix) from error
    if not isinstance(side, int):
        raise SegmenterError("SAM 3 with a square image_size", f"{side} in {folder / 'config.json'}", fix)
    if not list(folder.glob("*.safetensors")):
        others = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})) or "none"
        raise SegmenterError("weights as .safetensors: no other kind is read", f"{others} in {folder}", fix)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise SegmenterError("the tokenizer (tokenizer.json) beside the weights", f"none in {folder}", "Copy it from the same model.")
    return dict(config)


def sam3_digest(folder: Path) -> str:
    """sha256 over the names and contents of configuration, tokenizer and weights, hexadecimal."""
    files = sorted(p for pattern in _FILES for p in folder.glob(pattern))
    text = json.dumps([[p.name, _file_digest(p.resolve(), p.stat().st_size, p.stat().st_mtime_ns)] for p in files])
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=64)
def _file_digest(path: Path, _size: int, _changed: int) -> str:
    """Read once per process and version of the file; the hub's cache names large files by their sha256 already."""
    if path.parent.name == "blobs" and len(path.name) == _SHA256_HEX:
        return path.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
