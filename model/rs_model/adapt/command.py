"""What the providers do when they are asked to adapt (`rs_pipeline.adaptation.Adaptable`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rs_model.adapt.adaptation import Adaptation
from rs_model.adapt.checkpoint import State
from rs_model.adapt.curves import curves_of, write_curves
from rs_model.adapt.file import wear, write_adapter
from rs_model.adapt.holdout import HeldOut, check_found
from rs_model.adapt.parts import Model
from rs_model.memory import keep_freed_memory
from rs_model.segmenter import find_device
from rs_model.stages import Prompts
from rs_pipeline.adaptation import AdaptRequest, UnlabelledTiles, check_classes
from rs_pipeline.adapters import read_facts
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import OutputError, SegmenterError, TrainingError
from rs_pipeline.options import ModelOptions
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo

Load = Callable[[Path], Model]
_VIEWS_SEED = 7
"""Of the views that `consistency` compares: fixed, so that adapters can be held against each other."""


def adapt(load: Load, folder: Path, info: ModelInfo, request: AdaptRequest, tiles: UnlabelledTiles, reporter: Reporter) -> dict[str, Any]:
    """See `rs_pipeline.adaptation.Adaptable.adapt`."""
    check_classes(request.classes)
    facts = {
        "model": info.name,
        "base_sha256": info.weights_sha256,
        "classes": {c.name: list(c.prompts) for c in request.classes},
        "settings": request.settings.model_dump(mode="json"),
        "data_sha256": tiles.digest,
    }
    done = _done_before(request.out, facts)
    if done is not None:
        reporter.note(f"{request.out} is this very adapter already")
        return _describe(request.out, done, tiles)
    checkpoint = _checkpoint(request)
    device = _ready(request.device, request.threads)
    model = load(folder).to(device).eval()
    prompts = encode_classes(model, request.classes)
    adaptation = Adaptation(model, request.settings, tiles, prompts, request.classes.names, facts, checkpoint)
    try:
        state = adaptation.run(reporter)
    except BaseException:
        with suppress(OSError):  # the curves say why, but not at the price of the reason itself
            write_curves(request.out, adaptation.state.history)
        raise
    _write_curves(request.out, state)
    best = state.best_row
    history = {"consistency_before": state.before, "consistency": best["consistency"], "best_step": int(best["step"]), "steps": state.step}
    if request.guarded and best["consistency"] < state.before:
        shown = curves_of(request.out)[1]
        came = f"{best['consistency']:.4f} at best, {state.before:.4f} without an adapter; nothing was written but {shown}"
        with suppress(OSError):  # it would bind the next try to these settings
            checkpoint.unlink()
        raise TrainingError("held-out consistency that does not get worse", came, "Lower learning_rate, or give more tiles.")
    write_adapter(request.out, {**facts, "history": history}, adaptation.adapter.tensors(state.best))
    with suppress(OSError):
        checkpoint.unlink()
    return _describe(request.out, history, tiles)


def _describe(out: Path, history: Mapping[str, Any], tiles: UnlabelledTiles) -> dict[str, Any]:
    curves = [str(path) for path in curves_of(out)]
    return {**history, "adapter": str(out), "bytes": out.stat().st_size, "tiles": len(tiles), "curves": curves}


def _done_before(out: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The history of the adapter at `out`, if it is the one that is asked for; None where there is none.

    Raises
    ------
    OutputError: something else is there.
    """
    if not out.exists():
        return None
    fix = "Give another --out, or take it away: runs may wear it."
    try:
        there = read_facts(out)
    except SegmenterError as error:
        raise OutputError("a free name", f"{out}, which is no adapter", fix) from error
    found = {
        "model": there.model,
        "base_sha256": there.base_sha256,
        "classes": {name: list(prompts) for name, prompts in there.classes.items()},
        "settings": there.settings,
        "data_sha256": there.data_sha256,
    }
    if found != facts:
        other = ", ".join(key for key, value in facts.items() if found[key] != value)
        raise OutputError("a free name, or this very adapter", f"{out}, of another: {other}", fix)
    return there.history


def _checkpoint(request: AdaptRequest) -> Path:
    """Where the checkpoint goes; its folder is made."""
    path = request.out.with_suffix(".checkpoint.pt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("a folder for the adapter", f"{path.parent} ({error})", "Give another --out.") from error
    if path.is_file() and not request.resume:
        raise TrainingError("an --out without a checkpoint", f"{path}", "Give --resume, or another --out.")
    return path


def consistency(
    load: Load, folder: Path, info: ModelInfo, options: ModelOptions, classes: ClassSet, tiles: UnlabelledTiles, threads: int | None
) -> float:
    """See `rs_pipeline.adaptation.Adaptable.consistency`; the classes that count are those the model finds without an adapter."""
    device = _ready(options.device, threads)
    model = load(folder).to(device).eval()
    prompts = encode_classes(model, classes)
    held = HeldOut(tiles, range(len(tiles)), _VIEWS_SEED, device)
    half = options.dtype == "bfloat16" or (options.dtype == "auto" and device.type == "cuda")
    precision = torch.autocast(device.type, torch.bfloat16, enabled=half)
    plain = held.agreement(model, None, prompts, precision)
    check_found(plain, classes.names)
    if options.adapter is None:
        return plain.score(plain)
    alignment = wear(model, options.adapter, info.weights_sha256, feedback=options.scoring.feedback)
    return held.agreement(model, alignment, prompts, precision).score(plain)


@torch.no_grad()
def encode_classes(model: Model, classes: ClassSet) -> Prompts:
    """The first prompt of each class, which is its name unless a vocabulary says otherwise."""
    return model.encode_text([c.prompts[0] for c in classes])


def _ready(device: str, threads: int | None) -> torch.device:
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    return find_device(device)


def _write_curves(out: Path, state: State) -> None:
    try:
        write_curves(out, state.history)
    except OSError as error:
        raise OutputError("a place for the curves", f"{out} ({error})", "Check permissions and disk space.") from error
