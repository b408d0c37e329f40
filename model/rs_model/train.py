"""Training of rs-tiny: recipe and data in, a weights folder out. A killed run goes on where its last checkpoint stands."""

from __future__ import annotations

import math
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
import transformers
from torch import Tensor, nn

from rs_model.architecture import Architecture
from rs_model.checkpoint import State, read_state, write_state
from rs_model.labels import CLASSES
from rs_model.losses import dense_loss, presence_loss, teacher_loss, total_loss
from rs_model.matching import absence_loss, instance_loss
from rs_model.memory import keep_freed_memory
from rs_model.mixture import Batch, Mixture, read_mixture
from rs_model.phrases import build_tokenizer, class_nouns
from rs_model.recipe import Phase, Recipe, read_recipe
from rs_model.student import Student
from rs_model.teacher import Teacher, look_at
from rs_model.text_training import measure_text, pretrain_text, resolved_share
from rs_model.weights import MODEL_TYPE, write_weights
from rs_pipeline.errors import TrainingError


def train(config: Path, *, data: Path, out: Path, resume: bool, steps: int | None = None) -> Path:
    """Trains and exports.

    Parameters
    ----------
    config: recipe, see `configs/train/rs-tiny.yaml`.
    data: folder of the data sets.
    out: folder of the run; holds `checkpoint.pt` and, in the end, `weights/`.
    resume: go on from the checkpoint in `out`, if there is one; without it a checkpoint there is an error.
    steps: of each phase at most.

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
    export(folder, recipe, run.averaged_model(), run.data_sha256)
    return folder


class Run:
    """Model, optimiser and moving average of one training run."""

    def __init__(self, recipe: Recipe, mixture: Mixture, state: State | None) -> None:
        torch.set_num_threads(recipe.threads)
        keep_freed_memory()
        torch.manual_seed(recipe.seed)
        self.recipe, self.mixture, self.data_sha256 = recipe, mixture, mixture.digest()
        self.tokenizer = build_tokenizer()
        self.student = Student(recipe, self.tokenizer).to(memory_format=torch.channels_last)
        head = self.student.model.head
        for part in (head.detr_encoder, head.detr_decoder, head.mask_decoder):
            part.set_attn_implementation("eager")  # on a CPU the fused attention's backward takes twice as long at this width
        if state is None:
            self._learn_words()
        self._begin(0)
        if state is not None:
            self._restore(state)

    @property
    def phase(self) -> Phase:
        """The one that is running."""
        return self.recipe.phases[self.index]

    def _learn_words(self) -> None:
        """The text phase. It is short: a run that is killed in it begins it again."""
        text, head = self.recipe.text, self.student.model.head
        pretrain_text(
            self._read_words,
            self.student.reader,
            [*head.text_encoder.parameters(), *head.text_projection.parameters()],
            self.tokenizer,
            seed=self.recipe.seed,
            steps=text.steps,
            phrases=text.phrases,
            learning_rate=text.learning_rate,
        )
        named, strange = resolved_share(measure_text(self._read_words, self.student.reader, self.tokenizer))
        report(f"text {text.steps}/{text.steps}  {named:.0%} of held-out phrases have their class, {strange:.0%} of other concepts none")

    def _read_words(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.student.model.encode_ids(ids, mask).features

    def _begin(self, index: int) -> None:
        """A phase's first step: a fresh optimiser, and the moving average starts from the weights as they are."""
        self.index, self.step = index, 0
        self.student.eval().requires_grad_(False).zero_grad()  # what is frozen now must not count into the norm of the gradients
        self.learning = self.student.learns(self.phase.lesson)
        for part in self.learning:
            part.requires_grad_(True)
        groups = _groups(self.student, self.recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.phase.learning_rate, betas=(0.9, 0.98))
        self.average = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        self.began = {name: tensor.clone() for name, tensor in self.average.items()} if self.phase.looks_back else {}

    def _restore(self, state: State) -> None:
        made_by = (state.recipe, state.data_sha256)
        if made_by != (self.recipe.model_dump(mode="json"), self.data_sha256):
            raise TrainingError("a checkpoint of this recipe, number of steps and data", "one of another", "Train into another --out.")
        self._begin(state.phase)
        self.student.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.began, self.average, self.step = dict(state.began), dict(state.average), state.step

    def to_the_end(self, out: Path) -> None:
        """The phases and steps that remain, with a checkpoint every so many steps and at the end of each phase."""
        for index in range(self.index, len(self.recipe.phases)):
            if index != self.index:
                self.student.load_state_dict(self.average)
                self._begin(index)
            self._finish_phase(out)

    def _finish_phase(self, out: Path) -> None:
        steps, name = self.phase.steps, f"{self.index + 1} {self.phase.lesson}"
        teacher = self._teacher() if self.phase.teacher_weight and self.step < steps else None
        started, first, shown = time.monotonic(), self.step, 0.0
        with ThreadPoolExecutor(1) as ahead:  # the next crops are cut while the model learns from these
            batch = ahead.submit(self.mixture.batch, self.index, self.step, teacher)
            while self.step < steps:
                ready, batch = batch.result(), ahead.submit(self.mixture.batch, self.index, self.step + 1, teacher)
                loss = self.advance(ready)
                if self.step == steps and self.phase.blend < 1:
                    self._blend()
                shown = loss if self.step == first + 1 else 0.95 * shown + 0.05 * loss
                seconds = (time.monotonic() - started) / (self.step - first)
                if self.step % 10 == 0 or self.step == steps:
                    left = seconds * (steps - self.step) / 60
                    report(f"{name} {self.step}/{steps}  loss {shown:.3f}  {seconds:.2f} s/step  {left:.0f} min left")
                if self.step % self.recipe.checkpoint_every == 0 or self.step == steps:
                    write_state(out, self.state())

    def _teacher(self) -> Teacher:
        """The model as it was at the phase's first step. A run that goes on looks at the scenes again."""
        report(f"{self.phase.lesson}: the model looks at its training scenes, to be its own teacher")
        with TemporaryDirectory() as folder:
            export(Path(folder), self.recipe, _without_dense_head(self.began), self.data_sha256)
            return look_at(Path(folder), self.mixture.taught_scenes(self.index), self.recipe.tile_px, self.recipe.threads)

    def advance(self, batch: Batch) -> float:
        """One optimiser step; the loss."""
        phase = self.phase
        for group in self.optimizer.param_groups:
            group["lr"] = phase.learning_rate * one_cycle(self.step / phase.steps, phase.warmup)
        for part in self.learning:
            part.train()
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise TrainingError("a finite loss", f"{loss.item()} at step {self.step}", "Lower learning_rate in the recipe.")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return float(loss.item())

    def _loss(self, batch: Batch) -> Tensor:
        phase = self.phase
        images = torch.from_numpy(batch.images).contiguous(memory_format=torch.channels_last)
        codes = torch.from_numpy(batch.codes.astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            if phase.lesson == "dense":
                logits = self.student.dense_logits(images)
            else:
                ids, mask = (torch.from_numpy(a) for a in self.tokenizer.encode(batch.words, rng=np.random.default_rng(self.step)))
                if phase.lesson == "instances":
                    queried = self.student.queried(images, ids, mask)
                else:
                    logits, queried = self.student.prompted(images, ids, mask)
        if phase.lesson == "dense":
            return dense_loss(logits.float(), codes)
        presence = queried.presence.float()
        instances = instance_loss(queried.found, batch.instances) + absence_loss(queried.silent)
        if phase.lesson == "instances":
            return instances + self.recipe.presence_weight * presence_loss(presence, codes)
        loss = total_loss(logits.float(), presence, codes, self.recipe.presence_weight) + phase.instance_weight * instances
        return loss if batch.taught is None else loss + phase.teacher_weight * teacher_loss(logits.float(), torch.from_numpy(batch.taught))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        for name, tensor in self.student.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)

    @torch.no_grad()
    def _blend(self) -> None:
        """Steps back a part of the way that the phase went: what it learned mostly stays, what it forgot mostly comes back."""
        for name, tensor in self.average.items():
            if tensor.is_floating_point():
                tensor.lerp_(self.began[name], 1 - self.phase.blend)

    def state(self) -> State:
        """What a checkpoint keeps."""
        recipe = self.recipe.model_dump(mode="json")
        model, optimizer = self.student.state_dict(), self.optimizer.state_dict()
        return State(self.index, self.step, model, self.average, optimizer, recipe, self.data_sha256, self.began)

    def averaged_model(self) -> dict[str, Tensor]:
        """What is exported: the model's averaged weights."""
        return _without_dense_head(self.average)


def _without_dense_head(student: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a student's weights those of the model."""
    return {name.removeprefix("model."): t for name, t in student.items() if name.startswith("model.")}


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
        "architecture": asdict(Architecture(backbone=recipe.backbone)),
        "tokenizer": build_tokenizer().to_json(),
        "words": list(class_nouns()),
        "gsd_m": recipe.gsd_m,
        "gsd_range_m": list(recipe.gsd_range_m),
        "tile_px": recipe.tile_px,
        "trained_queries": True,
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


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters, none on biases, norms and embeddings of one dimension."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
