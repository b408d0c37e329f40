"""The training of an adapter: student and teacher on views of unlabelled tiles, checked on tiles that are held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rs_model.adapt.adapter import ALIGN, NECK, Adapter
from rs_model.adapt.checkpoint import State, read_state, write_state
from rs_model.adapt.holdout import HeldOut, check_found, split_tiles
from rs_model.adapt.objective import Objective
from rs_model.adapt.parts import Model
from rs_model.adapt.views import Views, draw_views
from rs_model.stages import Prompts
from rs_model.train import one_cycle
from rs_pipeline.adapt_settings import AdaptSettings
from rs_pipeline.adaptation import UnlabelledTiles
from rs_pipeline.errors import TrainingError
from rs_pipeline.reporting import Reporter


class Adaptation:
    """One adaptation under way.

    The crops, views and draws of a step hang on the seed and its number alone: a run that goes on from a checkpoint ends as a whole one.

    Parameters
    ----------
    model: on its device; it wears the adapter from then on.
    prompts: one per class, encoded.
    made_by: base, classes, settings and tiles, JSON form; a checkpoint of anything else is refused.
    checkpoint: its file.

    Raises
    ------
    TrainingError: no two tiles that lie apart, a checkpoint of something else, or held-out tiles without any of the classes.
    """

    def __init__(
        self,
        model: Model,
        settings: AdaptSettings,
        tiles: UnlabelledTiles,
        prompts: Prompts,
        names: Sequence[str],
        made_by: dict[str, Any],
        checkpoint: Path,
    ) -> None:
        self.settings, self.prompts, self._tiles, self._path = settings, prompts, tiles, checkpoint
        self.device = next(model.parameters()).device
        train, held = split_tiles([tiles.footprint(i) for i in range(len(tiles))], settings.held_out, settings.seed)
        self._train, self._held = train, HeldOut(tiles, held.tolist(), settings.seed, self.device)
        self.steps = math.ceil(len(train) / settings.batch) if settings.steps is None else settings.steps
        # The student's own start must not hang on what was computed before.
        torch.manual_seed(settings.seed)
        self._before = self._held.agreement(model, None, prompts, self._precision())
        check_found(self._before, names)
        self.adapter = Adapter(model, settings)
        self.objective = Objective(self.adapter, settings)
        self.optimizer = self._optimizer()
        resumed = read_state(checkpoint, made_by, self.device)
        self.state = resumed or self._fresh(made_by, self._before.score(self._before))
        self._losses: list[dict[str, float]] = []
        if resumed is not None:
            self._restore(resumed)

    def _precision(self) -> torch.autocast:
        chosen = self.settings.precision
        half = chosen == "bfloat16" or (chosen == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def _optimizer(self) -> torch.optim.AdamW:
        """The model's own weights learn slowly, what starts as nothing faster, CMA as it says; biases and single numbers do not decay."""
        s, groups = self.settings, []
        for name, parameter in self.adapter.parameters().items():
            top = s.learning_rate if name.startswith(f"{NECK}.") else s.added_learning_rate
            if name.startswith(f"{ALIGN}.cross_modal."):
                top = s.align.cross_modal.learning_rate
            groups.append({"params": [parameter], "top": top, "lr": top, "weight_decay": s.weight_decay if parameter.ndim > 1 else 0.0})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def _fresh(self, made_by: dict[str, Any], consistency: float) -> State:
        own = {name: parameter.detach().clone() for name, parameter in self.adapter.parameters().items()}
        teacher = {name: value.clone() for name, value in own.items()}
        first = {"step": 0.0, "consistency": consistency}
        return State(made_by, 0, own, teacher, dict(teacher), history=[first])

    def _restore(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self.adapter.parameters().items():
                parameter.copy_(state.own[name])
        self.optimizer.load_state_dict(state.optimizer)

    @property
    def is_over(self) -> bool:
        """True after the last step, or after so many checks without a better one."""
        rows = self.state.history[1:]
        since = len(rows) - 1 - rows.index(self.state.best_row) if rows else 0
        return self.state.step >= self.steps or since >= self.settings.patience

    def run(self, reporter: Reporter) -> State:
        """The steps that remain.

        Raises
        ------
        TrainingError: a loss that is not finite; the last checkpoint stays.
        """
        s = self.settings
        reporter.stage("adapt", self.steps)
        reporter.advance(self.state.step)
        while not self.is_over:
            self._losses.append(self.advance())
            reporter.advance(1)
            if self.state.step % s.check_every == 0 or self.state.step == self.steps:
                self._check(reporter)
        return self.state

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; the losses, weighted."""
        s, step = self.settings, self.state.step
        rng = np.random.default_rng([s.seed, step])
        views = draw_views(self._tiles, self._train, s.crop_px, s.batch, rng).to(self.device)
        losses = self._backward(views, step)
        share = one_cycle(step / self.steps, s.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * share
        norm = torch.nn.utils.clip_grad_norm_(list(self.adapter.parameters().values()), s.clip_norm)
        if not torch.isfinite(norm):  # the losses were: a step would spoil parameters and teacher for good
            came = f"a norm of {norm.item()} at step {step}, of {', '.join(f'{name} {loss:.3g}' for name, loss in losses.items())}"
            raise TrainingError("finite gradients", came, _fix(self._path))
        self.optimizer.step()
        self.adapter.constrain()
        self.state.step += 1
        self._average()
        return losses

    def _backward(self, views: Views, step: int) -> dict[str, float]:
        s = self.settings
        self.adapter.alignment.warmth = min(1.0, (step + 1) / max(s.warmup * self.steps, 1))
        # Contexts of their own: autocast keeps the weights it cast, and the student would be given the teacher's.
        with self.adapter.holding(self.state.teacher), torch.no_grad(), self._precision():
            taught = self.objective.teach(views, self.prompts)
        with self.adapter.holding(self.adapter.plain()), torch.no_grad(), self._precision():
            taught = replace(taught, before=self.objective.plain_tokens(views, self.prompts))
        generator = torch.Generator().manual_seed(int(np.random.default_rng([s.seed, step, 1]).integers(2**31)))
        with self._precision():
            losses = self.objective.losses(views, self.prompts, taught, (step + 1) / self.steps, generator)
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise TrainingError("finite losses", f"{name} is {loss.item()} at step {step}", _fix(self._path))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        return {name: float(loss.item()) for name, loss in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """The teacher follows: the plain mean of all steps, until it forgets as slowly as it is told to."""
        decay = min(self.settings.ema_decay, self.state.step / (self.state.step + 1))
        for name, parameter in self.adapter.parameters().items():
            self.state.teacher[name].lerp_(parameter, 1 - decay)

    def _check(self, reporter: Reporter) -> None:
        """Consistency of the teacher, which is what is written; its place in the history; a checkpoint."""
        state = self.state
        warmth, self.adapter.alignment.warmth = self.adapter.alignment.warmth, 1.0
        with self.adapter.holding(state.teacher):
            agreement = self._held.agreement(self.adapter.model, self.adapter.alignment, self.prompts, self._precision())
        self.adapter.alignment.warmth = warmth
        means = {name: float(np.mean([losses[name] for losses in self._losses])) for name in self.objective.active}
        row = {"step": float(state.step), "consistency": agreement.score(self._before)} | {
            f"loss.{name}": value for name, value in means.items()
        }
        self._losses.clear()
        if len(state.history) == 1 or row["consistency"] > state.best_row["consistency"]:
            state.best = {name: value.clone() for name, value in state.teacher.items()}
        state.history.append(row)
        state.own = {name: parameter.detach().clone() for name, parameter in self.adapter.parameters().items()}
        state.optimizer = self.optimizer.state_dict()
        write_state(self._path, state)
        said = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
        reporter.note(f"step {state.step}: held-out consistency {row['consistency']:.4f} (unadapted {state.before:.4f}); {said}")


def _fix(checkpoint: Path) -> str:
    kept = f"; the last good state is kept in {checkpoint.name}" if checkpoint.is_file() else ""
    return f"Lower learning_rate and give another --out{kept}."
