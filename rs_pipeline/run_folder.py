"""A finished run, read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyproj.exceptions import CRSError

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.products import MANIFEST, read_manifest

_READ_BACK = ("labels.tif", "scores.tif", "layers.gpkg", MANIFEST)
_FACTS = ("run_key", "finished", "status", "model", "scenes", "classes", "plan")
"""What readers of a run want to know."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run is and what its `run.json` says."""

    path: Path
    manifest: dict[str, Any]
    classes: ClassSet
    grid: Grid
    dates: list[str]
    """ISO 8601 dates and times of its scenes, earliest first; scenes without one are left out."""


def read_run(folder: Path) -> RunFolder:
    """The run in a folder.

    Raises
    ------
    OutputError: the folder holds no finished run.
    """
    path = folder.absolute()
    missing = [name for name in _READ_BACK if not (path / name).is_file()]
    if missing:
        raise OutputError("the folder of a finished run", f"{folder} without {missing[0]}", "Check the path; `rs-seg status` lists runs.")
    manifest = read_manifest(path) or {}
    lacking = [key for key in _FACTS if key not in manifest]
    if lacking:
        raise _damaged(path, f"without {', '.join(lacking)}")
    try:
        dates = sorted(scene["datetime"] for scene in manifest["scenes"] if scene["datetime"])
        return RunFolder(path, manifest, ClassSet.from_list(manifest["classes"]), Grid.from_dict(manifest["plan"]["grid"]), dates)
    except (LookupError, TypeError, ValueError, CRSError) as error:
        raise _damaged(path, f"({type(error).__name__}: {error})") from error


def _damaged(path: Path, came: str) -> OutputError:
    fix = "It is damaged: run again with --set overwrite=true."
    return OutputError("a run.json as a run leaves it", f"{path / MANIFEST} {came}", fix)
