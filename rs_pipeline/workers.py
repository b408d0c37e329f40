"""Workers from configuration: this process, or Dask's."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rs_pipeline.config import WorkerSettings
from rs_pipeline.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

SMALL_JOB_TILES = 64
MAX_LOCAL_WORKERS = 4
LOGS = "rs_pipeline"
"""Logger whose records come from the workers to whoever listens where the run is."""
IN_HAND = 2
"""Tasks that a worker has in hand: while the model computes a batch of one, the other's next batch is read, or its last one written."""

_QUIET = {
    # A worker that dies names as suspects all the tasks it held; `dispatch` tries them again, each alone.
    "distributed.scheduler.allowed-failures": 0,
    # What Dask measures of itself, a hundred times a second, costs each process a twentieth of a core, and nobody looks at it here.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}


@dataclass(frozen=True, slots=True)
class Crew:
    """How a run is to be computed."""

    kind: str
    """`in-process`, `local`, `cuda`, or the address of a scheduler."""
    count: int
    """Worker processes; for `cuda` and a scheduler's address, whatever is there."""
    threads: int | None
    """CPU threads for the model in each worker; None where the workers were set up by somebody else."""


def choose_crew(settings: WorkerSettings, tiles: int) -> Crew:
    """Fill in what the settings leave open: small jobs stay in this process.

    Raises
    ------
    ClusterError: an unknown kind of cluster.
    """
    kind, cores = settings.cluster, len(os.sched_getaffinity(0))
    if kind == "auto":
        kind = "in-process" if settings.count is None or settings.count == 1 or tiles <= SMALL_JOB_TILES else "local"
    if kind == "in-process":
        return Crew(kind, 1, cores)
    if kind == "local":
        count = settings.count or min(cores, MAX_LOCAL_WORKERS)
        return Crew(kind, count, max(1, cores // count))
    if kind == "cuda" or "://" in kind:
        return Crew(kind, settings.count or 1, None)
    raise ClusterError("a cluster of in-process, local, cuda or tcp://HOST:PORT", repr(kind), "Choose one of these.")


@contextmanager
def open_client(crew: Crew, settings: WorkerSettings) -> Iterator[Client | None]:
    """A client of the crew's workers, None where this process is the worker; what was started here is stopped at the end.

    Raises
    ------
    ClusterError: the scheduler does not answer, has no workers, or the CUDA extra is not installed.
    """
    if crew.kind == "in-process":
        yield None
        return
    from distributed import Client

    # Lost connections are told by errors of our own; their tracebacks only bury those.
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if "://" in crew.kind:
        try:
            client = Client(crew.kind, timeout=settings.connect_timeout_s, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            came = f"no answer from {crew.kind} ({error})"
            raise ClusterError("a running Dask scheduler", came, "Start it, or check the address.") from error
        with client:
            if not client.scheduler_info()["workers"]:
                raise ClusterError("a scheduler with workers", f"none at {crew.kind}", "Start `dask worker` processes that join it.")
            client.forward_logging(LOGS)
            yield client
        return
    import dask.config

    with (
        dask.config.set(_QUIET),
        TemporaryDirectory(prefix="rs-seg-", ignore_cleanup_errors=True) as scratch,
        _cluster(crew, scratch) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.forward_logging(LOGS)
        yield client


def _cluster(crew: Crew, scratch: str) -> Any:
    from distributed import LocalCluster

    everywhere = {"threads_per_worker": IN_HAND, "dashboard_address": None, "host": "127.0.0.1", "local_directory": scratch}
    # Workers that are stopped over their tasks tell of each, and of the scheduler that left.
    everywhere["silence_logs"] = logging.CRITICAL
    if crew.kind == "cuda":
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as error:
            raise ClusterError("dask-cuda for --cluster cuda", f"{error}", "Install it: pip install 'rs-seg[cuda]'.") from error
        return LocalCUDACluster(**everywhere)
    return LocalCluster(n_workers=crew.count, processes=True, memory_limit=0, **everywhere)
