"""Stages of a run as Prefect tasks; tiles never are: they are Dask's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.tasks import exponential_backoff

from rs_pipeline.archive_config import StageSettings, StagesSettings
from rs_pipeline.errors import AoiError, SegmenterError, UsageError

T = TypeVar("T")
_HOPELESS = (UsageError, AoiError, SegmenterError)
"""What another attempt would meet again."""


@task(cache_policy=NO_CACHE, persist_result=False)
def _stage(do: Callable[[], Any]) -> Any:
    return do()


async def _may_mend(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    error = await state.aresult(raise_on_failure=False)
    return not isinstance(error, _HOPELESS)


def as_tasks(stages: StagesSettings) -> Callable[[str, Callable[[], T]], T]:
    """A way to do a run's stages, for `rs_pipeline.run.execute`: each a task with its own retries, backoff and time limit."""

    def do(name: str, stage: Callable[[], T]) -> T:
        settings: StageSettings = getattr(stages, name)
        as_task: Task[[Callable[[], T]], T] = _stage.with_options(
            name=name,
            task_run_name=name,
            retries=settings.retries,
            retry_delay_seconds=exponential_backoff(settings.backoff_s),
            retry_condition_fn=_may_mend,
            timeout_seconds=settings.timeout_s,
        )
        return as_task(stage)

    return do


def in_one_try(name: str, stage: Callable[[], T]) -> T:
    """A stage as a task that is not tried again: an adaptation goes on from its checkpoint when its flow runs the next time."""
    as_task: Task[[Callable[[], T]], T] = _stage.with_options(name=name, task_run_name=name)
    return as_task(stage)
