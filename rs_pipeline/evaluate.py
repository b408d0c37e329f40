"""Runs held against the truth: one run of the demo, or a run for every image of a labelled data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import RunSettings
from rs_pipeline.datasets import Dataset, Pair, read_truth
from rs_pipeline.demo import TRUTH_LAYERS, truth_labels
from rs_pipeline.errors import OutputError, SegmenterError
from rs_pipeline.grid import Grid
from rs_pipeline.image_runs import BlankImage, ImageRun, nothing_to_score, run_images
from rs_pipeline.metrics import Boundary, Confusion, boundary, confusion
from rs_pipeline.plan import RunPlan
from rs_pipeline.products import read_manifest
from rs_pipeline.raster import read_labels
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo, check_refinements, check_vocabulary, find_provider


def score_run(run: Path, truth: Path) -> dict[str, dict[str, float]]:
    """How well a run of the demo agrees with its truth, class by class: each class against all else.

    Parameters
    ----------
    run: a run folder.
    truth: the demo's truth.gpkg.

    Returns
    -------
    Class name to iou, precision, recall (0…1) over the observed pixels; classes that the truth does not hold are left out.

    Raises
    ------
    OutputError: not a run folder, no truth there, or none for any class of the run.
    """
    manifest = read_manifest(run)
    if manifest is None:
        raise OutputError("a run folder with a run.json", str(run), "Name the folder that `rs-seg run` printed.")
    if not truth.is_file():
        raise OutputError("the demo's truth", f"{truth}, which does not exist", "Make it with `rs-seg demo`.")
    values = {c["name"]: c["value"] for c in manifest["classes"] if c["name"] in TRUTH_LAYERS}
    if not values:
        raise OutputError(f"a run of {', '.join(TRUTH_LAYERS)}", f"other classes in {run}", "Run the demo's classes.")
    labels = read_labels(run / "labels.tif")
    grid = Grid.from_dict(manifest["plan"]["grid"])
    scores = {}
    for name, value in values.items():
        real = truth_labels(truth, [name], grid)
        predicted = np.where(labels == 255, labels, (labels == value).astype(np.uint8))
        scores[name] = _scores(confusion(real, predicted, 2))
    return scores


def _scores(counts: Confusion) -> dict[str, float]:
    return {key: float(getattr(counts, key)[1]) for key in ("iou", "precision", "recall")}


@dataclass(frozen=True, slots=True)
class ImageScore:
    """How well the run of one image agrees with its mask."""

    name: str
    confusion: Confusion
    """Labels 0 (background, and classes not asked for), 1…K, over the mask's own pixels."""
    boundary: Boundary
    unknown_px: int
    """Pixels whose colour the palette does not have."""
    failed: tuple[tuple[int, str], ...]
    """Tiles that failed, with the error; their pixels are not observed."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One setting on one data set."""

    settings: RunSettings
    classes: ClassSet
    """With the thresholds that were used."""
    plan: RunPlan
    """Of the first image that was run: model, tiles."""
    gsd_m: tuple[float, float]
    """Least and greatest metres per pixel that the images were segmented at."""
    images: tuple[ImageScore, ...]

    @property
    def confusion(self) -> Confusion:
        """Pooled over the images."""
        first, *others = (image.confusion for image in self.images)
        return sum(others, start=first)

    @property
    def boundary(self) -> Boundary:
        """Pooled over the images."""
        first, *others = (image.boundary for image in self.images)
        return sum(others, start=first)


def check_model(settings: Mapping[str, RunSettings], classes: ClassSet) -> None:
    """Refuse words and refinements that the model does not know, of every setting before the first image of one.

    Parameters
    ----------
    settings: by preset.

    Raises
    ------
    SegmenterError: names the words, and the classes that can be asked for; or the preset.
    """
    for preset, each in settings.items():
        info = find_provider(each.model).info()
        _check_words(info, classes)
        try:
            check_refinements(info, each.options.refine.active)
        except SegmenterError as error:
            if len(settings) == 1:
                raise
            raise SegmenterError(error.expected, f"{error.got} in {preset}", "Leave it out of --compare.") from error


def _check_words(info: ModelInfo, classes: ClassSet) -> None:
    try:
        check_vocabulary(info, classes)
    except SegmenterError as error:
        known = ",".join(c.name for c in classes if _knows(info, c))
        if not known:
            raise
        raise SegmenterError(error.expected, error.got, f"{error.fix} Of these classes it knows --classes {known}.") from error


def _knows(info: ModelInfo, wanted: Class) -> bool:
    try:
        check_vocabulary(info, ClassSet((replace(wanted, value=1),)))
    except SegmenterError:
        return False
    return True


def evaluate(dataset: Dataset, settings: RunSettings, classes: ClassSet, reporter: Reporter) -> Evaluation:
    """Run every image as `rs-seg run` would and hold its labels against its mask.

    The data set is one that `check_pairs` lets pass. A truth of a class that is not among `classes` counts as background, label 0; pixels
    without a truth count nowhere.

    Raises
    ------
    RsSegError: whatever keeps an image from being run, or a mask from being read, and nothing to score. Failed tiles do not.
    """
    plans: list[RunPlan] = []

    def score(pair: Pair, run: ImageRun | BlankImage) -> ImageScore:
        truth = read_truth(pair.mask, dataset.layout, classes)
        if truth.unknown_px:
            reporter.note(f"{pair.name}: {truth.unknown_px} px of {pair.mask.name} have a colour the palette does not have: ignored")
        if run.plan is not None:
            plans.append(run.plan)
        found, count = run.labels(), len(classes) + 1
        counts, edges = confusion(truth.labels, found, count), boundary(truth.labels, found, count)
        return ImageScore(pair.name, counts, edges, truth.unknown_px, run.failed)

    if dataset.without_mask:
        reporter.note(f"{dataset.without_mask} images of {dataset.folder} have no mask and are left out")
    images = run_images(dataset, settings, classes, reporter, score)
    if not any(image.confusion.counts.any() for image in images):
        raise nothing_to_score(dataset)
    sizes = [plan.job.plan.grid.gsd_m for plan in plans]
    return Evaluation(plans[0].settings, plans[0].job.classes, plans[0], (min(sizes), max(sizes)), tuple(images))
