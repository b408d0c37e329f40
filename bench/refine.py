"""What each refinement costs: milliseconds per tile, and per cent over the plain model.

    python bench/refine.py [--model rs-tiny|sam3] [--tiles N] [--rounds N] [--threads N] [--no-clip] [--json]

Two classes on tiles of the model's size; every prompt counts as present, so that no work is skipped. SAM 3 has random weights: its
times are real, its answers are not. CLIP is the small one that is shipped, at 448 px. Rounds are interleaved and medians taken, so
that a noisy machine is noisy to all.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from prompts import WORDS, timed
from random_sam3 import random_sam3
from rs_model.chain import Chain
from rs_model.clip import load_dense_clip
from rs_model.provider import tiny_provider
from rs_model.segmenter import PromptedSegmenter, find_device

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings

CASES = {
    "none": ("none",),
    "smooth": ("smooth",),
    "smooth, backbone": ("smooth", "refine.smooth.at=backbone"),
    "lowpass": ("lowpass",),
    "lowpass, backbone": ("lowpass", "refine.lowpass.at=backbone"),
    "laplacian": ("laplacian",),
    "laplacian, backbone": ("laplacian", "refine.laplacian.at=backbone"),
    "reweight": ("guided",),
    "presence gate": ("presence_gate",),
    "query gate": ("query_gate",),
    "prune, half": ("prune",),
    "all four guided": ("none", "refine.steps=[reweight, presence_gate, query_gate, prune]"),
    "clip": ("clip",),
    "clip, proxy": ("clip", "refine.clip.fusion=proxy"),
    "clip, gate": ("clip", "refine.clip.gate=true"),
}


def main() -> None:
    """Prints a line per refinement, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("rs-tiny", "sam3"), default="rs-tiny")
    parser.add_argument("--tiles", type=int, help="tiles per forward pass; 4, or 1 for SAM 3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-clip", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = find_device("auto")
    plain = load_settings(sets=["refine.preset=none"]).options
    model = random_sam3(device) if args.model == "sam3" else getattr(tiny_provider(None).load(plain, args.threads), "model")  # noqa: B009
    side, count = (1008, args.tiles or 1) if args.model == "sam3" else (512, args.tiles or 4)
    images, valid = np.random.default_rng(0).random((count, 3, side, side), np.float32), np.ones((count, side, side), bool)
    classes = ClassSet(tuple(Class(i + 1, word, (word,), (0, 0, 0), 0.5) for i, word in enumerate(WORDS[:2])))
    cases = {name: case for name, case in CASES.items() if not (args.no_clip and name.startswith("clip"))}
    clip = None if args.no_clip else load_dense_clip("rs-clip", None, 448, "sclip", device)
    segmenters = {}
    for name, (preset, *sets) in cases.items():
        options = load_settings(sets=[f"refine.preset={preset}", "scoring.absent_below=0", *sets]).options
        segmenters[name] = PromptedSegmenter(model, Chain(options.refine, clip, device), options, device, args.threads)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(args.rounds + 1):
        for name, segmenter in segmenters.items():
            taken = timed(lambda s=segmenter: s.segment(images, valid, classes))
            if turn:  # the first round warms up
                seconds[name].append(taken)
    per_tile = {name: float(np.median(taken)) / count * 1e3 for name, taken in seconds.items()}
    print(f"{args.model} on {device.type}, {torch.get_num_threads()} threads, {count} tiles of {side} px, two classes")
    for name, ms in per_tile.items():
        print(f"{name:<22}{ms:10.1f} ms per tile {ms / per_tile['none'] - 1:+8.1%}")
    if args.json:
        report = {name: {"ms_per_tile": round(ms, 2), "over_none": round(ms / per_tile["none"] - 1, 4)} for name, ms in per_tile.items()}
        print(json.dumps({"model": args.model, "device": device.type, "tiles": count, "refinements": report}))


if __name__ == "__main__":
    main()
