"""The way to the Prefect flows, which the pipeline does not know: by name, through the entry points `rs_pipeline.flows`."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from rs_pipeline.errors import UsageError


def flow_named(name: str) -> Callable[..., Any]:
    """A flow, or what deals with flows.

    Raises
    ------
    UsageError: it is not installed.
    """
    found = {entry.name: entry for entry in entry_points(group="rs_pipeline.flows")}
    if name not in found:
        raise UsageError("the flows of this project", f"no {name} among what is installed", "Install rs-seg again, with its flows.")
    # A server that Prefect starts for one run here has nobody to report to.
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    loaded: Callable[..., Any] = found[name].load()
    return loaded
