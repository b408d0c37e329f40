"""A finished run, read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.products import MANIFEST, read_manifest

_READ_BACK = ("labels.tif", "scores.tif", "layers.gpkg")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run is and what its `run.json` says."""

    path: Path
    manifest: dict[str, Any]
    classes: ClassSet
    grid: Grid

    @property
    def dates(self) -> list[str]:
        """ISO 8601 dates and times of its scenes, earliest first; scenes without one are left out."""
        return sorted(scene["datetime"] for scene in self.manifest["scenes"] if scene["datetime"])


def read_run(folder: Path) -> RunFolder:
    """The run in a folder.

    Raises
    ------
    OutputError: the folder holds no finished run.
    """
    path = folder.absolute()
    manifest = read_manifest(path)
    missing = [name for name in _READ_BACK if not (path / name).is_file()]
    if manifest is None or missing:
        came = f"{folder} without {missing[0] if missing else MANIFEST}"
        raise OutputError("the folder of a finished run", came, "Check the path; `rs-seg status` lists runs.")
    return RunFolder(path, manifest, ClassSet.from_list(manifest["classes"]), Grid.from_dict(manifest["plan"]["grid"]))
