"""Megapixels per second of rs-tiny alone, batches of four 512 px tiles: `python bench/model.py [--threads N] [--json]`."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from rs_model.provider import tiny_provider

from rs_pipeline.config import load_settings
from rs_pipeline.vocabulary import load_vocabulary

NAMES = ("road", "water", "building", "vegetation", "land")
ROUNDS = 7


def megapixels_per_second(threads: int | None, classes: int) -> float:
    """Median of several passes over one batch, the first not counted."""
    plain = load_settings(sets=["device=cpu", "refine.preset=none"]).options
    segmenter, wanted = tiny_provider(None).load(plain, threads), load_vocabulary("default").class_set(NAMES[:classes])
    images, valid = np.random.default_rng(0).random((4, 3, 512, 512), np.float32), np.ones((4, 512, 512), bool)
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        segmenter.segment(images, valid, wanted)
        seconds.append(time.perf_counter() - start)
    return float(valid.size / 1e6 / np.median(seconds[1:]))


def main() -> None:
    """Prints a line per number of classes, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures = {classes: round(megapixels_per_second(args.threads, classes), 2) for classes in (2, 5)}
    for classes, figure in figures.items():
        print(f"{classes} classes  {figure:.1f} MP/s")
    if args.json:
        print(json.dumps({"megapixels_per_second": figures}))


if __name__ == "__main__":
    main()
