"""What fewer bits bring rs-tiny on the CPU: float32, bfloat16, and an image encoder in int8, by speed and by IoU.

    python bench/precision.py --data ../shared/data [--threads N] [--rounds N] [--json]

Speed: of the image encoder alone, and of the whole model for two classes, tiles of 512 px, every prompt counted as present; rounds are
interleaved and medians taken, so that a noisy machine is noisy to all. IoU is that of `bench/model.py`. int8 is PyTorch's static
quantization of weights and activations, its ranges observed on nine training images.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from prompts import classes_of, timed
from rs_model.provider import tiny_provider
from rs_model.scenes import read_dubai
from rs_model.score import options_of
from rs_model.segmenter import PromptedSegmenter
from rs_model.tiny import TinySam3
from torch import Tensor
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from model import accuracy

INT8 = "int8 encoder"
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", INT8: "float32"}
ENGINE = "onednn"
TILES, SIDE_PX, OBSERVED = 4, 512, 9


def load(name: str, data: Path, threads: int | None) -> PromptedSegmenter:
    """rs-tiny with its forward passes, or its encoder, in a type."""
    options = options_of(f"dtype={DTYPES[name]}", "scoring.absent_below=0")
    segmenter = cast("PromptedSegmenter", tiny_provider(None).load(options, threads))
    if name == INT8:
        quantize(cast("TinySam3", segmenter.model), data)
    return segmenter


def quantize(model: TinySam3, data: Path) -> None:
    """Puts the encoder into int8, what lies between its layers as wide as it is for training images."""
    warnings.simplefilter("ignore")  # PyTorch is about to give this up for torchao's
    torch.backends.quantized.engine = ENGINE
    model.backbone = prepare_fx(model.backbone, get_default_qconfig_mapping(ENGINE), (torch.zeros(1, 3, SIDE_PX, SIDE_PX),))
    for scene in islice(read_dubai(data, "train"), OBSERVED):
        model.encode_images(torch.from_numpy(scene.image[:SIDE_PX, :SIDE_PX]).permute(2, 0, 1)[None] / 255)
    model.backbone = convert_fx(model.backbone)


def encode(segmenter: PromptedSegmenter, images: Tensor) -> None:
    """The image encoder on images, in [0, 1]."""
    with segmenter.precision():
        segmenter.model.encode_images(images)


@torch.inference_mode()
def main() -> None:
    """Prints a line per type, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = {name: load(name, args.data, args.threads) for name in DTYPES}
    tiles, valid = np.random.default_rng(0).random((TILES, 3, SIDE_PX, SIDE_PX), np.float32), np.ones((TILES, SIDE_PX, SIDE_PX), bool)
    images = torch.from_numpy(tiles).contiguous(memory_format=torch.channels_last)
    seconds: dict[tuple[str, str], list[float]] = {(name, part): [] for name in cases for part in ("encoder", "model")}
    for turn in range(args.rounds + 1):
        for name, segmenter in cases.items():
            taken = timed(partial(encode, segmenter, images)), timed(partial(segmenter.segment, tiles, valid, classes_of(2)))
            if turn:  # the first round warms up
                seconds[name, "encoder"].append(taken[0])
                seconds[name, "model"].append(taken[1])
    print(f"{torch.get_num_threads()} threads, {TILES} tiles of {SIDE_PX} px, two classes")
    rows = []
    for name, segmenter in cases.items():
        encoder, model = (round(valid.size / 1e6 / float(np.median(seconds[name, part])), 1) for part in ("encoder", "model"))
        dubai, banepa = accuracy(segmenter, SIDE_PX, args.data)
        rows.append({"precision": name, "encoder_mp_per_s": encoder, "model_mp_per_s": model, "dubai": dubai, "banepa": banepa})
        print(f"{name:<14}encoder {encoder:5} MP/s  model {model:4} MP/s  Dubai Tile 2 {dubai:.3f}  Banepa south-west {banepa:.3f}")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
