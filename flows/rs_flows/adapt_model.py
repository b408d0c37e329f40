"""An archive's model adapted to its newest items, on a schedule."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from rs_flows.artifacts import publish_trial
from rs_flows.reporting import FlowReporter, pipeline_logs
from rs_flows.stages import in_one_try
from rs_pipeline.archive_config import load_archive
from rs_pipeline.promotion import adapt_archive, open_for_trial


def _name() -> str:
    return str(flow_run.parameters["archive"].get("name", "archive"))


@flow(name="adapt-model", flow_run_name=_name, persist_result=False)
def adapt_model(archive: dict[str, Any]) -> Any:
    """One trial of `rs_pipeline.promotion`: choose, adapt, compare, each a task; the better adapter is promoted.

    Parameters
    ----------
    archive: what differs from `configs/archive.yaml`.

    Returns
    -------
    The trial; the state is named Promoted or Kept, and Failed where no adapter came of it.
    """
    with pipeline_logs():
        trial = adapt_archive(open_for_trial(load_archive(archive)), FlowReporter(), in_one_try)
    publish_trial(trial)
    if trial["error"] is not None:
        return Failed(message=trial["error"], data=trial)
    return Completed(name="Promoted" if trial["promoted"] else "Kept", data=trial)
