"""Calibration and thresholds of a model, from the calibration split: `python -m rs_model.calibrate --data ../shared/data`.

    python -m rs_model.calibrate --data DIR [--model FOLDER] [--form temperature|shared|platt] [--write]
                                 [--diagram OUT.png] [--set KEY=VALUE] [--threads N]

Fits the scores of the queries to the pixels of their masks first (`query_calibration`), which before and after have alike. Then it
fits a temperature for each class; or, with `--form shared`, one temperature and one bias for all classes, which leaves the likeliest
class of every pixel as it is; or, with `--form platt`, both for each class, which makes rare classes rarer where classes compete.
Prints calibration error and IoU before and after on the calibration and the test places, and the IoU of thresholds after it. (A run
scales each tile, here the blended windows are: a difference in the third decimal.) `--write` puts the calibration into the weights
folder's config.json. The thresholds are for `configs/classes/default.yaml`; nothing here is chosen on a test place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rs_model.calibration import Calibration, Scaling, fit_scaling, queries_of, rescale, to_config
from rs_model.labels import CLASSES
from rs_model.pictures import Curve, reliability_diagram
from rs_model.places import Place
from rs_model.provider import tiny_provider
from rs_model.query_calibration import NAME, fit_queries
from rs_model.reliability import Tally, reliability
from rs_model.scenes import Scene
from rs_model.score import PlaceScore, Scores, all_classes, options_of, places_of, score_places
from rs_model.score_tables import figures, mean
from rs_model.segmenter import PromptedSegmenter
from rs_model.tiny import TinySam3
from rs_model.weights import SHIPPED, write_calibration
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import RsSegError
from rs_pipeline.segmenter import Segmenter

Form = Literal["temperature", "shared", "platt"]
THRESHOLDS = tuple(percent / 100 for percent in range(5, 96, 5))
AS_GOOD = 0.01
"""Difference of IoU below which the calibration places, few as they are, do not tell two thresholds apart."""


def fit(scores: Sequence[PlaceScore], form: Form = "temperature") -> dict[str, Scaling]:
    """A scaling for each class that some calibration place knows and holds; the others stay as they are.

    `shared`: one for all five, every class of every place weighing the same.
    """
    known = {
        name: [tally for tally in tallies_of(scores, name, "calibration") if tally.counts[:, 1:].any(axis=1).all()] for name in CLASSES
    }
    if form == "shared":
        return dict.fromkeys(CLASSES, fit_scaling([tally for tallies in known.values() for tally in tallies]))
    return {name: fit_scaling(tallies, with_bias=form == "platt") for name, tallies in known.items() if tallies}


def score_both(
    segmenter: Segmenter, tile_px: int, data: Path, places: Sequence[Place], calibration: Calibration, classes: ClassSet | None = None
) -> tuple[list[PlaceScore], list[PlaceScore]]:
    """The places as the model scores them, and with its scores calibrated; images are segmented once. `classes`: see `score_places`."""
    classes, after = classes or all_classes(), {place.name: PlaceScore(place) for place in places}

    def calibrated(place: Place, scene: Scene, scores: Scores, _: float) -> None:
        after[place.name].add(scene, rescale(scores, classes.names, calibration), classes)

    return score_places(segmenter, tile_px, data, places, calibrated, classes), list(after.values())


def tallies_of(scores: Sequence[PlaceScore], name: str, split: str) -> list[Tally]:
    """Of a class on the places of a split whose labels know it."""
    return [score.tallies[name] for score in scores if score.place.split == split and name in score.tallies]


def iou_by_threshold(scores: Sequence[PlaceScore], name: str) -> NDArray[np.float64]:
    """(thresholds,) IoU of a class against all else, the mean over the calibration places that hold it."""
    places = [tally for tally in tallies_of(scores, name, "calibration") if tally.counts[1].any()]
    return np.array([mean(tally.iou(threshold) for tally in places) for threshold in THRESHOLDS])


def best_thresholds(scores: Sequence[PlaceScore]) -> dict[str, float]:
    """By class, of those as good as the best the nearest to a half; classes that no calibration place holds are left out."""
    rows = {name: iou_by_threshold(scores, name) for name in CLASSES}
    found = {}
    for name, row in rows.items():
        if not np.isnan(row).any():
            good = [threshold for threshold, iou in zip(THRESHOLDS, row, strict=True) if iou >= row.max() - AS_GOOD]
            found[name] = min(good, key=lambda threshold: abs(threshold - 0.5))
    return found


def describe_errors(before: Sequence[PlaceScore], after: Sequence[PlaceScore], calibration: Calibration) -> str:
    """Calibration error of each class, before and after, as means over the places of a split."""
    titles = [f"{split}, {kind}" for split in ("calibration", "test") for kind in ("ECE", "adaptive ECE")]
    lines = [f"{'class':<12}{'temperature':>12}{'bias':>8}" + "".join(f"{title:>28}" for title in titles)]
    rows: list[list[tuple[float, float]]] = []
    for name in CLASSES:
        pairs = [
            (_error(before, name, split, adaptive=adaptive), _error(after, name, split, adaptive=adaptive))
            for split in ("calibration", "test")
            for adaptive in (False, True)
        ]
        rows.append(pairs)
        scaling = calibration.get(name)
        numbers = f"{scaling.temperature:>12.3f}{scaling.bias:>8.3f}" if scaling else f"{'-':>12}{'-':>8}"
        lines.append(f"{name:<12}{numbers}" + "".join(f"{f'{a:.3f} → {b:.3f}':>28}" for a, b in pairs))
    means = [(mean(a for a, _ in column), mean(b for _, b in column)) for column in zip(*rows, strict=True)]
    lines.append(f"{'mean':<32}" + "".join(f"{f'{a:.3f} → {b:.3f}':>28}" for a, b in means))
    return "\n".join(lines)


def _error(scores: Sequence[PlaceScore], name: str, split: str, *, adaptive: bool) -> float:
    return mean(reliability(tally, adaptive=adaptive).error for tally in tallies_of(scores, name, split))


def describe_iou(before: Sequence[PlaceScore], after: Sequence[PlaceScore]) -> str:
    """IoU of the likeliest class, and as a run with today's thresholds: a scaling of each class's own can change which is likeliest."""
    lines = [f"{'place':<24}{'class':<12}{'IoU, likeliest':>20}{'IoU, as a run':>20}"]
    for one, other in zip(before, after, strict=True):
        for (name, old), new in zip(figures(one).items(), figures(other).values(), strict=True):
            pairs = (f"{old[i]:.3f} → {new[i]:.3f}" if not np.isnan(old[i]) else "-" for i in (0, 1))
            lines.append(f"{one.place.name:<24}{name:<12}" + "".join(f"{pair:>20}" for pair in pairs))
    return "\n".join(lines)


def describe_thresholds(scores: Sequence[PlaceScore]) -> str:
    """IoU by class and threshold, and the lines for `configs/classes/default.yaml`."""
    lines = [f"{'threshold':<12}" + "".join(f"{threshold:>7.2f}" for threshold in THRESHOLDS)]
    lines += [f"{name:<12}" + "".join(f"{value:7.3f}" for value in iou_by_threshold(scores, name)) for name in CLASSES]
    lines += [f"{name}:\n  threshold: {threshold:g}" for name, threshold in best_thresholds(scores).items()]
    return "\n".join(lines)


def curves_of(scores: Sequence[PlaceScore], after: Mapping[str, Scaling], split: str) -> dict[str, list[Curve]]:
    """For the reliability diagram: by class, pooled over the places of a split, each weighing what it has pixels; before and after."""
    found = {}
    for name in CLASSES:
        tallies = tallies_of(scores, name, split)
        if tallies:
            pooled = sum(tallies[1:], start=tallies[0])
            scaling = after.get(name)
            curves = [Curve("before", reliability(pooled))]
            found[name] = [*curves, Curve("after", reliability(pooled, scaling.apply if scaling else expit))]
    return found


def main() -> int:
    """Fits, prints, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", type=Path, default=SHIPPED, help="weights folder; the shipped one if left out")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="a setting, as a run takes them")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--form", choices=get_args(Form), default="temperature", help="what is fitted")
    parser.add_argument("--write", action="store_true", help="put the calibration into the weights folder")
    parser.add_argument("--diagram", type=Path, metavar="OUT.png", help="draw reliability, before and after, on both splits")
    args = parser.parse_args()
    try:
        provider, options = tiny_provider(args.model), options_of(*args.sets, "scoring.calibrated=false")
        tile_px, segmenter = provider.info().tile_px, cast("PromptedSegmenter", provider.load(options, args.threads))
        places = [place for place in places_of(("calibration",)) if NAME in place.classes]
        queries = fit_queries(cast("TinySam3", segmenter.model), tile_px, args.data, places, options.scoring.query_threshold)
        segmenter.calibration = {queries_of(NAME): queries} if queries is not None else {}
        calibration = fit(score_places(segmenter, tile_px, args.data, places_of(("calibration",))), args.form)
        before, after = score_both(segmenter, tile_px, args.data, places_of(("calibration", "test")), calibration, all_classes(*args.sets))
        if queries is not None:
            print(f"{queries_of(NAME)}: temperature {queries.temperature:.3f}, bias {queries.bias:.3f}", end="\n\n")  # noqa: T201
        for part in (describe_errors(before, after, calibration), describe_iou(before, after), describe_thresholds(after)):
            print(part, end="\n\n")  # noqa: T201
        if args.diagram is not None:
            rows = {split: curves_of(before, calibration, split) for split in ("calibration", "test")}
            reliability_diagram(rows).save(args.diagram)
        if args.write:
            write_calibration(args.model, to_config({**calibration, **segmenter.calibration}))
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
