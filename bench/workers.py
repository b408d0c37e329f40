"""What a second worker brings, and what a scheduler costs: `python bench/workers.py [--repeat N] [--simulate WORKERS] [--json]`.

By default: tiles per second of a run's infer stage with rs-tiny on `--cluster local`, one worker and two, one CPU thread each for the
model, over the demo's scene (`rs-seg demo` first) repeated N x N times. The clock starts when all workers have done a task, so that their
start is apart. Rounds alternate, so that a noisy machine is noisy to both; medians. Two workers need two free cores: where other processes
had more than a few hundredths of a core, the figure says nothing. One worker alone reads ahead on a core that two have no longer:
`--pin` gives it no second one. Two models that do nothing else, in the same workers, tell what the machine itself leaves of twice.

With `--simulate 64`: no model, no image, 64 workers that sleep (`bench/simulated_workers.py`), and how near the time of 100,000 tiles
comes to that of workers who never wait. A worker counts as one model, however many threads it has.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pattern
import psutil
import rasterio
import simulated_workers

from rs_pipeline.__main__ import share_one_heap
from rs_pipeline.config import load_settings
from rs_pipeline.dispatch import infer, infer_task
from rs_pipeline.inference import load_segmenter, open_job
from rs_pipeline.plan import plan_run
from rs_pipeline.store import TileStore
from rs_pipeline.tasks import Task
from rs_pipeline.workers import open_client

if TYPE_CHECKING:
    from distributed import Client

    from rs_pipeline.plan import RunPlan

SCENE = Path(__file__).parent.parent / "data_catalog" / "demo" / "scene.tif"
SPEED_UP_TARGET, EFFICIENCY_TARGET = 1.85, 0.90
ALONE_BATCHES = 10


def plan_for(workers: int, source: Path, folder: Path) -> RunPlan:
    """A run by so many local workers, whose models have one CPU thread each, however many cores there are."""
    flags = {"source": (str(source),), "classes": ("road", "water"), "model": "rs-tiny", "out": str(folder / "run")}
    plan = plan_run(load_settings(None, flags | {"workers.cluster": "local", "workers.count": workers}))
    return replace(plan, crew=replace(plan.crew, threads=1), job=replace(plan.job, threads=1))


def measure(workers: int, source: Path, folder: Path, *, pin: bool) -> dict[str, float]:
    """Seconds until all workers have done a task, tiles per second from then on, and what a tile costs in CPU time."""
    plan = plan_for(workers, source, folder)
    todo, size = [tile.index for tile in plan.job.plan.tiles()], plan.settings.workers.batch_size
    start = time.perf_counter()
    with TileStore(plan.job.store).lock(), open_client(plan.crew, plan.settings.workers) as client:
        if client is None:
            raise RuntimeError("a local cluster was asked for")
        if pin:
            for core, worker in zip(sorted(os.sched_getaffinity(0)), client.nthreads(), strict=False):
                client.run(os.sched_setaffinity, 0, {core}, workers=[worker])  # the threads it starts later stay there too
        path = plan.job.save()
        warm = workers * size
        _warm_up(client, path, [Task(tuple(todo[i : i + size]), size) for i in range(0, warm, size)])
        ready, pids = time.perf_counter(), list(client.run(os.getpid).values())
        used, mine, busy = _cpu_seconds(pids), _cpu_seconds([os.getpid()]), _busy_seconds()
        failed = infer(client, path, todo[warm:], plan.settings.workers, lambda _: None)
        seconds, tiles = time.perf_counter() - ready, len(todo) - warm
        if failed:
            raise RuntimeError(f"{len(failed)} tiles failed: {failed[0][1]}")
        busy, used, mine = _busy_seconds() - busy, _cpu_seconds(pids) - used, _cpu_seconds([os.getpid()]) - mine
        alone = [client.submit(model_alone, path, size, workers=[worker], pure=False) for worker in client.nthreads()]
        return {
            "start_up_s": ready - start,
            "tiles_per_s": tiles / seconds,
            "models_alone_tiles_per_s": sum(client.gather(alone)),
            "worker_cpu_ms_per_tile": used / tiles * 1000,
            "client_cpu_ms_per_tile": mine / tiles * 1000,
            "cores_of_others": max(0.0, busy - used - mine) / seconds,
        }


def model_alone(path: str, size: int) -> float:
    """Tiles per second of a worker's model over and over the same noise: nothing read, nothing kept, nobody asked."""
    job = open_job(path).job
    segmenter = load_segmenter(job.model, job.weights_sha256, job.options, job.threads, job.code_version)
    images = np.random.default_rng(0).random((size, 3, job.plan.tile_px, job.plan.tile_px), np.float32)
    valid, start = np.ones(images[:, 0].shape, np.bool_), time.perf_counter()
    for _ in range(ALONE_BATCHES):
        segmenter.segment(images, valid, job.classes)
    return ALONE_BATCHES * size / (time.perf_counter() - start)


