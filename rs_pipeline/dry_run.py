"""What a run would do and cost, told without doing it."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import numpy as np

from rs_pipeline.errors import SegmenterError
from rs_pipeline.inference import OpenJob, load_segmenter
from rs_pipeline.job import Job
from rs_pipeline.manifest import describe_scenes
from rs_pipeline.plan import RunPlan
from rs_pipeline.workers import open_client


def describe_dry_run(plan: RunPlan) -> dict[str, Any]:
    """Scenes, grid, tiles, memory, disk and time of a planned run; JSON-ready. Loads the model, and reads and times one batch of tiles.

    Raises
    ------
    RsSegError: the model does not load, or the tile cannot be read.
    """
    job = plan.job
    if plan.crew.kind not in {"in-process", "local"}:
        with open_client(plan.crew, plan.settings.workers):
            pass  # the scheduler, or the GPUs, are there
    work = plan.work
    start_up, seconds_per_tile = _time_a_batch(plan, work.todo or job)
    return {
        "scenes": describe_scenes(plan),
        "classes": job.classes.to_list(),
        "model": {"name": plan.info.name, "weights_sha256": plan.info.weights_sha256},
        "grid": job.plan.grid.to_dict(),
        "gsd_m": job.plan.grid.gsd_m,
        "tiles": {"planned": plan.tiles, "stored": plan.tiles - work.left, "tile_px": job.plan.tile_px, "overlap_px": job.plan.overlap_px},
        "workers": {"kind": plan.crew.kind, "count": plan.crew.count},
        "memory_bytes": plan.estimate.memory_bytes,
        "disk_bytes": plan.estimate.disk_bytes,
        "seconds_per_tile": seconds_per_tile,
        "seconds": round(start_up + work.left * seconds_per_tile / plan.crew.count, 1),
        "out": str(plan.out),
        "notes": list(plan.notes),
    }


def _time_a_batch(plan: RunPlan, job: Job) -> tuple[float, float]:
    """Seconds to load the model, and seconds per tile of a batch, in this process with all its cores, the first pass not counted."""
    started = time.perf_counter()
    segmenter = load_segmenter(job.model, job.weights_sha256, job.options, job.threads, job.code_version)
    loaded = time.perf_counter()
    tiles = list(islice(job.plan.tiles(), plan.settings.workers.batch_size))
    seconds = []
    for _ in range(2):
        opened, start = OpenJob(job), time.perf_counter()
        seen, images = zip(*map(opened.read_tile, tiles), strict=True)
        try:
            segmenter.segment(np.stack(images), np.stack([s.valid for s in seen]), job.classes)
        except Exception as error:
            came = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise SegmenterError("a model that can segment a tile", came, "Check the model, or try another tile with --aoi.") from error
        seconds.append((time.perf_counter() - start) / len(tiles))
    return loaded - started, seconds[-1]
