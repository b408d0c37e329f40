"""Scenes kept apart: a run, and a run folder, for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rs_pipeline.aoi import read_aoi
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import ConfigError, RsSegError
from rs_pipeline.plan import plan_run, select_scenes
from rs_pipeline.reporting import Reporter
from rs_pipeline.run import execute


def scene_settings(settings: RunSettings) -> dict[str, RunSettings]:
    """Settings of each scene's own run, by scene id, in the order of `composite`: into OUT/SCENE-ID, or with their own names in `outputs`.

    Raises
    ------
    RsSegError: the area or the sources cannot be read, or hold no scene.
    """
    scenes, _ = select_scenes(settings, read_aoi(settings.aoi) if settings.aoi is not None else None)
    apart = {}
    for scene in scenes:
        if "/" in scene.id or scene.id.startswith("."):
            raise ConfigError("scene ids that can be folders", repr(scene.id), "Rename the scene, or do without --per-scene.")
        out = str(Path(settings.out) / scene.id) if settings.out is not None else None
        apart[scene.id] = settings.model_copy(update={"per_scene": False, "scenes": (scene.id,), "out": out})
    return apart


def run_each(settings: RunSettings, reporter: Reporter) -> dict[str, Any]:
    """Run every scene by itself; one that cannot be done does not keep the others from it.

    Returns
    -------
    `runs`: the content of each `run.json`; `failed`: id and error of the scenes without one.

    Raises
    ------
    RsSegError: no scene could be done; the first one's error.
    """
    runs, errors = [], {}
    for scene, own in scene_settings(settings).items():
        reporter.note(f"scene {scene}")
        try:
            runs.append(execute(plan_run(own), reporter))
        except RsSegError as error:
            errors[scene] = error
            reporter.note(f"scene {scene} was not done: {error}")
    if errors and not runs:
        raise next(iter(errors.values()))
    return {"runs": runs, "failed": [{"scene": scene, "error": str(error)} for scene, error in errors.items()]}
