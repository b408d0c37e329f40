"""What an adapter costs at inference: milliseconds per tile, and per cent over the plain model.

    python bench/adapters.py [--model rs-tiny|sam3] [--tiles N] [--rounds N] [--threads N] [--json]

Two classes on tiles of the model's size; every prompt counts as present. Low-rank additions and changes of the neck go into the
weights when an adapter is put on, and are not here: they cost nothing. The alignment modules are as they start, which costs what trained
ones do. SAM 3 has random weights. Rounds are interleaved and medians taken, so that a noisy machine is noisy to all.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from prompts import classes_of, load, timed
from rs_model.adapt.alignment import Alignment
from rs_model.segmenter import PromptedSegmenter

from rs_pipeline.adapt_settings import load_adapt_settings

OFF = ("align.encoder.use=false", "align.decoder.use=false")
CASES = {
    "none": OFF,
    "encoder": (*OFF, "align.encoder.use=true"),
    "decoder": (*OFF, "align.decoder.use=true"),
    "encoder and decoder": (*OFF, "align.encoder.use=true", "align.decoder.use=true"),
    "CMA": (*OFF, "align.cross_modal.use=true"),
    "feedback": (*OFF, "align.feedback.use=true"),
}


def main() -> None:
    """Prints a line per module, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("rs-tiny", "sam3"), default="rs-tiny")
    parser.add_argument("--tiles", type=int, help="tiles per forward pass; 4, or 1 for SAM 3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plain = load(args.model, args.threads, every_query=False)
    side, count = (1008, args.tiles or 1) if args.model == "sam3" else (512, args.tiles or 4)
    images, valid = np.random.default_rng(0).random((count, 3, side, side), np.float32), np.ones((count, side, side), bool)
    classes = classes_of(2)
    segmenters = {name: wearing(plain, sets, args.threads) for name, sets in CASES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(args.rounds + 1):
        for name, segmenter in segmenters.items():
            taken = timed(lambda s=segmenter: s.segment(images, valid, classes))
            if turn:  # the first round warms up
                seconds[name].append(taken)
    per_tile = {name: float(np.median(taken)) / count * 1e3 for name, taken in seconds.items()}
    print(f"{args.model} on {plain.device.type}, {torch.get_num_threads()} threads, {count} tiles of {side} px, two classes")
    for name, ms in per_tile.items():
        print(f"{name:<22}{ms:10.1f} ms per tile {ms / per_tile['none'] - 1:+8.1%}")
    if args.json:
        report = {name: {"ms_per_tile": round(ms, 2), "over_none": round(ms / per_tile["none"] - 1, 4)} for name, ms in per_tile.items()}
        print(json.dumps({"model": args.model, "device": plain.device.type, "tiles": count, "modules": report}))


def wearing(plain: PromptedSegmenter, sets: tuple[str, ...], threads: int | None) -> PromptedSegmenter:
    """The same model with alignment modules between its stages."""
    settings = load_adapt_settings("methods", sets=sets).align
    used = any((settings.encoder.use, settings.decoder.use, settings.cross_modal.use, settings.feedback.use))
    width = int(plain.model.head.detr_encoder.hidden_size)
    aligner = Alignment(width, settings).to(plain.device).eval() if used else None
    return PromptedSegmenter(plain.model, plain.chain, plain.options, plain.device, threads, aligner=aligner)


if __name__ == "__main__":
    main()
