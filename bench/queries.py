"""What the queries' own masks, K of METHODS.md section 0, add to the semantic map: building IoU as a run, with and without them.

    python bench/queries.py --data ../shared/data [--model FOLDER] [--set scoring.query_threshold=0.3] [--threads N] [--json]

On every place that knows buildings and that nothing was trained on. The difference is of pooled pixels, with a paired 95 % bootstrap
interval over the images where there are several; then in how many images it is above and below 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rs_model.labels import CLASSES
from rs_model.places import Place
from rs_model.provider import tiny_provider
from rs_model.query_calibration import NAME
from rs_model.scenes import Scene
from rs_model.score import NO_TRUTH, all_classes, labels_of, options_of, places_of, predict, truth_of

from rs_pipeline.classes import ClassSet
from rs_pipeline.metrics import Confusion, bootstrap_miou, confusion, interval
from rs_pipeline.segmenter import Segmenter

VALUE = CLASSES.index(NAME) + 1
FIRST = 1


def count(segmenter: Segmenter, scene: Scene, place: Place, classes: ClassSet, tile_px: int) -> Confusion:
    """Buildings against all else in an image, as a run that asks for the place's classes labels it."""
    truth = truth_of(scene, place)
    known = truth != NO_TRUTH
    labels = labels_of(predict(segmenter, scene.image, classes, tile_px), classes, place)
    return confusion((truth == VALUE)[known], (labels == VALUE)[known], 2)


def compare(on: list[Confusion], off: list[Confusion]) -> dict[str, float | None]:
    """Pooled IoU with and without, the interval of their difference (None of a single image), and the images it is better and worse in."""
    with_them, without = (float(sum(rows[1:], start=rows[0]).iou[FIRST]) for rows in (on, off))
    alone = np.array([one.iou[FIRST] - other.iou[FIRST] for one, other in zip(on, off, strict=True)])
    low, high = interval(bootstrap_miou(on, FIRST) - bootstrap_miou(off, FIRST)) if len(on) > 1 else (None, None)
    sides = {"images": len(on), "better": int((alone > 0).sum()), "worse": int((alone < 0).sum())}
    return {"on": with_them, "off": without, "difference": with_them - without, "low": low, "high": high, **sides}


def main() -> None:
    """Prints a line per place, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="weights folder; the shipped one if left out")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    provider, classes, rows = tiny_provider(args.model), all_classes(*args.sets), {}
    tile_px = provider.info().tile_px
    pair = [provider.load(options_of(*args.sets, f"scoring.instances={used}"), args.threads) for used in ("true", "false")]
    for place in places_of(("calibration", "test")):
        if NAME in place.classes:
            counts = [[count(segmenter, scene, place, classes, tile_px) for segmenter in pair] for scene in place.read(args.data)]
            on, off = ([both[k] for both in counts] for k in (0, 1))
            row = rows[place.name] = compare(on, off)
            between = f"({row['low']:+.4f}…{row['high']:+.4f})" if row["low"] is not None else ""
            print(
                f"{place.name + ' (' + place.split + ')':<40}{row['off']:.4f} → {row['on']:.4f}  {row['difference']:+.4f} {between:<20}"
                f"better in {row['better']}, worse in {row['worse']} of {row['images']} images",
                flush=True,
            )
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
