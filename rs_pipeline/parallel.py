"""Independent pieces of work on all cores, their results in order, few of them in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order. At most one piece of work per thread and one more is under way or waits to be taken.

    Worth it where `work` lets go of Python's lock, as numpy, GDAL and shapely do. What it raises is raised here, and nothing new is begun.

    Parameters
    ----------
    threads: None is one per core that this process may use.
    """
    threads = threads or len(os.sched_getaffinity(0))
    hands = ThreadPoolExecutor(threads, "rs-seg-block")
    running: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            running.append((item, hands.submit(work, item)))
            if len(running) > threads:
                done, future = running.popleft()
                yield done, future.result()
        while running:
            done, future = running.popleft()
            yield done, future.result()
    finally:
        hands.shutdown(cancel_futures=True)
