"""What the providers do when they are asked to adapt (`rs_pipeline.adaptation.Adaptable`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rs_model.adapt.adaptation import Adaptation
from rs_model.adapt.checkpoint import State
from rs_model.adapt.curves import write_curves
from rs_model.adapt.file import wear, write_adapter
from rs_model.adapt.holdout import HeldOut, check_found
from rs_model.adapt.parts import Model
from rs_model.memory import keep_freed_memory
from rs_model.segmenter import find_device
from rs_model.stages import Prompts
from rs_pipeline.adaptation import AdaptRequest, UnlabelledTiles
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import OutputError, TrainingError, UsageError
from rs_pipeline.options import ModelOptions
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo

Load = Callable[[Path], Model]
LEAST_CLASSES = 2
_VIEWS_SEED = 7
"""Of the views that `consistency` compares: fixed, so that adapters can be held against each other."""


def adapt(load: Load, folder: Path, info: ModelInfo, request: AdaptRequest, tiles: UnlabelledTiles, reporter: Reporter) -> dict[str, Any]:
    """See `rs_pipeline.adaptation.Adaptable.adapt`."""
    check_classes(request.classes)
    device = _ready(request.device, request.threads)
    out, checkpoint = request.out, request.out.with_suffix(".checkpoint.pt")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("a folder for the adapter", f"{out.parent} ({error})", "Give another --out.") from error
    if checkpoint.is_file() and not request.resume:
        raise TrainingError("an --out without a checkpoint", f"{checkpoint}", "Give --resume, or another --out.")
    made_by = {
        "base": info.weights_sha256,
        "classes": {c.name: list(c.prompts) for c in request.classes},
        "settings": request.settings.model_dump(mode="json"),
        "tiles": tiles.digest,
    }
    model = load(folder).to(device).eval()
    prompts = encode_classes(model, request.classes)
    adaptation = Adaptation(model, request.settings, tiles, prompts, request.classes.names, made_by, checkpoint)
    try:
        state = adaptation.run(reporter)
    finally:
        curves = _keep_curves(out, adaptation.state)
    best = state.best_row
    history = {"consistency_before": state.before, "consistency": best["consistency"], "best_step": int(best["step"]), "steps": state.step}
    if request.guarded and best["consistency"] < state.before:
        came = f"{best['consistency']:.4f} at best, {state.before:.4f} without an adapter; nothing was written but {curves[1]}"
        raise TrainingError("held-out consistency that does not get worse", came, "Lower learning_rate, or give more tiles.")
    facts = {
        "model": info.name,
        "base_sha256": info.weights_sha256,
        "classes": made_by["classes"],
        "settings": made_by["settings"],
        "data_sha256": tiles.digest,
        "history": history,
    }
    write_adapter(out, facts, adaptation.adapter.tensors(state.best))
    with suppress(OSError):
        checkpoint.unlink()
    return {**history, "adapter": str(out), "bytes": out.stat().st_size, "tiles": len(tiles), "curves": [str(path) for path in curves]}


def consistency(load: Load, folder: Path, options: ModelOptions, classes: ClassSet, tiles: UnlabelledTiles, threads: int | None) -> float:
    """See `rs_pipeline.adaptation.Adaptable.consistency`; the classes that count are those the model finds without an adapter."""
    device = _ready(options.device, threads)
    model = load(folder).to(device).eval()
    prompts = encode_classes(model, classes)
    held = HeldOut(tiles, range(len(tiles)), _VIEWS_SEED, device)
    precision = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    plain = held.agreement(model, None, prompts, precision)
    found = check_found(plain, classes.names)
    if options.adapter is None:
        return plain.score(found)
    alignment = wear(model, options.adapter, feedback=options.scoring.feedback)
    return held.agreement(model, alignment, prompts, precision).score(found)


def check_classes(classes: ClassSet) -> None:
    """Refuse a single class: with nothing beside it, a teacher that is sure of too much is right forever.

    Raises
    ------
    UsageError: fewer than two.
    """
    if len(classes) < LEAST_CLASSES:
        came = ", ".join(classes.names) or "none"
        raise UsageError("at least two classes to adapt to", came, "Add what lies beside it, as --classes road,land.")


@torch.no_grad()
def encode_classes(model: Model, classes: ClassSet) -> Prompts:
    """The first prompt of each class, which is its name unless a vocabulary says otherwise."""
    return model.encode_text([c.prompts[0] for c in classes])


def _ready(device: str, threads: int | None) -> torch.device:
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    return find_device(device)


def _keep_curves(out: Path, state: State) -> tuple[Path, Path]:
    """Of a run that failed, too: they say why."""
    try:
        return write_curves(out, state.history)
    except OSError as error:
        raise OutputError("a place for the curves", f"{out} ({error})", "Check permissions and disk space.") from error
