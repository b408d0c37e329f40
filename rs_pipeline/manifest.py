"""What a run says of itself: `run.json`, and the tags of its rasters."""

from __future__ import annotations

import datetime as dt
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline import __version__
from rs_pipeline.adapters import describe_adapter
from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.layer_metadata import LayerAbout
from rs_pipeline.layers import COVERAGE_LAYER, SCENES_LAYER, LayerSummary
from rs_pipeline.plan import RunPlan
from rs_pipeline.raster import gdal_version

_LIBRARIES = (
    "rasterio",
    "pyproj",
    "shapely",
    "numpy",
    "buildingregulariser",
    "distributed",
    "torch",
    "transformers",
    "timm",
    "open_clip_torch",
)


@dataclass(frozen=True)
class Outcome:
    """What a run found out."""

    tiles: dict[str, Any]
    """reused, computed, empty: counts; failed: [(index, error)]; classes, store, groups: where each class's tiles come from."""
    pixels: NDArray[np.int64]
    """(256,) pixels of the AOI by label."""
    layers: dict[str, LayerSummary]
    seconds: dict[str, float]
    """By stage."""
    files: list[str]
    """Names of the products."""
    notes: list[str]
    """What the user should know of it."""


def describe_run(plan: RunPlan, outcome: Outcome) -> dict[str, Any]:
    """The content of `run.json`."""
    job = plan.job
    pixels = int(outcome.pixels.sum())
    unseen = int(outcome.pixels[NOT_OBSERVED])
    return {
        "product": "rs-seg",
        "version": __version__,
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "out": str(plan.out),
        "run_key": plan.run_key,
        "status": "partial" if outcome.tiles["failed"] else "complete",
        "classes": [
            {
                **facts,
                "polygons": outcome.layers[facts["name"]].count,
                "area_m2": outcome.layers[facts["name"]].area_m2,
                "score_mean": outcome.layers[facts["name"]].score_mean,
                "pixels": int(outcome.pixels[facts["value"]]),
            }
            for facts in job.classes.to_list()
        ],
        "pixels": {"aoi": pixels, "observed": pixels - unseen, "not_observed": unseen, "background": int(outcome.pixels[0])},
        "tiles": {
            "planned": plan.tiles,
            **{key: outcome.tiles[key] for key in ("reused", "computed", "empty", "classes", "store", "groups")},
            "failed": [{"index": index, "error": error} for index, error in outcome.tiles["failed"]],
        },
        "plan": {
            "digest": job.plan.digest,
            "tile_px": job.plan.tile_px,
            "overlap_px": job.plan.overlap_px,
            "grid": job.plan.grid.to_dict(),
            "gsd_m": job.plan.grid.gsd_m,
        },
        "scenes": describe_scenes(plan),
        "model": {
            "name": plan.info.name,
            "weights_sha256": plan.info.weights_sha256,
            "code_version": plan.info.code_version,
            "device": plan.settings.device,
            **_adapter(plan),
        },
        "settings": plan.settings.model_dump(mode="json"),
        "workers": {"kind": plan.crew.kind, "count": plan.crew.count},
        "versions": {"python": platform.python_version(), "gdal": gdal_version()} | {name: version(name) for name in _LIBRARIES},
        "files": sorted(outcome.files),
        "notes": [*plan.notes, *outcome.notes],
        "seconds": outcome.seconds,
    }


def _adapter(plan: RunPlan) -> dict[str, Any]:
    told = plan.job.options.adapter
    return {"adapter": describe_adapter(plan.adapter, told.sha256)} if plan.adapter is not None and told is not None else {}


def _model(plan: RunPlan) -> str:
    """Name and digest of the model, and of the adapter that it wore."""
    told = plan.job.options.adapter
    return f"{plan.info.name} {plan.info.weights_sha256}{f' with adapter {told.sha256}' if told is not None else ''}"


def describe_scenes(plan: RunPlan) -> list[dict[str, Any]]:
    """The scenes of a run, on top first."""
    return [
        {
            "id": s.id,
            "datetime": s.datetime,
            "href": s.info.href,
            "item": s.item_href,
            "licence": s.licence,
            "fingerprint": s.info.fingerprint,
            "crs": s.info.crs.to_string(),
            "gsd_m": round(s.info.gsd_m, 4),
            "size_px": [s.info.height, s.info.width],
            "bands": list(s.bands),
            "stretch": asdict(s.stretch),
        }
        for s in plan.job.scenes
    ]


def describe_layers(plan: RunPlan) -> dict[str, LayerAbout]:
    """What each layer says of itself, by name."""
    job = plan.job
    licence = plan.settings.vectors.licence or ", ".join(dict.fromkeys(s.licence for s in job.scenes if s.licence is not None)) or None
    dates = sorted(s.datetime[:10] for s in job.scenes if s.datetime is not None)
    taken = f" of {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    scenes = f"{len(job.scenes)} scene{'s' * (len(job.scenes) != 1)}{taken}"
    made = f"Made {dt.datetime.now(dt.UTC).date()} by rs-seg {__version__} with the model {_model(plan)}"
    about = {
        c.name: LayerAbout(
            c.name,
            f"Objects that were found in {scenes} by the words {', '.join(c.prompts)}: pixels of {job.plan.grid.gsd_m:g} m with a "
            f"probability of at least {c.threshold:g}, and of this class before any other. {made}.",
            licence,
        )
        for c in job.classes
    }
    about[COVERAGE_LAYER] = LayerAbout(
        "coverage", f"What of the area asked for was observed, and what was not, in {scenes}. {made}.", licence
    )
    about[SCENES_LAYER] = LayerAbout("scenes", f"Outlines of the images, cut to the run's grid: {scenes}. {made}.", licence)
    return about


def raster_tags(plan: RunPlan) -> dict[str, str]:
    """GeoTIFF tags that keep a raster's meaning when it leaves its folder."""
    classes = plan.job.classes
    return {
        "RS_SEG_VERSION": __version__,
        "RS_SEG_CLASSES": json.dumps({c.value: c.name for c in classes}),
        "RS_SEG_PROMPTS": json.dumps({c.name: c.prompts for c in classes}),
        "RS_SEG_THRESHOLDS": json.dumps({c.name: c.threshold for c in classes}),
        "RS_SEG_MODEL": _model(plan),
        "RS_SEG_STATES": "0 background, 255 not observed",
    }
