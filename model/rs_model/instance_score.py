"""Does the model find buildings one by one: `python -m rs_model.instance_score`.

    python -m rs_model.instance_score [--model FOLDER] [--window-px 320] [--threads N] [--json]

Generated scenes alone tell every building from its neighbours. Objects are, first, the connected parts of the semantic map above 0.5;
second, these kept apart where the masks of queries above a score meet (`scoring.apart`); third, the queries' masks themselves, best
first, those that overlap a better one by half or more left out. An object is found if
its IoU with a building that no other has taken is at least 0.5, as in COCO's AP50.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from rs_model.labels import CLASSES
from rs_model.places import PLACES
from rs_model.scenes import Split
from rs_model.scores import enlarge
from rs_model.seams import seams
from rs_model.stages import cut_masks, decode, embed_pixels, fuse, mask_logits, query_boxes, score, semantic_logits
from rs_model.tiny import TinySam3, load_tiny
from rs_model.weights import SHIPPED
from rs_pipeline.errors import RsSegError

LEAST_PX = 64
"""Smaller objects and buildings, those cut by a window's edge most of all, count nowhere."""
HALF = 0.5
SCORES = (0.3, 0.4, 0.5)
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of objects. Add two to pool windows."""

    right: int
    objects: int
    buildings: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.objects + other.objects, self.buildings + other.buildings)

    @property
    def figures(self) -> dict[str, float]:
        """Precision, recall and their harmonic mean; NaN of nothing."""
        precision, recall = (self.right / n if n else float("nan") for n in (self.objects, self.buildings))
        both = self.objects + self.buildings
        return {"precision": precision, "recall": recall, "f1": 2 * self.right / both if both else float("nan")}


def match(objects: Masks, buildings: Masks) -> Counts:
    """Each object, in order, takes the building it meets best, if none before it has."""
    free, right = dict(enumerate(buildings)), 0
    for mask in objects:
        ious = {number: iou(mask, building) for number, building in free.items()}
        best = max(ious, key=ious.__getitem__, default=None)
        if best is not None and ious[best] >= HALF:
            right += 1
            del free[best]
    return Counts(right, len(objects), len(buildings))


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Of two masks (H, W) that are not both empty."""
    return float((one & other).sum() / (one | other).sum())


def parts_of(mask: NDArray[np.bool_]) -> Masks:
    """Connected by sides, large enough."""
    numbered, count = ndimage.label(mask)
    parts = (numbered == number for number in range(1, count + 1))
    return [part for part in parts if part.sum() >= LEAST_PX]


def apart(masks: Masks) -> Masks:
    """The masks, best first, without those that a better one covers."""
    kept: Masks = []
    for mask in masks:
        if mask.sum() >= LEAST_PX and all(iou(mask, other) < HALF for other in kept):
            kept.append(mask)
    return kept


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model says of buildings in an image."""

    semantic: NDArray[np.bool_]
    """(H, W) where the semantic map says so."""
    gaps: dict[float, NDArray[np.bool_]]
    """(H, W) by the least score of the queries: where `scoring.apart` would keep buildings apart."""
    presence: float
    scores: NDArray[np.float32]
    """(Q,) of the queries times presence, best first."""
    masks: NDArray[np.bool_]
    """(Q, H, W) theirs."""


@torch.inference_mode()
def look(model: TinySam3, image: NDArray[np.uint8]) -> Seen:
    """At an image (H, W, 3)."""
    pixels = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32) / np.float32(255))
    fitted, size = model.fit(pixels)
    sam, pyramid = model.head, model.encode_images(fitted)
    fused = fuse(sam, pyramid, model.encode_text(["building"]))
    decoded = decode(sam, fused)
    embedded, presence = embed_pixels(sam, pyramid, fused), torch.sigmoid(decoded.presence)
    scores, order = (torch.sigmoid(score(sam, decoded, fused)) * presence)[0].sort(descending=True)
    boxes = query_boxes(sam, decoded.layers)[-1][:, order]
    masks = cut_masks(mask_logits(sam, embedded, decoded.queries[:, order]), boxes)
    inside = np.s_[: image.shape[0], : image.shape[1]]
    return Seen(
        ((torch.sigmoid(enlarge(semantic_logits(sam, embedded), size))[0, 0] * presence[0]) > HALF).numpy()[inside],
        {least: seams(masks, boxes, scores[None] * (scores > least), size)[0].numpy()[inside] for least in SCORES},
        float(presence[0]),
        scores.numpy(),
        (enlarge(masks, size)[0] > 0).numpy()[:, *inside],
    )


def windows_of(split: Split, side_px: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images (S, S, 3) and codes (S, S) of a split's generated scenes, side by side."""
    for place in PLACES:
        if place.split == split and place.name.startswith("generated"):
            for scene in place.read(Path()):
                height, width = scene.codes.shape
                for top in range(0, height - side_px + 1, side_px):
                    for left in range(0, width - side_px + 1, side_px):
                        inside = np.s_[top : top + side_px, left : left + side_px]
                        yield scene.image[inside], scene.codes[inside]


def measure(model: TinySam3, windows: Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> dict[str, Counts]:
    """Objects by the way they are made."""
    total: dict[str, Counts] = {}
    for image, codes in windows:
        buildings = parts_of(codes == CLASSES.index("building"))
        seen = look(model, image)
        found = {"parts of the semantic map": parts_of(seen.semantic)}
        found |= {f"kept apart by those above {least:g}": parts_of(seen.semantic & ~gap) for least, gap in seen.gaps.items()}
        found |= {f"queries above {least:g}": apart(list(seen.masks[seen.scores > least])) for least in SCORES}
        for name, objects in found.items():
            total[name] = total.get(name, Counts(0, 0, 0)) + match(objects, buildings)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each way, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="weights folder; the shipped one if left out")
    parser.add_argument("--window-px", type=int, default=320, help="side of the windows; training had 320")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        model = load_tiny(args.model).eval()
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    splits: tuple[Split, ...] = ("calibration", "test")
    report = {split: measure(model, windows_of(split, args.window_px)) for split in splits}
    for split, rows in report.items():
        for name, found in rows.items():
            figures = "  ".join(f"{key} {value:.3f}" for key, value in found.figures.items())
            print(f"{split:<12}{name:<32}{figures}  of {found.buildings} buildings")  # noqa: T201
    if args.json:
        print(json.dumps({split: {name: found.figures for name, found in rows.items()} for split, rows in report.items()}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
