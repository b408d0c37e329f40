"""What a flow run leaves on its page: tables, a summary with a picture, links."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from rs_flows.reporting import unless_in_vain
from rs_pipeline.plan import RunPlan
from rs_pipeline.quicklook import quick_look


def publish_run(plan: RunPlan, summary: dict[str, Any]) -> None:
    """Layers as a table, the run in words with a quick look, and a link to its folder; for want of a server, nothing."""
    layers = [
        {
            "layer": row["name"],
            "polygons": row["polygons"],
            "area_ha": round(row["area_m2"] / 1e4, 2),
            "mean_score": None if row["score_mean"] is None else round(row["score_mean"], 3),
        }
        for row in summary["classes"]
    ]

    def show() -> None:
        create_table_artifact(layers, description=f"Layers of {summary['out']}")
        create_markdown_artifact(_in_words(plan, summary), description="The run, with a quick look")
        create_link_artifact(Path(summary["out"]).as_uri(), link_text=summary["out"], description="Run folder")

    unless_in_vain(show)


def publish_archive(found: dict[str, Any]) -> None:
    """The items of a run over an archive, those that failed first, as a table; for want of a server, nothing."""
    names = dict.fromkeys(layer["name"] for item in found["items"] for layer in item["classes"])
    rows = [
        {
            "item": item["item"],
            "status": item["status"],
            "seconds": item["seconds"],
            **dict.fromkeys((f"{name} (ha)" for name in names), ""),
            **{f"{layer['name']} (ha)": round(layer["area_m2"] / 1e4, 1) for layer in item.get("classes", ())},
            "error": item["error"] or "",
            "folder": item["out"],
        }
        for item in (*found["items"], *found["given_up"])
    ]
    rows.sort(key=lambda row: (row["status"] in {"done", "outside"}, row["item"]))
    what = f"{len(rows)} of {found['found']} items, {found['already_done']} were done before: {found['status']}"
    unless_in_vain(lambda: create_table_artifact(rows or [{"item": "nothing new"}], description=what))


def publish_trial(trial: dict[str, Any]) -> None:
    """What became of a new adapter, as a table and in words; for want of a server, nothing."""
    scores = trial["consistency"]
    rows = [{"adapter": name, "held-out consistency": scores[name]} for name in ("new", "current", "plain")]
    verdict = trial["error"] or ("promoted" if trial["promoted"] else "kept the current one: the new one is not more consistent")
    words = f"Trial {trial['number']}: {verdict}\n\nLearned from {', '.join(trial['items'])}\n\n`{trial['adapter']}`"

    def show() -> None:
        create_table_artifact(rows, description=f"Adapters, compared on {', '.join(trial['held_out'])}")
        create_markdown_artifact(words, description="The trial")

    unless_in_vain(show)


def _in_words(plan: RunPlan, summary: dict[str, Any]) -> str:
    tiles, pixels = summary["tiles"], summary["pixels"]
    unseen, seconds = pixels["not_observed"] / max(1, pixels["aoi"]), sum(summary["seconds"].values())
    scenes = ", ".join(f"{scene['id']} ({scene['datetime'] or 'no date'})" for scene in summary["scenes"])
    state = f"{summary['status']}: {tiles['planned']} tiles, {len(tiles['failed'])} failed; {unseen:.1%} of the area not observed"
    lines = [
        f"## {', '.join(row['name'] for row in summary['classes'])}",
        f"{state}; {seconds:.0f} s",
        f"Scenes: {scenes}",
        f"Model: {summary['model']['name']}, weights `{summary['model']['weights_sha256'][:12]}`; refinement {_refinement(summary)}",
        *(f"- {note}" for note in summary["notes"]),
        *(f"- tile {tile['index']}: {tile['error']}" for tile in tiles["failed"][:20]),
        _picture(plan),
    ]
    return "\n\n".join(lines)


def _refinement(summary: dict[str, Any]) -> str:
    refine = summary["settings"]["refine"]
    return f"{refine['preset']} ({', '.join(refine['steps']) or 'nothing'})"


def _picture(plan: RunPlan) -> str:
    """The run is there: a picture that cannot be drawn is no reason to call it failed."""
    try:
        picture = quick_look(plan)
    except Exception as error:  # noqa: BLE001 - see above
        get_run_logger().warning("no quick look: %s", error)
        return ""
    return f"![The scene and its layers](data:image/jpeg;base64,{base64.b64encode(picture).decode()})"
