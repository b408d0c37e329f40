"""The run folder: complete under its name, or not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rs_pipeline.errors import OutputError

MANIFEST = "run.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A finished run's `run.json`; None where the folder does not hold a run."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def check_free(folder: Path, run_key: str, *, overwrite: bool) -> dict[str, Any] | None:
    """See what is under the name a run wants.

    Returns
    -------
    The manifest of the same run where it is there, complete or with failed tiles; None where the name is free.

    Raises
    ------
    OutputError: something else is there and `overwrite` is not asked for, or the place cannot be written.
    """
    existing: dict[str, Any] | None = None
    if folder.exists():
        existing = read_manifest(folder)
        if existing is None:
            raise OutputError("a free name, or a run folder", f"{folder}, which holds something else", "Choose another --out.")
        if existing.get("run_key") != run_key:
            if not overwrite:
                fix = "Choose another --out, or say --set overwrite=true."
                raise OutputError("a free name, or a folder of this very run", f"{folder} with a run of other inputs or settings", fix)
            existing = None
    probe = _existing_parent(folder) / f".rs-seg-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OutputError("a place that can be written", f"{folder.parent} ({error})", "Choose another --out.") from error
    return existing


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse a run that the disk cannot hold.

    Raises
    ------
    OutputError: with both figures.
    """
    free = shutil.disk_usage(_existing_parent(folder)).free
    if free < needed_bytes:
        raise OutputError(
            f"{needed_bytes / 1e9:.1f} GB of free disk", f"{free / 1e9:.1f} GB at {folder.parent}", "Free some, or choose another --out."
        )


@contextmanager
def staged(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its name when the block ends well, and goes away when it does not.

    What was under the name before is kept until the new one is whole.

    Raises
    ------
    OutputError: the folder cannot be written, or something took its name meanwhile and `replace` is False.
    """
    for leftover in folder.parent.glob(f".{folder.name}.part-*"):
        _remove_if_abandoned(leftover)
    aside = _aside(folder)
    try:
        aside.mkdir(parents=True)
        with _held(aside):
            yield aside
            _sync(aside)
            _swap(aside, folder, replace=replace)
    except OSError as error:
        raise OutputError("a run folder that can be written", f"{folder} ({error})", "Free disk space, or choose another --out.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Mark a folder as in use by this process; the system lifts the mark when the process ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError), _held(folder):
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `run.json`."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.part-{os.getpid()}"


def _existing_parent(path: Path) -> Path:
    return next(p for p in path.absolute().parents if p.exists())


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(new: Path, folder: Path, *, replace: bool) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    if not replace:
        raise OutputError("a name that stays free during the run", f"{folder}, which appeared meanwhile", "Choose another --out.")
    old = folder.parent / f".{folder.name}.part-old-{os.getpid()}"
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
