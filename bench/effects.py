"""What each refinement does to rs-tiny's accuracy: the table of the model card.

    python bench/effects.py --data ../shared/data [--presets none,smooth,…] [--places dubai,banepa,chesapeake] [--model FOLDER] [--json]

A preset may carry settings after a plus: `none+scoring.tta.flips=true` is the plain model with test-time augmentation, and
`none+scoring.calibrated=false` the one without its calibration.

Mean IoU of the plain model on three places, and each preset's difference to it with a paired 95 % bootstrap interval over the
images, all through `rs-seg evaluate`'s own path. Dubai: Tile 7, which training never saw. Banepa: the drone chips of the
south-eastern quarter, which it never saw either, one by one at 0.5 m; buildings alone. Chesapeake: eight patches at two dates,
nothing but trees in them: vegetation alone, and training DID see them.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING, SEALED
from rs_model.scenes import read_banepa, read_chesapeake

from rs_pipeline.config import load_settings
from rs_pipeline.dataset_checks import check_pairs
from rs_pipeline.datasets import Dataset, find_pairs
from rs_pipeline.evaluate import evaluate
from rs_pipeline.layouts import class_set, load_layout
from rs_pipeline.reporting import Silent
from rs_pipeline.scorecard import describe

PRESETS = ("none", "smooth", "lowpass", "laplacian", "guided", "presence_gate", "query_gate", "prune", "clip")
CHIP_PX, CHIP_GSD_M, MODEL_GSD_M = 512, 0.13, 0.5


def dubai(data: Path, _scratch: Path) -> Dataset:
    """Tile 7, nine images."""
    folder = data / "dubai_mbrsc"
    return find_pairs(load_layout("dubai", folder), folder, "held-out")


def banepa(data: Path, scratch: Path) -> Dataset:
    """The chips of the held-out quarter, cut out of the mosaic that was stretched as a whole."""
    folder, number = _pairs(scratch, {CLASSES.index("building"): "building", NOT_BUILDING: "background", IGNORE: "ignore"}, CHIP_GSD_M), 0
    for scene in read_banepa(data, "test"):
        for top in range(0, scene.codes.shape[0], CHIP_PX):
            for left in range(0, scene.codes.shape[1], CHIP_PX):
                chip = np.s_[top : top + CHIP_PX, left : left + CHIP_PX]
                if (scene.codes[chip] != IGNORE).any():
                    _write(folder, f"{number:03}", scene.image[chip], scene.codes[chip])
                    number += 1
    return find_pairs(load_layout("pairs", folder), folder)


def chesapeake(data: Path, scratch: Path) -> Dataset:
    """Eight patches at two dates. "Impervious" is a roof or paving, undecided: ignored."""
    folder = _pairs(scratch, {**dict(enumerate(CLASSES)), SEALED: "ignore", IGNORE: "ignore"}, 1.0)
    for number, scene in enumerate(read_chesapeake(data)):
        _write(folder, f"{number:03}", scene.image, scene.codes)
    return find_pairs(load_layout("pairs", folder), folder)


PLACES: dict[str, tuple[Callable[[Path, Path], Dataset], tuple[str, ...], dict[str, Any]]] = {
    "dubai": (dubai, (), {}),
    "banepa": (banepa, ("building",), {"gsd_m": MODEL_GSD_M}),
    "chesapeake": (chesapeake, ("vegetation",), {}),
}
"""How to find a place's images, the classes that are scored (none: all), and settings."""


def _pairs(folder: Path, palette: dict[int, str], gsd_m: float) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir()
    (folder / "palette.yaml").write_text(yaml.safe_dump({"palette": palette, "gsd_m": gsd_m}))
    return folder


def _write(folder: Path, name: str, image: np.ndarray, codes: np.ndarray) -> None:
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    Image.fromarray(codes).save(folder / "masks" / f"{name}.png")


def effects(place: str, data: Path, presets: list[str], model: Path | None = None) -> dict[str, Any]:
    """The report of `rs-seg evaluate --compare` on one place; `model` is a weights folder, None the shipped one."""
    find, classes, flags = PLACES[place]
    with TemporaryDirectory(prefix="rs-seg-effects-") as scratch:
        dataset = find(data, Path(scratch))
        check_pairs(dataset)
        evaluations = {}
        for preset in presets:
            name, *sets = preset.split("+")
            own = {"refine.preset": name, "device": "cpu", "workers.cluster": "in-process", **flags}
            settings = load_settings(None, own | ({"model": str(model)} if model is not None else {}), sets)
            evaluations[preset] = evaluate(dataset, settings, class_set(dataset.layout, classes), Silent())
        return describe(dataset, {"place": place}, evaluations)


def main() -> None:
    """Prints the table in Markdown, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--model", type=Path, help="weights folder; the shipped one if left out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    presets = args.presets.split(",")
    warnings.simplefilter("ignore")  # of images without a georeference: they get one
    reports = {place: effects(place, args.data, presets, args.model) for place in args.places.split(",")}
    print("| refinement | " + " | ".join(f"{place} ({report['images']} images)" for place, report in reports.items()) + " |")
    print("|---|" + "---|" * len(reports))
    for preset in presets:
        print(
            f"| {preset} | "
            + " | ".join(_cell(report["presets"][preset], first=preset == presets[0]) for report in reports.values())
            + " |"
        )
    if args.json:
        print(json.dumps(reports))


def _cell(figures: dict[str, Any], *, first: bool) -> str:
    """Figure and interval; the figure alone where there are too few images for one."""
    value, span = (figures["miou"], figures["miou_interval"]) if first else figures["difference"].values()
    form = ".3f" if first else "+.4f"
    if value is None:
        return "-"
    return f"{value:{form}}" if span is None else f"{value:{form}} ({span[0]:{form}}…{span[1]:{form}})"


if __name__ == "__main__":
    main()
