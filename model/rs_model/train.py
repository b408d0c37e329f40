"""Training of rs-tiny: recipe and data in, a weights folder out. A killed run goes on where its last checkpoint stands."""

from __future__ import annotations

import math
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from torch import Tensor

from rs_model.architecture import Architecture
from rs_model.checkpoint import State, read_state, write_state
from rs_model.labels import CLASSES
from rs_model.losses import total_loss
from rs_model.memory import keep_freed_memory
from rs_model.mixture import Batch, Mixture, read_mixture
from rs_model.recipe import Recipe, read_recipe
from rs_model.tiny import TinySam3
from rs_model.weights import MODEL_TYPE, write_weights
from rs_model.words import Tokenizer, known_words
from rs_pipeline.errors import TrainingError


def train(config: Path, *, data: Path, out: Path, resume: bool, steps: int | None = None) -> Path:
    """Trains and exports.

    Parameters
    ----------
    config: recipe, see `configs/train/rs-tiny.yaml`.
    data: folder of the data sets.
    out: folder of the run; holds `checkpoint.pt` and, in the end, `weights/`.
    resume: go on from the checkpoint in `out`, if there is one; without it a checkpoint there is an error.
    steps: steps in all, in place of the recipe's.

    Returns
    -------
    The weights folder, ready for `--model`.

    Raises
    ------
    ConfigError: the recipe. TrainingError: the data, or a checkpoint that is damaged or of another recipe.
    """
    recipe = read_recipe(config, steps)
    out.mkdir(parents=True, exist_ok=True)
    state = read_state(out)
    if state is not None and not resume:
        raise TrainingError("a folder without a checkpoint", f"{out}, which has one", "Give --resume, or another --out.")
    mixture = read_mixture(data, recipe)
    run = Run(recipe, mixture, state)
    run.to_the_end(out)
    folder = out / "weights"
    export(folder, recipe, run.average, run.data_sha256)
    return folder


class Run:
    """Model, optimiser and moving average of one training run."""

    def __init__(self, recipe: Recipe, mixture: Mixture, state: State | None) -> None:
        torch.set_num_threads(recipe.threads)
        keep_freed_memory()
        torch.manual_seed(recipe.seed)
        self.recipe, self.mixture, self.data_sha256 = recipe, mixture, mixture.digest()
        self.tokenizer = Tokenizer(known_words())
        self.model = TinySam3(Architecture(), self.tokenizer).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(_groups(self.model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98))
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.step = 0
        if state is not None:
            self._restore(state)

    def _restore(self, state: State) -> None:
        made_by = (state.recipe, state.data_sha256)
        if made_by != (self.recipe.model_dump(mode="json"), self.data_sha256):
            raise TrainingError("a checkpoint of this recipe, number of steps and data", "one of another", "Train into another --out.")
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.average, self.step = dict(state.average), state.step

    def to_the_end(self, out: Path) -> None:
        """The steps that remain, with a checkpoint every so many and after the last."""
        started, first, shown = time.monotonic(), self.step, 0.0
        while self.step < self.recipe.steps:
            loss = self.advance(self.mixture.batch(self.step))
            shown = loss if self.step == first + 1 else 0.95 * shown + 0.05 * loss
            seconds = (time.monotonic() - started) / (self.step - first)
            if self.step % 10 == 0 or self.step == self.recipe.steps:
                left = seconds * (self.recipe.steps - self.step) / 60
                report(f"step {self.step}/{self.recipe.steps}  loss {shown:.3f}  {seconds:.2f} s/step  {left:.0f} min left")
            if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.steps:
                write_state(out, self.state())

    def advance(self, batch: Batch) -> float:
        """One optimiser step; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * one_cycle(self.step / self.recipe.steps, self.recipe.warmup)
        ids, mask = (torch.from_numpy(a) for a in self.tokenizer.encode(batch.words))
        images = torch.from_numpy(batch.images).contiguous(memory_format=torch.channels_last)
        self.model.train()
        logits, presence = self.model(images, ids, mask)
        loss = total_loss(logits, presence, torch.from_numpy(batch.codes.astype(np.int64)), self.recipe.presence_weight)
        if not torch.isfinite(loss):
            raise TrainingError("a finite loss", f"{loss.item()} at step {self.step}", "Lower learning_rate in the recipe.")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return float(loss.item())

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)

    def state(self) -> State:
        """What a checkpoint keeps."""
        recipe = self.recipe.model_dump(mode="json")
        return State(self.step, self.model.state_dict(), self.average, self.optimizer.state_dict(), recipe, self.data_sha256)


def report(line: str) -> None:
    """One line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def one_cycle(done: float, warmup: float) -> float:
    """Share of the top learning rate after a share of the steps: a linear rise, then half a cosine down to 0."""
    if done < warmup:
        return 0.04 + 0.96 * done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))


def export(folder: Path, recipe: Recipe, average: dict[str, Tensor], data_sha256: str) -> None:
    """Writes the averaged weights as float16, with all that says what they mean."""
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architecture": asdict(Architecture()),
        "vocabulary": list(known_words()),
        "gsd_m": recipe.gsd_m,
        "gsd_range_m": list(recipe.gsd_range_m),
        "tile_px": recipe.tile_px,
        "training": {
            "classes": list(CLASSES),
            "recipe": recipe.model_dump(mode="json"),
            "data_sha256": data_sha256,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "timm": timm.__version__,
            },
        },
    }
    tensors = {n: t.half().contiguous() if t.is_floating_point() else t for n, t in average.items()}
    write_weights(folder, config, tensors)


def _groups(model: TinySam3, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters, none on biases, norms and embeddings of one dimension."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
