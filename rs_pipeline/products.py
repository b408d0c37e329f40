"""The run folder: complete under its name, or not there."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rs_pipeline.errors import OutputError
from rs_pipeline.locks import hold

MANIFEST = "run.json"
REPORT = "report.html"
_KEYS = ("run_key", "finished", "status", "classes", "pixels", "tiles", "scenes", "settings", "files", "notes", "seconds")
"""Of a manifest that is not damaged."""
_SWAP_PATIENCE_S = 10.0
_PART = re.compile(r"\..+\.part-[a-z0-9_]{8}")
"""As `staged` makes it."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A finished run's `run.json`; None where the folder does not hold a run."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """True where every file that a run's manifest lists is in its folder, and none was cut short; others may add to them, as QGIS does."""
    sizes = manifest.get("bytes", {})
    files = ((folder / name, sizes.get(name, 0)) for name in manifest["files"])
    return all(path.is_file() and path.stat().st_size >= size for path, size in files)


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
    kept = folder if folder.exists() else _replaced(folder)
    if kept.exists():
        existing = read_manifest(kept)
        if not (kept / MANIFEST).is_file():
            raise OutputError("a free name, or a run folder", f"{folder}, which holds something else", "Choose another --out.")
        is_damaged = existing is None or not set(_KEYS) <= set(existing)
        if is_damaged or (existing is not None and existing["run_key"] != run_key):
            if not overwrite:
                came = f"{folder} with {'a damaged run.json' if is_damaged else 'a run of other inputs or settings'}"
                fix = "Choose another --out, or say --set overwrite=true."
                raise OutputError("a free name, or a folder of this very run", came, fix)
            existing = None
    probe = _existing_parent(folder) / f".rs-seg-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OutputError("a place that can be written", f"{folder.parent} ({error})", "Choose another --out.") from error
    return existing


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse a run that the disk cannot hold; `what` says what needs the room.

    Raises
    ------
    OutputError: with both figures.
    """
    free = shutil.disk_usage(_existing_parent(folder)).free
    if free < needed_bytes:
        needed = f"{needed_bytes / 1e9:.1f} GB of free disk for {what}"
        raise OutputError(needed, f"{free / 1e9:.1f} GB at {folder.parent}", "Free some, or choose another --out.")


def on_one_disk(first: Path, second: Path) -> bool:
    """Whether two paths, that need not be there yet, share a disk's room."""
    return _existing_parent(first).stat().st_dev == _existing_parent(second).stat().st_dev


@contextmanager
def staged(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its name when the block ends well, and goes away when it does not.

    What was under the name before is kept until the new one is whole. The name is this run's from the start.

    Raises
    ------
    OutputError: the folder cannot be written, another run writes it, or something took its name and `replace` is False.
    """
    with _as_output_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        aside = folder.parent / f"{_prefix(folder)}{secrets.token_hex(4)}"
        aside.mkdir()
    try:
        with hold(aside):
            yield aside
            with _as_output_error(folder):
                _sync(aside)
                _swap(aside, folder, replace=replace)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def leftovers(folder: Path, name: str = "*") -> list[Path]:
    """Unfinished run folders in a folder, of the run `name` or of any: being written, or left by a run that was killed."""
    found = folder.glob(f".{name if name == '*' else glob.escape(name)}.part-*")
    return sorted(path for path in found if _PART.fullmatch(path.name) and path.is_dir())


def _prefix(folder: Path) -> str:
    return f".{folder.name}.part-"


def _replaced(folder: Path) -> Path:
    """Where the run that is being replaced waits."""
    return folder.parent / f".{folder.name}.old"


def _tidy(folder: Path) -> None:
    """Undo what a killed run left: bring back the run it was replacing, remove what it had not finished."""
    for leftover in leftovers(folder.parent, folder.name):
        try:
            with hold(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError as error:
            raise OutputError("a run folder that no other run writes", f"{folder}, which one does", "Wait for it.") from error
    old = _replaced(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    _discard(old, folder)


@contextmanager
def _as_output_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError("a run folder that can be written", f"{folder} ({error})", "Free disk space, or choose another --out.") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `run.json`; OutputError where it cannot be."""
    with _as_output_error(folder):
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def sizes_of(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of files by name; those that are not there are left out."""
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def amend(folder: Path, before: dict[str, Any], after: dict[str, Any], report: str | None) -> dict[str, Any]:
    """Say something else of a finished run, and give it a report, unless another run has taken its place.

    Returns
    -------
    The content of its `run.json`.

    Raises
    ------
    OutputError: there is another run, or the folder cannot be written.
    """
    with _as_output_error(folder), hold(folder, patience_s=_SWAP_PATIENCE_S):
        now = read_manifest(folder) or {}
        if any(now.get(key) != before[key] for key in ("run_key", "finished")):
            raise OutputError("the run that was in the folder", f"another one in {folder}", "Give the command again.")
        if report is not None:
            write_whole(folder / REPORT, report)
        manifest = {**after, "bytes": sizes_of(folder, after["files"])}
        write_manifest(folder, manifest)
    return manifest


def write_whole(path: Path, text: str) -> None:
    """Write a text file, of which nobody ever sees a part; OSError where it cannot be."""
    aside = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _existing_parent(path: Path) -> Path:
    return next(p for p in path.absolute().parents if p.exists())


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(new: Path, folder: Path, *, replace: bool) -> None:
    if folder.exists():
        if not replace:
            raise OutputError("a name that stays free during the run", f"{folder}, which appeared meanwhile", "Choose another --out.")
        with hold(folder, patience_s=_SWAP_PATIENCE_S):  # nobody is changing what is said of it
            folder.rename(_replaced(folder))
    new.rename(folder)
    with _open_folder(folder.parent) as parent:
        os.fsync(parent)
    _discard(_replaced(folder), folder)


def _discard(old: Path, folder: Path) -> None:
    """Remove a run that was replaced. What was beside it in its folder, as a project file of QGIS, is somebody's, and moves on."""
    if not old.is_dir():
        return
    made = {MANIFEST, *((read_manifest(old) or {}).get("files") or ())}
    for path in old.iterdir():
        if path.name not in made and not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
