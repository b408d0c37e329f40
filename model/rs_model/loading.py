"""From a weights folder and options to a segmenter that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rs_model.calibration import read_calibration
from rs_model.chain import Chain
from rs_model.memory import keep_freed_memory
from rs_model.sam3 import FullSam3
from rs_model.segmenter import PromptedSegmenter, find_device
from rs_model.tiny import TinySam3
from rs_pipeline.options import ModelOptions
from rs_pipeline.segmenter import ModelInfo


def load_segmenter(
    load_model: Callable[[Path], TinySam3 | FullSam3], folder: Path, info: ModelInfo, options: ModelOptions, threads: int | None
) -> PromptedSegmenter:
    """The model of a weights folder on its device, with its refinements. Slow.

    Raises
    ------
    SegmenterError: a damaged folder, a device that is not there, or CLIP weights that cannot be had.
    """
    keep_freed_memory()
    device = find_device(options.device)
    model = load_model(folder).to(device).eval()
    aligner = None
    if options.adapter is not None:
        from rs_model.adapt.file import wear

        aligner = wear(model, options.adapter, info.weights_sha256, feedback=options.scoring.feedback)
    if options.compile:
        model.backbone.compile()
    return PromptedSegmenter(model, build_chain(options, device), options, device, threads, read_calibration(folder), aligner)


def build_chain(options: ModelOptions, device: torch.device) -> Chain:
    """The refinements of a run; CLIP is loaded where they name it."""
    settings = options.refine
    if "clip" not in settings.active:
        return Chain(settings, device=device)
    from rs_model.clip import load_dense_clip  # open_clip takes a second to import

    c = settings.clip
    return Chain(settings, load_dense_clip(c.model, c.pretrained, c.image_px, c.attention, device), device)
