"""What a worker must know to compute a tile of a run: small, JSON, read from the store's folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import StoreError
from rs_pipeline.grid import Grid
from rs_pipeline.options import ModelOptions
from rs_pipeline.radiometry import Stretch
from rs_pipeline.raster import RasterInfo, describe
from rs_pipeline.tiles import TilePlan

MAX_SCENES = 254
"""Scenes of one run: their index is a byte of every pixel, and 255 is none."""


@dataclass(frozen=True, slots=True)
class SceneJob:
    """One scene, ready to be read."""

    id: str
    datetime: str | None
    info: RasterInfo
    bands: tuple[int, int, int]
    opaque: float | None
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides what the tiles of a run hold, and where they go."""

    store: Path
    plan: TilePlan
    scenes: tuple[SceneJob, ...]
    """On top first."""
    classes: ClassSet
    model: str
    weights_sha256: str
    options: ModelOptions
    threads: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        plan = self.plan
        return {
            "plan": {
                "grid": plan.grid.to_dict(),
                "tile_px": plan.tile_px,
                "overlap_px": plan.overlap_px,
                "aoi": shapely.to_wkt(plan.aoi, rounding_precision=-1) if plan.aoi is not None else None,
            },
            "scenes": [
                {
                    "id": s.id,
                    "datetime": s.datetime,
                    "href": s.info.href,
                    "fingerprint": s.info.fingerprint,
                    "nodata": s.info.nodata,
                    "bands": list(s.bands),
                    "opaque": s.opaque,
                    "low": list(s.stretch.low),
                    "high": list(s.stretch.high),
                }
                for s in self.scenes
            ],
            "classes": self.classes.to_list(),
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "options": self.options.model_dump(mode="json"),
            "threads": self.threads,
        }

    def save(self) -> Path:
        """Write the job into its store's folder, under a name of its own content.

        Raises
        ------
        StoreError: the folder cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1)
        path = self.store / f"job-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        aside = path.with_suffix(".tmp")
        try:
            aside.write_text(text)
            aside.replace(path)
        except OSError as error:
            raise StoreError("room to keep a job", f"{path} ({error})", "Free disk space and run again.") from error
        return path


def load_job(path: Path) -> Job:
    """Read a saved job. The headers of its scenes are read again, so a scene that changed shows."""
    data = json.loads(path.read_text())
    plan = data["plan"]
    aoi = shapely.from_wkt(plan["aoi"]) if plan["aoi"] is not None else None
    scenes = tuple(
        SceneJob(
            s["id"],
            s["datetime"],
            replace(describe(s["href"]), fingerprint=s["fingerprint"], nodata=s["nodata"]),
            (s["bands"][0], s["bands"][1], s["bands"][2]),
            s["opaque"],
            Stretch(tuple(s["low"]), tuple(s["high"])),
        )
        for s in data["scenes"]
    )
    return Job(
        store=path.parent,
        plan=TilePlan(Grid.from_dict(plan["grid"]), plan["tile_px"], plan["overlap_px"], aoi),
        scenes=scenes,
        classes=ClassSet.from_list(data["classes"]),
        model=data["model"],
        weights_sha256=data["weights_sha256"],
        options=ModelOptions.model_validate(data["options"]),
        threads=data["threads"],
    )
