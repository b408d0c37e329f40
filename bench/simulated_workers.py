"""Workers that only sleep, many to a process, and what a scheduler makes of them: `bench/workers.py --simulate` uses it.

Each has the two threads of a worker of this project and one model, which is a lock: as in a real one, two tasks are in hand and one
batch at a time is computed. A tile costs a nap. Scheduler and workers live in processes of their own and talk over TCP.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from distributed import Client, Worker, get_worker

from rs_pipeline.config import load_settings
from rs_pipeline.dispatch import infer
from rs_pipeline.inference import BatchResult
from rs_pipeline.tasks import Task
from rs_pipeline.workers import IN_HAND

PER_PROCESS = 16
"""Workers that share a process: one for each would not fit a small machine."""
_MODELS: dict[str, threading.Lock] = defaultdict(threading.Lock)


def nap_over_task(_job_path: Path, task: Task, _retries: int, seconds_per_tile: float) -> BatchResult:
    """Takes as long as a model would that takes `seconds_per_tile`."""
    model = _MODELS[get_worker().address]
    for batch in task.batches():
        with model:
            time.sleep(seconds_per_tile * len(batch))
    return BatchResult(task.indices, (), ())


def host(address: str, count: int, folder: str) -> None:
    """Be so many workers until the scheduler leaves."""

    async def work() -> None:
        everywhere = {"nthreads": IN_HAND, "local_directory": folder, "memory_limit": 0, "dashboard": False}
        workers = [Worker(address, **everywhere) for _ in range(count)]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(work())


@contextmanager
def _process(*command: str) -> Iterator[psutil.Process]:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _cluster(workers: int, port: int) -> Iterator[tuple[Client, psutil.Process, Path]]:
    """A client of so many workers, their scheduler's process, and a scratch folder."""
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="rs-seg-simulated-", ignore_cleanup_errors=True))
        options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        scheduler = stack.enter_context(_process("-m", "distributed.cli.dask_scheduler", *options))
        for start in range(0, workers, PER_PROCESS):
            count = min(PER_PROCESS, workers - start)
            stack.enter_context(_process("-c", f"import simulated_workers as s; s.host({address!r}, {count}, {folder!r})"))
        client = stack.enter_context(Client(address, timeout=60, set_as_default=False))
        client.wait_for_workers(workers, timeout=120)
        yield client, scheduler, Path(folder)


def simulate(workers: int, tiles: int, seconds_per_tile: float, port: int) -> dict[str, Any]:
    """Figures of one run of `tiles` tiles by so many workers; the clock starts when they are all there."""
    results: list[BatchResult] = []
    settings = load_settings(flags={"workers.batch_size": 4}).workers
    compute = partial(nap_over_task, seconds_per_tile=seconds_per_tile)
    with _cluster(workers, port) as (client, scheduler, folder):
        me = psutil.Process()
        used, start = {p: _cpu_seconds(p) for p in (scheduler, me)}, time.perf_counter()
        infer(client, folder / "job.json", range(tiles), settings, results.append, compute)
        wall = time.perf_counter() - start
        used = {p: round(_cpu_seconds(p) - before, 2) for p, before in used.items()}
        peak = {p: _peak_rss_mb(p) for p in (scheduler, me)}
    done, ideal = sum(len(result.done) for result in results), tiles * seconds_per_tile / workers
    if done != tiles:
        raise RuntimeError(f"{tiles} tiles were asked for, {done} are done")
    return {
        "workers": workers,
        "tiles": tiles,
        "tasks": len(results),
        "wall_s": round(wall, 2),
        "ideal_s": round(ideal, 2),
        "efficiency": round(ideal / wall, 4),
        "tasks_per_s": round(len(results) / wall, 1),
        "tiles_per_s": round(tiles / wall, 1),
        "scheduler_cpu_s": used[scheduler],
        "client_cpu_s": used[me],
        "scheduler_peak_rss_mb": peak[scheduler],
        "client_peak_rss_mb": peak[me],
    }


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_rss_mb(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1]
    return round(int(status.split()[0]) / 1000)
