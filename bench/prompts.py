"""What more classes cost: 1, 2, 5, 10, 20 on the same tiles, beside two loops that take prompts one by one.

    python bench/prompts.py [--model rs-tiny|sam3] [--classes 1,2,5,10,20] [--tiles N] [--every-query] [--json]

`re-encode` encodes the image again for every prompt, as samgeo and LAM do; `one by one` encodes it once and runs all of the
head for one prompt after the other, as SegEarth-OV-3 does. Both go through `Sam3Model.forward`, which makes a mask of every query, and
fold the same maps of the same queries. `ratio`
is the time of ten classes over that of one. Every prompt counts as present (`scoring.absent_below=0`), as if each class were on
each tile: absent ones would cost less. SAM 3 has random weights: its times are real, its answers are not. Medians of
`--rounds` interleaved rounds, so that a noisy machine is noisy to all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from random_sam3 import random_sam3
from rs_model.chain import Chain
from rs_model.memory import keep_freed_memory
from rs_model.provider import tiny_provider
from rs_model.scores import Instances, best_queries, word_probability
from rs_model.segmenter import PromptedSegmenter, find_device
from rs_model.stages import Prompts, Pyramid, cut_masks
from torchvision.ops import box_convert
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings

WORDS = (
    "road", "water", "building", "vegetation", "land", "river", "street", "tree", "roof", "sand",
    "lake", "highway", "house", "grass", "soil", "pond", "track", "forest", "warehouse", "desert",
)  # fmt: skip
H100_BF16_FLOPS = 989e12
"""Dense peak of an H100 SXM."""


def classes_of(count: int) -> ClassSet:
    """The first so many words, each a class."""
    return ClassSet(tuple(Class(i + 1, word, (word,), (0, 0, 0), 0.5) for i, word in enumerate(WORDS[:count])))


def load(model: str, threads: int | None, *, every_query: bool) -> PromptedSegmenter:
    """The segmenter; `every_query` makes all of the best queries get a mask, as in an image full of objects."""
    sets = ["refine.preset=none", "scoring.absent_below=0", *(["scoring.query_threshold=0"] if every_query else [])]
    options = load_settings(sets=sets).options
    if model == "rs-tiny":
        return cast("PromptedSegmenter", tiny_provider(None).load(options, threads))
    device = find_device("auto")
    keep_freed_memory()
    return PromptedSegmenter(random_sam3(device), Chain(options.refine), options, device, threads)


def forward_one_by_one(segmenter: PromptedSegmenter, images: torch.Tensor, prompts: Prompts, *, reencode: bool) -> torch.Tensor:
    """(N, P, H, W): prompt after prompt, tile after tile, through `Sam3Model.forward`."""
    model, maps = segmenter.model, []
    for image in images:
        fitted, size = model.fit(image[None])
        pyramid = model.encode_images(fitted)
        rows = []
        for i in range(len(prompts)):
            if reencode:
                pyramid = model.encode_images(fitted)
            text = BaseModelOutputWithPooling(pooler_output=prompts.features[i : i + 1])
            whole = model.head(vision_embeds=_embeds(pyramid), text_embeds=text, attention_mask=prompts.mask[i : i + 1])
            instances = _instances(segmenter, whole) if model.has_trained_queries else None
            rows.append(word_probability(whole.semantic_seg, whole.presence_logits, size, instances))
        maps.append(torch.cat(rows))
    return torch.stack(maps)


def _instances(segmenter: PromptedSegmenter, whole: Any) -> Instances:
    """Of all masks, which `forward` makes, those that a run would take: fewer are enlarged."""
    scoring = segmenter.options.scoring
    index, best = best_queries(whole.pred_logits, whole.presence_logits, scoring.query_threshold, scoring.top_queries)
    row = torch.arange(len(index), device=index.device)[:, None]
    masks = whole.pred_masks[row, index]
    if segmenter.model.cuts_masks:
        masks = cut_masks(masks, box_convert(whole.pred_boxes[row, index], "xyxy", "cxcywh"))
    return Instances(masks, best)


def _embeds(pyramid: Pyramid) -> Sam3VisionEncoderOutput:
    return Sam3VisionEncoderOutput(fpn_hidden_states=(*pyramid.levels, None), fpn_position_encoding=(None, None, pyramid.position, None))


def loop(segmenter: PromptedSegmenter, images: np.ndarray, classes: ClassSet, *, reencode: bool) -> None:
    """One of the two loops, with the same precision and the same copies to and from the device."""
    with torch.inference_mode(), segmenter.precision():
        prompts = segmenter.encode_texts(classes)
        forward_one_by_one(segmenter, torch.from_numpy(images).to(segmenter.device), prompts, reencode=reencode).float().cpu()


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Prints a line per number of classes, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("rs-tiny", "sam3"), default="rs-tiny")
    parser.add_argument("--classes", default="1,2,5,10,20")
    parser.add_argument("--tiles", type=int, help="tiles per forward pass; 4, or 1 for SAM 3 on a CPU")
    parser.add_argument("--rounds", type=int, help="5, or 1 for SAM 3 on a CPU")
    parser.add_argument("--loops", choices=("all", "ten", "none"), help="numbers of classes to race the loops on; none for SAM 3 on a CPU")
    parser.add_argument("--every-query", action="store_true", help="give every one of the best queries a mask")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    segmenter = load(args.model, args.threads, every_query=args.every_query)
    slow = args.model == "sam3" and segmenter.device.type == "cpu"
    side, rounds, loops = (
        (1008 if args.model == "sam3" else 512),
        args.rounds or (1 if slow else 5),
        args.loops or ("none" if slow else "all"),
    )
    images = np.random.default_rng(0).random((args.tiles or (1 if slow else 4), 3, side, side), np.float32)
    valid = np.ones((len(images), side, side), bool)
    counts = [int(c) for c in args.classes.split(",")]
    seconds: dict[str, dict[int, list[float]]] = {"ours": {}, "one by one": {}, "re-encode": {}}
    for count in counts:
        segmenter.encode_texts(classes_of(count))  # once per run, not per tile
    for turn in range(rounds + 1):
        for count in counts:
            classes = classes_of(count)
            race = {"ours": lambda c=classes: segmenter.segment(images, valid, c)}
            if loops == "all" or (loops == "ten" and count == 10):
                race["one by one"] = lambda c=classes: loop(segmenter, images, c, reencode=False)
                race["re-encode"] = lambda c=classes: loop(segmenter, images, c, reencode=True)
            for name, work in race.items():
                taken = timed(work)
                if turn:  # the first round warms up
                    seconds[name].setdefault(count, []).append(taken)
    median = {name: {c: float(np.median(t)) for c, t in by.items()} for name, by in seconds.items()}
    print(f"{args.model} on {segmenter.device.type}, {len(images)} tiles of {side} px, seconds (and times that of ours)")
    for count in counts:
        ours = median["ours"][count]
        others = "".join(f"  {n} {by[count]:8.3f} ({by[count] / ours:4.1f} x)" for n, by in median.items() if n != "ours" and count in by)
        print(f"{count:3} classes  ours {ours:8.3f} ({ours / median['ours'][counts[0]]:4.2f} x one){others}")
    report = {
        "model": args.model,
        "device": segmenter.device.type,
        "tiles": len(images),
        "seconds": median,
        "ratio": round(median["ours"][10] / median["ours"][1], 3) if {1, 10} <= set(counts) else None,
        "one_by_one_over_ours_at_10": round(median["one by one"][10] / median["ours"][10], 2) if 10 in median["one by one"] else None,
    }
    if segmenter.device.type == "cuda":
        report["share_of_peak"] = _share_of_peak(segmenter, images, valid, median["ours"])
        print(f"{report['share_of_peak']:.1%} of the card's bfloat16 peak at {max(counts)} classes")
    if args.json:
        print(json.dumps(report))


def _share_of_peak(segmenter: PromptedSegmenter, images: np.ndarray, valid: np.ndarray, ours: dict[int, float]) -> float:
    """Floating-point operations that were counted, over what an H100 could have done in that time."""
    from torch.utils.flop_counter import FlopCounterMode

    count = max(ours)
    classes = classes_of(count)
    with FlopCounterMode(display=False) as counter:
        segmenter.segment(images, valid, classes)
    return counter.get_total_flops() / ours[count] / H100_BF16_FLOPS


if __name__ == "__main__":
    main()
