"""Size, speed and accuracy of image encoders under the dense phase of the recipe: the trade-off table of the model card.

    python bench/backbones.py --data ../shared/data [--backbones cs3darknet_focus_s,convnext_atto,…] [--steps 1000] [--json]

Each is trained from random numbers on the same crops and scored on the calibration places (Dubai Tile 2), never on the test places.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rs_model.labels import CLASSES
from rs_model.mixture import Mixture, read_mixture
from rs_model.recipe import Recipe, read_recipe
from rs_model.scenes import read_dubai
from rs_model.student import Student
from rs_model.train import Run
from torch.nn import functional

from rs_pipeline.metrics import Confusion, confusion

BACKBONES = "cs3darknet_focus_s,convnext_atto,regnetx_004,resnet18d,hgnetv2_b0"
RECIPE = Path(__file__).parents[1] / "configs" / "train" / "rs-tiny.yaml"
UNKNOWN = 255
BATCH, SIDE_PX, ROUNDS = 4, 512, 5


@torch.inference_mode()
def calibration_score(student: Student, data: Path) -> Confusion:
    """(5, 5) pixels by true and likeliest class over Dubai Tile 2, whole images."""
    total = Confusion(np.zeros((len(CLASSES), len(CLASSES)), np.int64), 0)
    for scene in read_dubai(data, "calibration"):
        image = torch.from_numpy(np.moveaxis(scene.image, -1, 0)[None].astype(np.float32) / np.float32(255))
        fitted, size = student.model.fit(image)
        logits = student.dense(student.model.encode_images(fitted).levels)
        likeliest = functional.interpolate(logits, size=size, mode="bilinear").argmax(1)[0, : image.shape[2], : image.shape[3]].numpy()
        total += confusion(np.where(scene.codes < len(CLASSES), scene.codes, UNKNOWN), likeliest, len(CLASSES), ignore=UNKNOWN)
    return total


@torch.inference_mode()
def megapixels_per_second(student: Student, dtype: torch.dtype) -> float:
    """Of the image encoder alone, the best of several passes."""
    images = torch.rand(BATCH, 3, SIDE_PX, SIDE_PX).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            student.model.encode_images(images)
        seconds.append(time.perf_counter() - start)
    return BATCH * SIDE_PX**2 / 1e6 / min(seconds)


def measure(backbone: str, data: Path, recipe: Recipe, mixture: Mixture) -> dict[str, Any]:
    """Trains one and measures it."""
    # The text encoder, which this phase has no use for, is taught nothing.
    recipe = recipe.model_copy(update={"backbone": backbone, "text": recipe.text.model_copy(update={"steps": 1})})
    run = Run(recipe, mixture, None)
    start = time.perf_counter()
    while run.step < recipe.phases[0].steps:
        run.advance(run.mixture.batch(0, run.step))
    seconds = (time.perf_counter() - start) / recipe.phases[0].steps
    run.student.load_state_dict(run.average)
    student = run.student.eval()
    scores = calibration_score(student, data).iou
    return {
        "backbone": backbone,
        "parameters": sum(p.numel() for p in student.model.backbone.parameters()),
        "train_s_per_step": round(seconds, 3),
        "float32_mp_per_s": round(megapixels_per_second(student, torch.float32), 1),
        "bfloat16_mp_per_s": round(megapixels_per_second(student, torch.bfloat16), 1),
        "iou": {name: round(float(score), 3) for name, score in zip(CLASSES, scores, strict=True)},
        "mean_iou": round(float(scores.mean()), 3),
    }


def main() -> None:
    """Prints the table in Markdown, a row as soon as it is known, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--steps", type=int, default=1000, help="of the dense phase")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    print(f"| encoder | parameters | s per step | float32 MP/s | bfloat16 MP/s | {' | '.join(CLASSES)} | mean IoU |")
    print("|---" * (6 + len(CLASSES)) + "|")
    rows, recipe = [], read_recipe(RECIPE, args.steps)
    mixture = read_mixture(args.data, recipe)
    for backbone in args.backbones.split(","):
        row = measure(backbone, args.data, recipe, mixture)
        figures = (f"{row['parameters'] / 1e6:.1f} M", *(row[k] for k in ("train_s_per_step", "float32_mp_per_s", "bfloat16_mp_per_s")))
        print(f"| {backbone} | {' | '.join(map(str, (*figures, *row['iou'].values(), row['mean_iou'])))} |", flush=True)
        rows.append(row)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
