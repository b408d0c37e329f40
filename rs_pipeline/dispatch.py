"""A sliding window of tasks over the workers, and what becomes of tasks whose worker died."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future as LocalFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from rs_pipeline.config import WorkerSettings
from rs_pipeline.errors import ClusterError, RsSegError
from rs_pipeline.heap import give_back_free_memory
from rs_pipeline.inference import BatchResult, infer_batch, joined, open_job
from rs_pipeline.job import JobPath, store_of
from rs_pipeline.store import TileStore
from rs_pipeline.tasks import Cutter, Task
from rs_pipeline.workers import IN_HAND

if TYPE_CHECKING:
    from distributed import Client, Future

_LOG = logging.getLogger(__name__)
ROLL_CALL_S = 1.0
"""Workers are counted this often."""
DESERTED_S = 300.0
"""A scheduler without a worker for so long is given up."""
Results = Generator[BatchResult, None, None]
Compute = Callable[[JobPath, Task, int], BatchResult]
"""A saved job, a task of it, retries: what became of the tiles."""


def infer_task(job_path: JobPath, task: Task, retries: int) -> BatchResult:
    """What a worker does with a task: `infer_batch` of each of its batches, one after another."""
    return joined([infer_batch(job_path, batch, retries) for batch in task.batches()])


def infer(
    client: Client | None,
    job_path: JobPath,
    indices: Sequence[int],
    settings: WorkerSettings,
    on_result: Callable[[BatchResult], None],
    compute: Compute = infer_task,
) -> list[tuple[int, str]]:
    """Compute tiles, a window of tasks at a time, whatever their number.

    Parameters
    ----------
    client: of the workers; None: this process is the worker.
    job_path: a saved `Job` that the workers can read too.
    on_result: told of every task that ended.
    compute: what is done with a task; importable by the workers.

    Returns
    -------
    Tiles that failed, with the error; the rest is in the store.

    Raises
    ------
    RsSegError: what no retry mends (a source changed, the store is full, the model does not load).
    """
    # One process has nobody to share with: a batch is a task.
    # Whoever planned has filled in the size of batches.
    cutter = Cutter(indices, settings.batch_size or 1, 1 if client is None else settings.task_tiles)
    failed: list[tuple[int, str]] = []
    results = _here(job_path, cutter, settings, compute) if client is None else _elsewhere(client, job_path, cutter, settings, compute)
    with closing(results):
        for result in results:
            failed.extend(result.failed)
            on_result(result)
    return failed


def _here(job_path: JobPath, cutter: Cutter, settings: WorkerSettings, compute: Compute) -> Results:
    """The tasks' results in their order, computed in this process."""
    hands, patient = ThreadPoolExecutor(IN_HAND, "rs-seg-hand"), True
    running: deque[LocalFuture[BatchResult]] = deque()
    try:
        while cutter or running:
            while cutter and len(running) < settings.ahead:
                running.append(hands.submit(compute, job_path, cutter.cut(1), settings.retries))
            try:
                result = running.popleft().result()
            except RsSegError:
                raise
            except Exception as error:
                raise _unfit(error) from error
            yield result
    except BaseException as error:
        patient = isinstance(error, Exception)  # to who is told to stop, a large model's minutes over what it has in hand are too long
        raise
    finally:
        hands.shutdown(wait=patient, cancel_futures=True)
        # What a worker keeps open would take its memory from what follows.
        open_job.cache_clear()
        give_back_free_memory()


def _elsewhere(client: Client, job_path: JobPath, cutter: Cutter, settings: WorkerSettings, compute: Compute) -> Results:
    """The tasks' results as they come from Dask's workers; those that were lost with a worker are tried again at the end."""
    ended: SimpleQueue[Future[BatchResult]] = SimpleQueue()
    running: dict[Future[BatchResult], Task] = {}
    suspects: list[Task] = []
    roll = _RollCall(client)
    while cutter or running:
        workers = roll.count()
        for future, task in _begin(client, compute, job_path, _cut(cutter, workers, workers * settings.ahead - len(running)), settings):
            running[future] = task
            future.add_done_callback(ended.put)
        futures = _drained(ended)
        for future, result in zip(futures, _outcomes(client, futures), strict=True):
            task = running.pop(future)
            if result is None:
                _LOG.warning("a worker died over tiles %d…%d: they are tried again at the end", task.indices[0], task.indices[-1])
                suspects.append(task)
            else:
                yield result
    yield from _each_alone(client, job_path, suspects, settings, compute)


