"""What a run says, as a flow run shows it: progress artifacts and logs, those of its workers too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from logging import Logger, LoggerAdapter
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

_EVERY_S = 2.0
"""An update costs the server some milliseconds: no more often than this."""


class FlowReporter:
    """A `rs_pipeline.reporting.Reporter` inside a flow run: a progress artifact per stage, notes in the log."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._done, self._total, self._due, self._is_mute = 0, 0, 0.0, False

    def stage(self, name: str, total: int) -> None:
        """A progress bar of its own."""
        self._done, self._total, self._due = 0, total, time.monotonic() + _EVERY_S
        artifact = None if self._is_mute else unless_in_vain(lambda: create_progress_artifact(progress=0.0, description=name))
        self._artifact = artifact if isinstance(artifact, UUID) else None
        self._is_mute = self._artifact is None

    def advance(self, steps: int) -> None:
        """Move it, now and then."""
        self._done += steps
        artifact, is_over = self._artifact, self._done >= self._total
        if artifact is not None and (is_over or time.monotonic() >= self._due):
            progress = 100.0 * self._done / max(1, self._total)
            moved = unless_in_vain(lambda: update_progress_artifact(artifact, progress=progress))
            self._due, self._is_mute = time.monotonic() + _EVERY_S, moved is None
            self._artifact = None if is_over or self._is_mute else artifact

    def note(self, text: str) -> None:
        """A line of the log."""
        get_run_logger().info(text)


def unless_in_vain(show: Callable[[], Any]) -> Any:
    """What a call to the server gives; None where it fails: a run is not lost for want of somebody to show it to."""
    try:
        return show()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the run's
        get_run_logger().warning("the server does not take what there is to show: %s", error)
        return None


@contextmanager
def pipeline_logs() -> Iterator[None]:
    """What `rs_pipeline` logs, here or on workers, goes into the log of the flow run that this is called in, or of its parent's."""
    handler, logger = _ToRun(get_run_logger()), logging.getLogger("rs_pipeline")
    if any(isinstance(other, _ToRun) for other in logger.handlers):  # of several items at a time, nobody knows whose a worker's is
        yield
        return
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _ToRun(logging.Handler):
    """Hands records to a flow run's own logger: those of workers come in threads that know neither run nor server."""

    def __init__(self, logger: Logger | LoggerAdapter[Any]) -> None:
        super().__init__()
        self._logger, self._context = logger, copy_context()

    def emit(self, record: logging.LogRecord) -> None:
        worker = getattr(record, "worker", None)
        words = f"{worker}: {record.getMessage()}" if worker else record.getMessage()
        self._context.copy().run(self._logger.log, record.levelno, "%s", words)
