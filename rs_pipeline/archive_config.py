"""What an archive's YAML file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from rs_pipeline.config import bad_value, configs_folder, overlay, read_yaml
from rs_pipeline.errors import ConfigError
from rs_pipeline.options import Count, Positive, Section


class StageSettings(Section):
    """How a flow run treats a stage that raises."""

    retries: Annotated[int, Field(ge=0)]
    backoff_s: Positive
    timeout_s: Positive | None


class StagesSettings(Section):
    """Each stage of a run."""

    plan: StageSettings
    infer: StageSettings
    stitch: StageSettings
    vectorize: StageSettings
    publish: StageSettings


class AdaptationSettings(Section):
    """How an archive's model is adapted to its newest items."""

    config: str | None
    settings: dict[str, Any]
    newest: Count
    held_out: Count
    use: bool


class ArchiveSettings(Section):
    """Everything `rs-seg archive` can be told; `configs/archive.yaml` says what each means and holds the defaults."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    run: dict[str, Any]
    look_back_days: Annotated[int, Field(ge=1, le=36_500)] | None
    products: str | None
    verify_checksums: bool
    attempts: Count
    keep_tiles: bool
    concurrency: Count
    stages: StagesSettings
    adapt: AdaptationSettings


def load_archive(changes: Path | dict[str, Any]) -> ArchiveSettings:
    """Settings of an archive.

    Parameters
    ----------
    changes: an archive's YAML file, or its content.

    Raises
    ------
    ConfigError: an unknown key (named with the nearest one that exists), or a bad value. `run` is read when runs are planned.
    """
    merged = read_yaml(configs_folder() / "archive.yaml")
    where = "the archive" if isinstance(changes, dict) else str(changes)
    said = dict(changes if isinstance(changes, dict) else read_yaml(changes))
    run = said.pop("run", {})
    # Free mappings: whoever reads them knows their keys.
    adapting = said.pop("adapt", None) or {}
    if not isinstance(adapting, dict):
        raise ConfigError("a mapping under adapt", f"{adapting!r} in {where}", f"Its keys are {', '.join(merged['adapt'])}.")
    adapting = dict(adapting)
    free = adapting.pop("settings", {})
    overlay(merged, said | {"adapt": adapting}, where)
    merged["adapt"]["settings"] = free
    try:
        return ArchiveSettings.model_validate({**merged, "run": run})
    except ValidationError as error:
        raise bad_value(error, where, "See configs/archive.yaml for what it means.") from error
