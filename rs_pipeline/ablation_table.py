"""The table of an ablation: mean IoU of each row, its difference to the first row with a paired interval; Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.ablation import Judged, Result
from rs_pipeline.metrics import Confusion, bootstrap_miou, interval

_FIRST = 1
"""Label of the first class."""
_LEAST_IMAGES = 5
"""Fewer images say too little of others: no interval is given."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A row on a place: means over its seeds."""

    miou: float
    iou: dict[str, float]
    """By class."""
    difference: float
    """Of `miou` to that of the first row."""
    low: float
    high: float
    """The 95 % interval of the difference, paired over images; NaN where there are too few."""
    spread: float
    """Largest less smallest mean IoU among the seeds."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    name: str
    seeds: int
    before: float
    """Held-out consistency of the model as it is, mean over seeds; NaN for a row without adaptation."""
    after: float
    places: dict[str, Figures]


def table_of(results: Sequence[Result]) -> list[Line]:
    """Lines in the order of the rows; the first row is what the others are held against."""
    names = list(dict.fromkeys(result.name for result in results))
    rows = [[result for result in results if result.name == name] for name in names]
    return [_line(row, rows[0]) for row in rows]


def _line(row: Sequence[Result], first: Sequence[Result]) -> Line:
    adaptations = [result.adaptation for result in row if result.adaptation is not None]
    before, after = (
        float(np.mean([made[key] for made in adaptations])) if adaptations else math.nan for key in ("consistency_before", "consistency")
    )
    places = {place: _figures([r.places[place] for r in row], [r.places[place] for r in first]) for place in row[0].places}
    return Line(row[0].name, len(row), before, after, places)


def _figures(row: Sequence[Judged], first: Sequence[Judged]) -> Figures:
    classes = row[0].classes
    pooled = [_pooled(judged) for judged in row]
    means = [counts.mean_iou(_FIRST) for counts in pooled]
    iou = {name: float(np.nanmean([counts.iou[_FIRST + k] for counts in pooled])) for k, name in enumerate(classes)}
    difference = float(np.mean(means) - np.mean([_pooled(judged).mean_iou(_FIRST) for judged in first]))
    low, high = interval(_samples(row) - _samples(first)) if len(row[0].images) >= _LEAST_IMAGES else (math.nan, math.nan)
    return Figures(float(np.mean(means)), iou, difference, low, high, float(max(means) - min(means)))


def _pooled(judged: Judged) -> Confusion:
    first, *others = judged.images
    return sum(others, start=first)


def _samples(row: Sequence[Judged]) -> NDArray[np.float64]:
    """Mean over seeds, for each draw of the images: the same draws for every row."""
    return np.asarray(np.mean([bootstrap_miou(judged.images, _FIRST) for judged in row], axis=0), np.float64)


def as_markdown(lines: Sequence[Line]) -> str:
    """The table, as a model card has it."""
    places = list(lines[0].places)
    head = ["row", "consistency", *(f"{place}, mean IoU" for place in places)]
    body = [[line.name, _consistency(line), *(_text(line.places[place], is_first=line is lines[0]) for place in places)] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)) + "\n"


def _consistency(line: Line) -> str:
    return "" if math.isnan(line.after) else f"{line.before:.3f} → {line.after:.3f}"


def _text(figures: Figures, *, is_first: bool) -> str:
    if is_first:
        return f"{figures.miou:.3f}"
    inside = "" if math.isnan(figures.low) else f" ({figures.low:+.4f}…{figures.high:+.4f})"
    return f"{figures.miou:.3f}, {figures.difference:+.4f}{inside}"


def as_csv(lines: Sequence[Line]) -> str:
    """A line for each row and place, a column for each figure and class."""
    classes = list(dict.fromkeys(name for line in lines for figures in line.places.values() for name in figures.iou))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seeds", "consistency_before", "consistency", "place", "miou", "difference", "low", "high", "spread", *classes])
    for line in lines:
        for place, f in line.places.items():
            figures = (f.miou, f.difference, f.low, f.high, f.spread, *(f.iou.get(name, math.nan) for name in classes))
            writer.writerow(
                [line.name, line.seeds, *map(_number, (line.before, line.after)), place, *map(_number, figures)],
            )
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """JSON-ready; what does not exist is null."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return [
        {
            "row": line.name,
            "seeds": line.seeds,
            "consistency_before": number(line.before),
            "consistency": number(line.after),
            "places": {
                place: {
                    "miou": number(f.miou),
                    "iou": {name: number(value) for name, value in f.iou.items()},
                    "difference": number(f.difference),
                    "interval": None if math.isnan(f.low) else [f.low, f.high],
                    "spread": number(f.spread),
                }
                for place, f in line.places.items()
            },
        }
        for line in lines
    ]
