"""Size, speed and accuracy of rs-tiny, of one weights folder or of several that were tried:

    python bench/model.py [--models FOLDER FOLDER …] [--data ../shared/data] [--set KEY=VALUE] [--threads N] [--json]

Megapixels per second are of the model alone, batches of four 512 px tiles, a class with one prompt each. Mean IoU is that of the
likeliest of five classes on Dubai Tile 2, building IoU that of Banepa's south-western quarter: the calibration places, so that models
can be chosen by this table and the test places stay unseen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rs_model.provider import tiny_provider
from rs_model.score import options_of, places_of, score_places
from rs_model.score_tables import MEAN, figures
from rs_model.weights import SHIPPED, WEIGHTS
from safetensors import safe_open

from rs_pipeline.errors import RsSegError
from rs_pipeline.segmenter import Segmenter
from rs_pipeline.vocabulary import load_vocabulary

NAMES = ("road", "water", "building", "vegetation", "land")
ROUNDS = 7
COLUMNS = ("parameters, million", "MB", "MP/s, 2 classes", "MP/s, 5 classes", "mean IoU, Dubai Tile 2", "building IoU, Banepa south-west")


def megapixels_per_second(segmenter: Segmenter, classes: int) -> float:
    """Median of several passes over one batch, the first not counted."""
    wanted = load_vocabulary("default").class_set(NAMES[:classes])
    images, valid = np.random.default_rng(0).random((4, 3, 512, 512), np.float32), np.ones((4, 512, 512), bool)
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        segmenter.segment(images, valid, wanted)
        seconds.append(time.perf_counter() - start)
    return float(valid.size / 1e6 / np.median(seconds[1:]))


def size(folder: Path) -> tuple[float, float]:
    """Parameters in millions, and MB on disk with the configuration."""
    with safe_open(folder / WEIGHTS, "np") as file:
        numbers = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118 - not a mapping
    return numbers / 1e6, sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def accuracy(segmenter: Segmenter, tile_px: int, data: Path) -> tuple[float, float]:
    """Mean IoU of the likeliest class on Dubai Tile 2, and the building IoU of Banepa's south-western quarter as a run finds it."""
    places = [place for place in places_of(("calibration",)) if not place.name.startswith("generated")]
    dubai, banepa = score_places(segmenter, tile_px, data, places)
    return figures(dubai)[MEAN][0], banepa.iou("building", as_run=True)


def measure(folder: Path, data: Path | None, sets: list[str], threads: int | None) -> dict[str, Any]:
    """A row of the table."""
    provider = tiny_provider(folder)
    segmenter = provider.load(options_of(*sets), threads)
    speeds = [round(megapixels_per_second(segmenter, classes), 2) for classes in (2, 5)]
    found = [round(value, 3) for value in accuracy(segmenter, provider.info().tile_px, data)] if data is not None else [None, None]
    return {"model": str(folder), **dict(zip(COLUMNS, [*(round(value, 2) for value in size(folder)), *speeds, *found], strict=True))}


def main() -> int:
    """Prints a row per model as Markdown, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=[SHIPPED], metavar="FOLDER", help="weights folders; else the shipped one")
    parser.add_argument("--data", type=Path, help="folder of the data sets; no accuracy if left out")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="a setting of the model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    print("| model | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    rows = []
    try:
        for folder in args.models:
            rows.append(measure(folder, args.data, args.sets, args.threads))
            print(f"| {folder.name} | " + " | ".join("-" if rows[-1][c] is None else f"{rows[-1][c]}" for c in COLUMNS) + " |", flush=True)
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
