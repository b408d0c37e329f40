"""What a worker must know to compute a tile of a run: small, JSON, read from the store."""

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
from rs_pipeline.places import Place, open_place
from rs_pipeline.radiometry import Stretch
from rs_pipeline.raster import RasterInfo, describe
from rs_pipeline.tiles import TilePlan

JobPath = str | Path
"""Where a job is saved: path or URL."""
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
    item_href: str | None = None
    """Path or URL of its STAC item, for the run's manifest: tiles do not depend on it, and workers are not told."""
    licence: str | None = None
    """SPDX identifier, for the manifest, too."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides what the tiles of a run hold, and where they go."""

    base: Place
    """Where the tiles of all jobs go that differ from this one in their prompts alone."""
    plan: TilePlan
    scenes: tuple[SceneJob, ...]
    """On top first."""
    classes: ClassSet
    model: str
    weights_sha256: str
    code_version: int
    """Of the model; see `ModelInfo`."""
    options: ModelOptions
    threads: int | None

    @property
    def group(self) -> str:
        """Name of these prompts, in their order."""
        prompts = json.dumps([c.prompts for c in self.classes])
        return hashlib.sha256(prompts.encode()).hexdigest()[:16]

    @property
    def store(self) -> Place:
        """Where the tiles of this job go."""
        return self.base.at(self.group)

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
            "code_version": self.code_version,
            "options": self.options.model_dump(mode="json"),
            "threads": self.threads,
        }

    def save(self) -> str:
        """Write the job into its store, under a name of its own content.

        Returns
        -------
        Path or URL.

        Raises
        ------
        StoreError: the store cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1)
        name = f"job-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        self.store.write(name, text.encode())
        return f"{self.store.where}/{name}"


def store_of(path: JobPath) -> Place:
    """The store that a saved job is in, which is where its tiles go.

    Raises
    ------
    StoreError: a URL that nothing installed can read.
    """
    return open_place(str(path).rpartition("/")[0])


def load_job(path: JobPath) -> Job:
    """Read a saved job. The headers of its scenes are read again, so a scene that changed shows.

    Raises
    ------
    StoreError: no such job, seen from here.
    RasterError: a scene cannot be opened.
    """
    store, name = store_of(path), str(path).rpartition("/")[2]
    text = store.read(name)
    if text is None:
        raise StoreError("a job that this worker can read", f"nothing at {path}", "Use a store that every worker reaches: --set store=URL.")
    data = json.loads(text)
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
        base=store_of(store.where),
        plan=TilePlan(Grid.from_dict(plan["grid"]), plan["tile_px"], plan["overlap_px"], aoi),
        scenes=scenes,
        classes=ClassSet.from_list(data["classes"]),
        model=data["model"],
        weights_sha256=data["weights_sha256"],
        code_version=data["code_version"],
        options=ModelOptions.model_validate(data["options"]),
        threads=data["threads"],
    )
