"""What a run would do and cost, told without doing it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from rs_pipeline.errors import SegmenterError
from rs_pipeline.inference import OpenJob, load_segmenter
from rs_pipeline.manifest import describe_scenes
from rs_pipeline.plan import RunPlan
from rs_pipeline.store import TileStore
from rs_pipeline.workers import open_client


def describe_dry_run(plan: RunPlan) -> dict[str, Any]:
    """Scenes, grid, tiles, memory, disk and time of a planned run; JSON-ready. Loads the model and reads and times one tile.

    Raises
    ------
    RsSegError: the model does not load, or the tile cannot be read.
    """
    job = plan.job
    if plan.crew.kind not in {"in-process", "local"}:
        with open_client(plan.crew, plan.settings.workers):
            pass  # the scheduler, or the GPUs, are there
    stored = len(TileStore(job.store).done()) if job.store.is_dir() else 0
    seconds_per_tile = _time_one_tile(plan)
    left = max(plan.tiles - stored, 0)
    return {
        "scenes": describe_scenes(plan),
        "classes": job.classes.to_list(),
        "model": {"name": plan.info.name, "weights_sha256": plan.info.weights_sha256},
        "grid": job.plan.grid.to_dict(),
        "gsd_m": job.plan.grid.gsd_m,
        "tiles": {"planned": plan.tiles, "stored": stored, "tile_px": job.plan.tile_px, "overlap_px": job.plan.overlap_px},
        "workers": {"kind": plan.crew.kind, "count": plan.crew.count},
        "memory_bytes": plan.estimate.memory_bytes,
        "disk_bytes": plan.estimate.disk_bytes,
        "seconds_per_tile": seconds_per_tile,
        "seconds": round(left * seconds_per_tile, 1),
        "out": str(plan.out),
        "notes": list(plan.notes),
    }


def _time_one_tile(plan: RunPlan) -> float:
    """Seconds for a tile in a batch, in this process with all its cores, the first pass not counted."""
    job = plan.job
    opened = OpenJob(job)
    segmenter = load_segmenter(job.model, job.device, job.threads)
    batch = min(plan.settings.workers.batch_size, plan.tiles)
    tile = next(job.plan.tiles())
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        seen = opened.read_tile(tile)
        try:
            segmenter.segment(np.stack([seen.image] * batch), np.stack([seen.valid] * batch), job.classes)
        except Exception as error:
            came = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise SegmenterError("a model that can segment a tile", came, "Check the model, or try another tile with --aoi.") from error
        seconds.append((time.perf_counter() - start) / batch)
    return seconds[-1]
