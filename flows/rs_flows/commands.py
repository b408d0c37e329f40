"""What the command line asks of the flows; it finds them through the entry points `rs_pipeline.flows`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from httpx import HTTPError
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.schedules import Cron
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from rs_flows.adapt_model import adapt_model
from rs_flows.segment_aoi import segment_aoi
from rs_flows.segment_archive import segment_archive
from rs_pipeline.archive import Archive
from rs_pipeline.archive_config import ArchiveSettings
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import ClusterError, UsageError
from rs_pipeline.promotion import open_for_trial

_FIX = "Start one with `prefect server start`, and set PREFECT_API_URL=http://127.0.0.1:4200/api."


def run_aoi(settings: RunSettings) -> dict[str, Any]:
    """A run as a flow run, in this process, its server a temporary one where PREFECT_API_URL names none.

    Returns
    -------
    The content of its `run.json`.

    Raises
    ------
    RsSegError: as `rs_pipeline.run.run`; ClusterError: Prefect's server does not answer.
    """
    if get_current_settings().api.url is not None:
        _reach_server()
    state: Any = segment_aoi(settings.model_dump(mode="json"), name=Path(settings.out or "segment").name, return_state=True)
    return _result(state)


def run_archive(settings: ArchiveSettings, *, retry: bool) -> dict[str, Any]:
    """An archive as a flow run, in this process, its server a temporary one where PREFECT_API_URL names none.

    Returns
    -------
    What `rs_pipeline.archive.describe` gives.

    Raises
    ------
    CatalogError: the catalog cannot be read; ClusterError: Prefect's server does not answer.
    """
    if get_current_settings().api.url is not None:
        _reach_server()
    state: Any = segment_archive(settings.model_dump(mode="json"), retry=retry, return_state=True)
    return _result(state)


def run_adaptation(settings: ArchiveSettings) -> dict[str, Any]:
    """A trial of an archive's model as a flow run, in this process; see `run_archive`.

    Returns
    -------
    What `rs_pipeline.promotion.adapt_archive` gives.

    Raises
    ------
    RsSegError: nothing was tried; ClusterError: Prefect's server does not answer.
    """
    if get_current_settings().api.url is not None:
        _reach_server()
    state: Any = adapt_model(settings.model_dump(mode="json"), return_state=True)
    return _result(state)


def deploy(settings: ArchiveSettings, *, cron: str, timezone: str, pool: str, adapt: bool = False) -> str:
    """Put an archive on a schedule: a deployment of `segment-archive` in a pool of process workers, made where there is none.

    Two of its runs are never at work at once: one that is due while another runs is cancelled.

    Parameters
    ----------
    cron: five fields, in `timezone` (a name of the IANA database).
    adapt: of `adapt-model` in its place.

    Returns
    -------
    The deployment's name.

    Raises
    ------
    RsSegError: the archive cannot be opened; ClusterError: there is no server, or it refuses.
    """
    open_for_trial(settings) if adapt else Archive.of(settings)
    scheduled: Any = adapt_model if adapt else segment_archive
    if get_current_settings().api.url is None:  # a temporary server would forget the deployment
        raise ClusterError("a Prefect server", "no PREFECT_API_URL", _FIX)
    _reach_server()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        try:
            schedule = Cron(cron, timezone=timezone)
            deployment: Any = scheduled.to_deployment(
                name=settings.name,
                schedule=schedule,
                parameters={"archive": settings.model_dump(mode="json")},
                work_pool_name=pool,
                job_variables={"working_dir": str(Path.cwd())},
                entrypoint_type=EntrypointType.MODULE_PATH,
                concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            )
        except ValueError as error:
            came = f"{cron!r} in {timezone!r} ({' '.join(str(error).split())})"
            raise UsageError("five fields of cron and a time zone as Europe/Berlin", came, "Write for example '0 3 * * *'.") from error
        try:
            deployment.apply()
        except (PrefectException, HTTPError) as error:
            raise ClusterError("a Prefect server that takes a deployment", " ".join(str(error).split()), _FIX) from error
    return f"{scheduled.name}/{settings.name}"


def _reach_server() -> None:
    """Refuse to go on with a Prefect server that does not answer."""
    url = get_current_settings().api.url
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble is not None:
        raise ClusterError("a Prefect server that answers", f"{url} ({trouble})", _FIX)


def _result(state: State[Any]) -> dict[str, Any]:
    """What a flow run ended with, whatever its state is called."""
    found: dict[str, Any] | BaseException = state.result(raise_on_failure=False)
    if isinstance(found, PrefectException | HTTPError | TimeoutError):
        came = f"{type(found).__name__}: {' '.join(str(found).split())}"
        raise ClusterError("a flow run that ends", came, "Run again: finished tiles are kept.") from found
    if isinstance(found, BaseException):
        raise found
    return found
