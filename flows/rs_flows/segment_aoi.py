"""What `rs-seg run` does, as a flow run."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed

from rs_flows.artifacts import publish_run
from rs_flows.reporting import FlowReporter, pipeline_logs
from rs_flows.stages import as_tasks
from rs_pipeline.archive_config import load_archive
from rs_pipeline.config import load_settings
from rs_pipeline.plan import plan_run
from rs_pipeline.run import execute


def _name() -> str:
    return str(flow_run.parameters["name"])


@flow(name="segment-aoi", flow_run_name=_name, persist_result=False)
def segment_aoi(settings: dict[str, Any], stages: dict[str, Any] | None = None, name: str = "segment") -> Any:  # noqa: ARG001 - the run is called so
    """Area of interest and class names in, georeferenced class layers out.

    Parameters
    ----------
    settings: what differs from `configs/run.yaml`.
    stages: what differs from `stages` in `configs/archive.yaml`: retries, backoff and time limits.
    name: of the flow run.

    Returns
    -------
    The content of the run folder's `run.json`; the state is named Partial where tiles failed.
    """
    do = as_tasks(load_archive({"stages": stages or {}}).stages)
    reporter = FlowReporter()
    with pipeline_logs():
        plan = do("plan", partial(plan_run, load_settings(settings)))
        summary = execute(plan, reporter, do)
    publish_run(plan, summary)
    failed = len(summary["tiles"]["failed"])
    if failed:
        return Completed(name="Partial", message=f"{failed} of {summary['tiles']['planned']} tiles failed", data=summary)
    return Completed(data=summary)
