"""Workers from configuration, this process or Dask's, and a sliding window of batches over them."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rs_pipeline.config import WorkerSettings
from rs_pipeline.errors import ClusterError, RsSegError
from rs_pipeline.inference import BatchResult, infer_batch, open_job

if TYPE_CHECKING:
    from distributed import Client, Future

SMALL_JOB_TILES = 64
MAX_LOCAL_WORKERS = 4
Results = Generator[BatchResult, None, None]
IN_HAND = 2
"""Batches that a worker has in hand: while the model computes one, the next is read, or the last one written."""


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
        try:
            yield None
        finally:
            # What a worker keeps open would outlive the run.
            open_job.cache_clear()
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
            yield client
        return
    import dask.config

    # A worker that dies names as suspects all the batches it held; `infer` tries their tiles again, one by one.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        TemporaryDirectory(prefix="rs-seg-", ignore_cleanup_errors=True) as scratch,
        _cluster(crew, scratch) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _cluster(crew: Crew, scratch: str) -> Any:
    from distributed import LocalCluster

    everywhere = {"threads_per_worker": IN_HAND, "dashboard_address": None, "host": "127.0.0.1", "local_directory": scratch}
    if crew.kind == "cuda":
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as error:
            raise ClusterError("dask-cuda for --cluster cuda", f"{error}", "Install it: pip install 'rs-seg[cuda]'.") from error
        return LocalCUDACluster(**everywhere)
    return LocalCluster(n_workers=crew.count, processes=True, memory_limit=0, **everywhere)


def infer(
    client: Client | None, job_path: Path, indices: Sequence[int], settings: WorkerSettings, on_batch: Callable[[BatchResult], None]
) -> list[tuple[int, str]]:
    """Compute tiles, a window of batches at a time, whatever their number.

    Parameters
    ----------
    client: of the workers; None: this process is the worker.
    job_path: a saved `Job` that the workers can read too.
    on_batch: told of every batch that ended.

    Returns
    -------
    Tiles that failed, with the error; the rest is in the store.

    Raises
    ------
    RsSegError: what no retry mends (a source changed, the store is full, the model does not load).
    """
    batches = iter([tuple(indices[i : i + settings.batch_size]) for i in range(0, len(indices), settings.batch_size)])
    failed: list[tuple[int, str]] = []
    with closing(_here(job_path, batches, settings) if client is None else _elsewhere(client, job_path, batches, settings)) as results:
        for result in results:
            failed.extend(result.failed)
            on_batch(result)
    return failed


def _here(job_path: Path, batches: Iterator[tuple[int, ...]], settings: WorkerSettings) -> Results:
    """The batches' results in their order, computed in this process."""
    hands, patient = ThreadPoolExecutor(IN_HAND, "rs-seg-hand"), True
    try:
        running = deque(hands.submit(infer_batch, job_path, batch, settings.retries) for batch in islice(batches, settings.ahead))
        while running:
            try:
                result = running.popleft().result()
            except RsSegError:
                raise
            except Exception as error:
                raise _unfit(error) from error
            running.extend(hands.submit(infer_batch, job_path, batch, settings.retries) for batch in islice(batches, 1))
            yield result
    except KeyboardInterrupt:
        patient = False  # a large model may take minutes over what it has in hand
        raise
    finally:
        hands.shutdown(wait=patient, cancel_futures=True)


def _elsewhere(client: Client, job_path: Path, batches: Iterator[tuple[int, ...]], settings: WorkerSettings) -> Results:
    """The batches' results as they come from Dask's workers."""
    from distributed import as_completed

    workers = max(1, len(client.scheduler_info()["workers"]))

    def submit(batch: tuple[int, ...]) -> Any:
        return client.submit(infer_batch, job_path, batch, settings.retries, pure=False)

    running = {submit(batch): batch for batch in islice(batches, workers * settings.ahead)}
    suspects: list[int] = []
    finished = as_completed(list(running), loop=client.loop)
    for future in finished:
        batch = running.pop(future)
        result = _outcome(future)
        if result is None:
            suspects.extend(batch)
        else:
            yield result
        for following in islice(batches, 1):
            new = submit(following)
            running[new] = following
            finished.add(new)
    for index in suspects:
        # Nothing else runs now: if the worker dies, it was this tile.
        yield _outcome(submit((index,))) or BatchResult((), (), ((index, "KilledWorker: the worker died while computing it"),))


def _outcome(future: Future[BatchResult]) -> BatchResult | None:
    """The result of a batch; None where it was lost with its worker."""
    from distributed import CancelledError, KilledWorker

    if future.status == "lost":
        return None
    try:
        return future.result()
    except KilledWorker:
        return None
    except CancelledError as error:
        raise ClusterError("a scheduler that stays", f"the connection was lost ({error})", "Run again: finished tiles are kept.") from error
    except RsSegError:
        raise
    except Exception as error:
        raise _unfit(error) from error


def _unfit(error: Exception) -> ClusterError:
    """What a tile raises is caught where it is computed: this is the worker's own trouble."""
    fix = "Install the same version, with the model, on every worker."
    return ClusterError("workers that can run a task of this run", f"{type(error).__name__}: {error}", fix)
