"""Runs held against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rs_pipeline.demo import TRUTH_LAYERS, truth_labels
from rs_pipeline.errors import OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.metrics import Confusion, confusion
from rs_pipeline.products import read_manifest
from rs_pipeline.raster import read_labels


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