def _cut(cutter: Cutter, workers: int, most: int) -> list[Task]:
    tasks: list[Task] = []
    while cutter and len(tasks) < most:
        tasks.append(cutter.cut(workers))
    return tasks


def _begin(
    client: Client, compute: Compute, job_path: JobPath, tasks: list[Task], settings: WorkerSettings
) -> Iterable[tuple[Future[BatchResult], Task]]:
    """Send tasks to the scheduler, all at once: each sending takes it milliseconds."""
    if not tasks:
        return []
    futures = client.map(compute, [job_path] * len(tasks), tasks, [settings.retries] * len(tasks), pure=False)
    return zip(futures, tasks, strict=True)


def _drained(ended: SimpleQueue[Future[BatchResult]]) -> list[Future[BatchResult]]:
    """All that has ended, as soon as something has, and none where nothing does until the next roll call."""
    futures = []
    try:
        futures.append(ended.get(timeout=ROLL_CALL_S))
        while True:
            futures.append(ended.get_nowait())
    except Empty:
        return futures


def _each_alone(client: Client, job_path: JobPath, suspects: Sequence[Task], settings: WorkerSettings, compute: Compute) -> Results:
    """The results of tasks that their worker may have died of, in halves, and in halves of those, down to the tile that does it.

    Nothing else runs now: if the worker dies, it was this task's tiles, or their number.
    """
    store, lost = TileStore(store_of(job_path)), list(suspects)
    ended: SimpleQueue[Future[BatchResult]] = SimpleQueue()
    roll = _RollCall(client)
    while lost:
        done = store.done()  # a worker keeps what it finished before it dies
        kept = [index for task in lost for index in task.indices if index in done]
        if kept:
            yield BatchResult(tuple(i for i in kept if done[i]), tuple(i for i in kept if not done[i]), ())
        halves = [half for task in lost for half in task.without(done).halves()]
        lost = []
        for task in halves:
            [(future, _)] = _begin(client, compute, job_path, [task], settings)
            future.add_done_callback(ended.put)
            while not _drained(ended):
                roll.count()  # the last worker may have died of it, and none come back
            result = _outcome(future)
            if result is not None:
                yield result
            elif len(task.indices) > 1:
                lost.append(task)
            else:
                yield BatchResult((), (), ((task.indices[0], "KilledWorker: the worker died while computing it"),))


class _RollCall:
    """How many workers there are, asked anew every so often: they may join and leave."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._count, self._due, self._last_seen = 1, 0.0, time.monotonic()

    def count(self) -> int:
        """Workers at the last roll call, at least 1: one that died may be starting again.

        Raises
        ------
        ClusterError: there has been none for `DESERTED_S`.
        """
        now = time.monotonic()
        if now >= self._due:
            with suppress(OSError):  # a connection that is lost shows in the tasks
                present = len(self._client.nthreads())
                self._count, self._last_seen = max(1, present), now if present else self._last_seen
            self._due = now + ROLL_CALL_S
        if now > self._last_seen + DESERTED_S:
            came = f"none for {DESERTED_S:.0f} s"
            raise ClusterError("a scheduler with workers", came, "Start workers and run again: finished tiles are kept.")
        return self._count


def _outcomes(client: Client, futures: list[Future[BatchResult]]) -> list[BatchResult | None]:
    """What `_outcome` says of each. Results are asked for together: one by one, each would take milliseconds."""
    if all(future.status == "finished" for future in futures):
        with suppress(Exception):  # whose trouble it is shows below
            return list(client.gather(futures))
    return [_outcome(future) for future in futures]


def _outcome(future: Future[BatchResult]) -> BatchResult | None:
    """The result of a task; None where it was lost with its worker."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    if future.status == "lost":
        return None
    try:
        return future.result()
    except KilledWorker:
        return None
    except (CancelledError, CommClosedError) as error:
        raise ClusterError("a scheduler that stays", f"the connection was lost ({error})", "Run again: finished tiles are kept.") from error
    except RsSegError:
        raise
    except Exception as error:
        raise _unfit(error) from error


def _unfit(error: Exception) -> ClusterError:
    """What a tile raises is caught where it is computed: this is the worker's own trouble."""
    fix = "Install the same version, with the model, on every worker."
    return ClusterError("workers that can run a task of this run", f"{type(error).__name__}: {' '.join(str(error).split())}", fix)
