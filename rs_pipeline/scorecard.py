"""The figures of an evaluation, JSON-ready: a number that does not exist (a class in neither truth nor prediction) is null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.datasets import Dataset
from rs_pipeline.evaluate import Evaluation
from rs_pipeline.layouts import OTHER
from rs_pipeline.metrics import BOUNDARY_TOLERANCE, bootstrap_miou, interval

_FIRST = 1
"""Label of the first class: the background has an IoU, but no part in the means."""
_LEAST_IMAGES = 5
"""Fewer images say too little of others: no interval is given."""
_OF_A_RUN = {
    "aoi", "classes", "vocabulary", "source", "catalog", "collections", "datetime", "max_cloud_cover", "asset", "roots",
    "out", "outputs", "overwrite", "composite", "vectors",
}  # fmt: skip


def describe_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Figures of one setting."""
    names, total, edges = evaluation.classes.names, evaluation.confusion, evaluation.boundary
    plan = evaluation.plan
    return {
        "miou": _number(total.mean_iou(_FIRST)),
        "miou_interval": _interval(_samples(evaluation)),
        "miou_with_background": _number(total.mean_iou()),
        "iou": _by_class(names, total.iou),
        "iou_background": _number(float(total.iou[0])),
        "pixel_accuracy": _number(total.pixel_accuracy),
        "boundary_f1": {
            "mean": _number(_mean(edges.f1[_FIRST:])),
            "classes": _by_class(names, edges.f1),
            "tolerance_of_diagonal": BOUNDARY_TOLERANCE,
        },
        "confusion": {"labels": [OTHER, *names], "rows": "truth", "columns": "prediction", "counts": total.counts.tolist()},
        "thresholds": {c.name: c.threshold for c in evaluation.classes},
        "not_observed_px": total.not_observed,
        "unknown_px": sum(image.unknown_px for image in evaluation.images),
        "failed_tiles": [
            {"image": image.name, "index": index, "error": error} for image in evaluation.images for index, error in image.failed
        ],
        "settings": evaluation.settings.model_dump(mode="json", exclude=_OF_A_RUN)
        | {"gsd_m": list(evaluation.gsd_m), "tile_px": plan.job.plan.tile_px, "overlap_px": plan.job.plan.overlap_px},
    }


def describe(dataset: Dataset, facts: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """What was evaluated, and its figures: of the one setting, or of each under `presets` with its difference to the first."""
    first = next(iter(evaluations.values()))
    base = {
        "data": str(dataset.folder),
        **facts,
        "images": len(dataset.pairs),
        "images_without_mask": dataset.without_mask,
        "classes": [{"name": c.name, "prompts": list(c.prompts)} for c in first.classes],
        "model": {"name": first.plan.info.name, "weights_sha256": first.plan.info.weights_sha256},
    }
    if len(evaluations) == 1:
        return base | describe_evaluation(first)
    return base | {
        "presets": {name: describe_evaluation(each) | {"difference": _difference(first, each)} for name, each in evaluations.items()}
    }


def _difference(first: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Mean IoU of `other` less that of `first`, with the interval of the difference on the same draws of images."""
    return {
        "miou": _number(other.confusion.mean_iou(_FIRST) - first.confusion.mean_iou(_FIRST)),
        "interval": _interval(_samples(other) - _samples(first)),
    }


def _samples(evaluation: Evaluation) -> NDArray[np.float64]:
    """Mean IoU of the classes over draws of the images, the same draws for every setting; NaN where there are too few images."""
    drawn = bootstrap_miou([image.confusion for image in evaluation.images], _FIRST)
    return drawn if len(evaluation.images) >= _LEAST_IMAGES else np.full_like(drawn, np.nan)


def _interval(samples: NDArray[np.float64]) -> list[float] | None:
    low, high = interval(samples)
    return None if math.isnan(low) else [low, high]


def _by_class(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: _number(float(value)) for name, value in zip(names, values[_FIRST:], strict=True)}


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
