"""What one step of adapting SAM 3 takes: memory, and seconds.

    python bench/adapt_memory.py [--classes 2] [--layers 4,8] [--no-checkpointing] [--json]

One tile of 1008 px, `configs/adapt/sam3.yaml`, random weights: teacher, student, gradient and optimiser. On a GPU it is done at full
depth, and the allocator's peak is printed. Without one it is done on the CPU at the reduced depths that --layers names, each in a
process of its own, and the peak of the process at the 32 layers of the image encoder is read off a straight line through them: weights
and kept activations grow with depth, the heads do not.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from random_sam3 import random_sam3
from rs_model.adapt.adaptation import Adaptation
from rs_model.adapt.command import encode_classes
from rs_model.adapt.holdout import Agreement, HeldOut

from rs_pipeline.adapt_settings import load_adapt_settings
from rs_pipeline.vocabulary import load_vocabulary

NAMES = ("road", "water", "building", "vegetation", "land")
FULL_DEPTH = 32
SIDE_PX = 1008


class Noise:
    """Two tiles of noise."""

    digest = "noise"

    def __len__(self) -> int:
        return 2

    def footprint(self, index: int) -> tuple[float, float, float, float]:
        """Side by side."""
        return float(index), 0.0, index + 1.0, 1.0

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One of them."""
        image = np.random.default_rng(index).random((3, SIDE_PX, SIDE_PX), np.float32)
        return image, np.ones((SIDE_PX, SIDE_PX), np.bool_)


def one_step(layers: int | None, classes: int, *, checkpointing: bool) -> dict[str, Any]:
    """In this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = load_adapt_settings("sam3", rows=[{"checkpointing": checkpointing, "steps": 4}])
    model = random_sam3(device, layers)
    asked = load_vocabulary("default").class_set(NAMES[:classes])
    # Random weights find nothing to be consistent about, and are not asked: it is the step that is measured.
    everything = np.ones(classes, np.int64)
    HeldOut.agreement = lambda *_: Agreement(everything, everything, everything)  # type: ignore[method-assign]
    with TemporaryDirectory() as scratch:
        prompts = encode_classes(model, asked)
        adaptation = Adaptation(model, settings, Noise(), prompts, asked.names, {}, Path(scratch) / "checkpoint.pt")
        adaptation.advance()  # the optimiser has its moments from now on
        start = time.perf_counter()
        adaptation.advance()
        seconds = time.perf_counter() - start
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    trained = sum(p.numel() for p in adaptation.adapter.parameters().values())
    return {"device": device.type, "layers": layers or FULL_DEPTH, "peak_gb": peak, "seconds": seconds, "trained": trained}


def line_through(points: list[tuple[float, float]], at: float) -> float:
    """Least squares."""
    slope, start = np.polyfit(*zip(*points, strict=True), 1)
    return float(start + slope * at)


def main() -> None:
    """Prints a line per depth, the estimate, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--layers", default="4,8")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kept = not args.no_checkpointing
    if args.one is not None:
        print(json.dumps(one_step(args.one or None, args.classes, checkpointing=kept)))
        return
    depths = [0] if torch.cuda.is_available() else [int(depth) for depth in args.layers.split(",")]
    rows = []
    for depth in depths:
        command = [sys.executable, __file__, "--one", str(depth), "--classes", str(args.classes), *(["--no-checkpointing"] * (not kept))]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
        row = rows[-1]
        print(f"{row['layers']:3} layers on {row['device']}: peak {row['peak_gb']:.1f} GB, {row['seconds']:.0f} s a step", flush=True)
    peak = rows[0]["peak_gb"] if depths == [0] else line_through([(r["layers"], r["peak_gb"]) for r in rows], FULL_DEPTH)
    print(f"{'measured' if depths == [0] else 'estimated'} at {FULL_DEPTH} layers: {peak:.1f} GB")
    if args.json:
        print(json.dumps({"rows": rows, "peak_gb": peak, "is_estimate": depths != [0]}))


if __name__ == "__main__":
    main()