def _warm_up(client: Client, path: Path, tasks: list[Task]) -> None:
    """One task for each worker; the model is loaded then."""
    places = client.nthreads()
    futures = [client.submit(infer_task, path, task, 0, workers=[place], pure=False) for place, task in zip(places, tasks, strict=True)]
    client.gather(futures)


def _cpu_seconds(pids: list[int]) -> float:
    return float(sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))


def _busy_seconds() -> float:
    """CPU time of the whole machine that was not idle."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Medians for one worker and for two, and the speed-up of the rounds."""
    rounds: list[dict[int, dict[str, float]]] = []
    with TemporaryDirectory(prefix="rs-seg-workers-") as scratch:
        with rasterio.open(args.source) as image:
            height, width = image.height * args.repeat, image.width * args.repeat
        source = Path(scratch) / "scene.vrt"
        pattern.repeat(args.source, source, height, width)
        for r in range(args.rounds):
            rounds.append({n: measure(n, source, Path(scratch) / f"{r}-{n}", pin=args.pin) for n in (1, 2)})
            (one, two), others = ([rounds[-1][n][key] for n in (1, 2)] for key in ("tiles_per_s", "cores_of_others"))
            print(f"round {r + 1}: {one:.2f} and {two:.2f} tiles/s, x {two / one:.2f}; others: {others[0]:.2f} and {others[1]:.2f} cores")
    medians = {str(n): {key: round(float(np.median([r[n][key] for r in rounds])), 2) for key in rounds[0][n]} for n in (1, 2)}
    speed_up, ceiling = (
        round(float(np.median([r[2][key] / r[1][key] for r in rounds])), 3) for key in ("tiles_per_s", "models_alone_tiles_per_s")
    )
    return {"workers": medians, "speed_up": speed_up, "ceiling": ceiling, "target": SPEED_UP_TARGET, "rounds": args.rounds}


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """One run by simulated workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return simulated_workers.simulate(args.simulate, args.tiles, args.seconds_per_tile, port) | {"target": EFFICIENCY_TARGET}


def main() -> None:
    """Prints a table, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SCENE)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pin", action="store_true", help="each worker on a core of its own, and on no other")
    parser.add_argument("--simulate", type=int, metavar="WORKERS")
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--seconds-per-tile", type=float, default=0.05)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    share_one_heap()  # as the command does
    if not args.simulate and not args.source.is_file():
        parser.error(f"{args.source} is not there: make it with `rs-seg demo`")
    found = simulate(args) if args.simulate else compare(args)
    if args.simulate:
        for name, value in found.items():
            print(f"{name:24} {value}")
    else:
        for workers, figures in found["workers"].items():
            print(f"{workers} workers  " + "  ".join(f"{name} {value}" for name, value in figures.items()))
        print(f"speed-up {found['speed_up']} (target {SPEED_UP_TARGET}); of the models alone {found['ceiling']}: no run does better here")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
