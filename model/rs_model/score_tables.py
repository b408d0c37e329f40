"""Scores of places as text, as the model card's Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rs_model.labels import CLASSES
from rs_model.score import PlaceScore
from rs_pipeline.segmenter import ModelInfo

MEAN = "mean"
_COLUMNS = ("IoU, likeliest", "IoU, as a run", "ECE", "ECE, adaptive")


def mean(values: Iterable[float]) -> float:
    """Of the numbers among them; NaN without one."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def figures(score: PlaceScore) -> dict[str, tuple[float, float, float, float]]:
    """By class, and the mean last where there are several: IoU of the likeliest, IoU as a run, ECE, adaptive ECE."""
    rows = {
        name: (
            score.iou(name, as_run=False),
            score.iou(name, as_run=True),
            score.calibration_error(name),
            score.calibration_error(name, adaptive=True),
        )
        for name in score.place.classes
    }
    if len(rows) > 1:
        first, second, third, fourth = (mean(column) for column in zip(*rows.values(), strict=True))
        rows[MEAN] = first, second, third, fourth
    return rows


def as_text(scores: Sequence[PlaceScore]) -> str:
    """One line per place and class."""
    lines = [f"{'place':<24}{'split':<13}{'class':<12}" + "".join(f"{column:>16}" for column in _COLUMNS)]
    for score in scores:
        for name, row in figures(score).items():
            lines.append(f"{score.place.name:<24}{score.place.split:<13}{name:<12}" + "".join(f"{_number(value):>16}" for value in row))
    return "\n".join(lines)


def as_card(scores: Sequence[PlaceScore]) -> str:
    """A table of places and classes for each kind of figure: IoU by both rules, and calibration error."""
    return "\n\n".join(_card_table(scores, column) for column in range(len(_COLUMNS)))


def _card_table(scores: Sequence[PlaceScore], column: int) -> str:
    lines = [f"| {_COLUMNS[column]} | images | " + " | ".join((*CLASSES, f"**{MEAN}**")) + " |", "|---|" + "---|" * (len(CLASSES) + 2)]
    for score in scores:
        rows = figures(score)
        cells = [_number(rows[name][column]) if name in rows else "" for name in CLASSES]
        total = f"**{_number(rows[MEAN][column])}**" if MEAN in rows else ""
        if any(cell not in {"", "-"} for cell in cells):
            lines.append(f"| {score.place.name} ({score.place.split}) | {score.images} | {' | '.join((*cells, total))} |")
    return "\n".join(lines)


def as_json(scores: Sequence[PlaceScore], info: ModelInfo) -> dict[str, Any]:
    """The same, numbers unrounded and null for none, with the digest of the weights."""
    keys = ("iou", "iou_as_run", "ece", "ece_adaptive")
    places = [
        {
            "place": score.place.name,
            "split": score.place.split,
            "images": score.images,
            "classes": {
                name: {key: None if np.isnan(value) else value for key, value in zip(keys, row, strict=True)}
                for name, row in figures(score).items()
            },
        }
        for score in scores
    ]
    return {"model": info.name, "weights_sha256": info.weights_sha256, "places": places}


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
