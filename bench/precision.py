"""What fewer bits bring rs-tiny on the CPU: float32, bfloat16, and an image encoder in int8, by speed and by IoU.

    python bench/precision.py --data ../shared/data [--threads N] [--rounds N] [--json]

Speed: of the image encoder alone, and of the whole model for two classes, tiles of 512 px; rounds are interleaved and medians taken, so
that a noisy machine is noisy to all. IoU: the likeliest class on the calibration places, which choices are made on. int8 is PyTorch's
static quantization of weights and activations, its ranges observed on nine training images.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from prompts import classes_of
from rs_model.provider import tiny_provider
from rs_model.scenes import read_dubai
from rs_model.score import options_of, places_of, score_places
from rs_model.segmenter import PromptedSegmenter
from rs_model.tiny import TinySam3
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

ENGINE = "onednn"
INT8 = "int8 encoder"
TILES, SIDE_PX, OBSERVED = 4, 512, 9


def quantized(encoder: nn.Module, images: list[Tensor]) -> nn.Module:
    """The encoder in int8; what lies between its layers as wide as it is for these images."""
    warnings.filterwarnings("ignore", category=UserWarning)  # PyTorch is about to give this up for torchao's
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.backends.quantized.engine = ENGINE
    prepared = prepare_fx(deepcopy(encoder), get_default_qconfig_mapping(ENGINE), (images[0],))
    for image in images:
        prepared(image)
    return convert_fx(prepared)


def observed(data: Path) -> list[Tensor]:
    """Corners of training images, as the encoder is given them."""
    found = []
    for scene in islice(read_dubai(data, "train"), OBSERVED):
        image = torch.from_numpy(scene.image[:SIDE_PX, :SIDE_PX]).permute(2, 0, 1)[None].float() / 255
        found.append(((image - 0.5) * 4).contiguous(memory_format=torch.channels_last))
    return found


def load(dtype: str, threads: int | None) -> PromptedSegmenter:
    """rs-tiny with its forward passes in a type."""
    return cast("PromptedSegmenter", tiny_provider(None).load(options_of(f"dtype={dtype}"), threads))


@torch.inference_mode()
def main() -> None:
    """Prints a line per type, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    dtypes = {"float32": "float32", "bfloat16": "bfloat16", INT8: "float32"}
    cases = {name: load(dtype, args.threads) for name, dtype in dtypes.items()}
    model = cast("TinySam3", cases[INT8].model)
    model.backbone = quantized(model.backbone, observed(args.data))
    tiles, valid = np.random.default_rng(0).random((TILES, 3, SIDE_PX, SIDE_PX), np.float32), np.ones((TILES, SIDE_PX, SIDE_PX), bool)
    images, classes = torch.from_numpy(tiles).contiguous(memory_format=torch.channels_last), classes_of(2)
    works: dict[tuple[str, str], Callable[[], object]] = {}
    for name, segmenter in cases.items():
        works[name, "encoder"] = partial(encoded, segmenter, images, dtypes[name])
        works[name, "model"] = partial(segmenter.segment, tiles, valid, classes)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(args.rounds + 1):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            if turn:  # the first round warms up
                seconds[key].append(time.perf_counter() - start)
    megapixels = TILES * SIDE_PX**2 / 1e6
    speed = {key: megapixels / float(np.median(taken)) for key, taken in seconds.items()}
    iou = {
        name: {
            score.place.name: float(np.nanmean([score.iou(c, as_run=len(score.place.classes) == 1) for c in score.place.classes]))
            for score in score_places(segmenter, SIDE_PX, args.data, places_of(["calibration"]))
        }
        for name, segmenter in cases.items()
    }
    print(f"{torch.get_num_threads()} threads, {TILES} tiles of {SIDE_PX} px, two classes")
    for name, places in iou.items():
        means = "  ".join(f"{place} {mean:.3f}" for place, mean in places.items())
        print(f"{name:<14}encoder {speed[name, 'encoder']:5.1f} MP/s   model {speed[name, 'model']:5.1f} MP/s   {means}")
    if args.json:
        parts = ("encoder", "model")
        print(json.dumps({name: {part: round(speed[name, part], 2) for part in parts} | {"iou": iou[name]} for name in cases}))


def encoded(segmenter: PromptedSegmenter, images: Tensor, dtype: str) -> object:
    """What the image encoder makes of images, in [0, 1]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        return segmenter.model.encode_images(images)


if __name__ == "__main__":
    main()
