"""Each new or changed item of an archive, segmented once."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from httpx import HTTPError
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from rs_flows.artifacts import publish_archive
from rs_flows.reporting import FlowReporter, pipeline_logs
from rs_flows.segment_aoi import segment_aoi
from rs_flows.stages import as_tasks
from rs_pipeline.archive import Agenda, Archive, Outcome, describe, do_item, find_agenda, name_of, open_archive
from rs_pipeline.catalog import Entry
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import ClusterError


def _name() -> str:
    return str(flow_run.parameters["archive"].get("name", "archive"))


@flow(name="segment-archive", flow_run_name=_name, persist_result=False)
def segment_archive(archive: dict[str, Any], retry: bool = False) -> Any:
    """Make a run of each item that is new, changed, or failed before; a flow run `segment-aoi` for each.

    Parameters
    ----------
    archive: what differs from `configs/archive.yaml`.
    retry: also items that failed as often as they may.

    Returns
    -------
    What `rs_pipeline.archive.describe` gives; where items failed, the state is Failed, and named Partial if others did not.
    """
    opened = open_archive(archive)
    with pipeline_logs():
        agenda = as_tasks(opened.settings.stages)("plan", partial(find_agenda, opened, retry=retry))
        FlowReporter().note(f"{len(agenda.todo)} items to do, {len(agenda.done)} done before, {len(agenda.given_up)} given up")
        found = describe(opened, agenda, _all(opened, agenda))
    publish_archive(found)
    if found["status"] == "complete":
        return Completed(data=found)
    trouble = [item["item"] for item in (*found["items"], *found["given_up"]) if item["status"] in {"failed", "partial"}]
    message = f"{len(trouble)} of {found['found']} items: {', '.join(trouble[:5])}"
    return Failed(name="Partial" if found["status"] == "partial" else None, message=message, data=found)


def _all(archive: Archive, agenda: Agenda) -> list[Outcome]:
    """The items' outcomes as they end, so many at a time as the archive says."""
    if archive.settings.concurrency == 1:  # in this thread, which alone hears of time limits and of being told to stop
        states = ((entry, _task_of(entry)(archive, entry, return_state=True)) for entry in agenda.todo)
        return [_outcome(archive, entry, state.result(raise_on_failure=False)) for entry, state in states]
    waiting, running, outcomes = deque(agenda.todo), dict[PrefectFuture[Any], Entry](), []
    while waiting or running:
        while waiting and len(running) < archive.settings.concurrency:
            entry = waiting.popleft()
            running[_task_of(entry).submit(archive, entry)] = entry
        ended = next(as_completed(list(running)))
        outcomes.append(_outcome(archive, running.pop(ended), ended.result(raise_on_failure=False)))
    return outcomes


def _task_of(entry: Entry) -> Task[[Archive, Entry], Any]:
    # A task run's name is a template.
    return _item.with_options(task_run_name=name_of(entry).replace("{", "{{").replace("}", "}}"))


def _outcome(archive: Archive, entry: Entry, found: Any) -> Outcome:
    """What an item's task gave: an outcome, or what it died of."""
    if isinstance(found, Outcome):
        return found
    return Outcome(name_of(entry), "failed", str(archive.folder_of(entry)), error=f"{type(found).__name__}: {found}")


@task(name="item", cache_policy=NO_CACHE, persist_result=False)
def _item(archive: Archive, entry: Entry) -> Any:
    stages, name = archive.settings.stages.model_dump(), name_of(entry)

    def do(settings: RunSettings) -> dict[str, Any]:
        try:
            summary: Any = segment_aoi(settings.model_dump(mode="json"), stages, name)
        except HTTPError as error:
            raise ClusterError("a Prefect server that answers", " ".join(str(error).split()), "Start it, and run again.") from error
        return dict(summary)

    outcome = do_item(archive, entry, do, FlowReporter())
    if outcome.is_trouble:
        return Failed(message=outcome.error, data=outcome)
    return Completed(name=outcome.status.capitalize(), data=outcome)
