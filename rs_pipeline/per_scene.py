"""Scenes kept apart: a run, and a run folder, for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rs_pipeline.aoi import read_aoi
from rs_pipeline.catalog import Scene
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import AoiError, OutputError, RsSegError, UsageError
from rs_pipeline.imagery import select_scenes
from rs_pipeline.plan import RunPlan, plan_run
from rs_pipeline.products import read_manifest
from rs_pipeline.reporting import Reporter


def each_scene(settings: RunSettings, do: Callable[[RunPlan], dict[str, Any]], reporter: Reporter) -> dict[str, Any]:
    """Plan every scene by itself, into OUT/SCENE-ID, and do something with it; one that cannot be done does not keep the others from it.

    Scenes come in the order of `composite`; those without a pixel of the area are left out.

    Parameters
    ----------
    do: for example `execute`.

    Returns
    -------
    `runs`: what `do` gave; `failed`: id and error of the scenes that could not be planned or done.

    Raises
    ------
    RsSegError: a source cannot be opened, or no scene could be done: the first one's error.
    """
    found, errors, outside = [], {}, []
    for scene in select_scenes(settings, read_aoi(settings.aoi) if settings.aoi is not None else None)[0]:
        reporter.note(f"scene {scene.id}")
        try:
            found.append(do(plan_run(_own_settings(settings, scene), [scene])))
        except AoiError as error:
            outside.append(error)
            reporter.note(f"scene {scene.id} has no pixel of the area")
        except RsSegError as error:
            errors[scene.id] = error
            reporter.note(f"scene {scene.id} was not done: {error}")
    if not found:
        raise next(iter([*errors.values(), *outside]))
    return {"runs": found, "failed": [{"scene": scene, "error": str(error)} for scene, error in errors.items()]}


def _own_settings(settings: RunSettings, scene: Scene) -> RunSettings:
    if not scene.id or "/" in scene.id or scene.id.startswith("."):
        raise UsageError("scene ids that can be folders", repr(scene.id), "Rename the scene, or do without --per-scene.")
    changes: dict[str, Any] = {"per_scene": False, "scenes": (scene.id,)}
    if settings.out is not None:
        if read_manifest(Path(settings.out)) is not None:
            raise OutputError("a folder for the runs of scenes", f"{settings.out}, which is a run itself", "Choose another --out.")
        changes["out"] = str(Path(settings.out) / scene.id)
    return settings.model_copy(update=changes)
