"""The sum that is minimised, and its parts by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rs_model.adapt.adapter import Adapter
from rs_model.adapt.forward import Seen, presence_of, see
from rs_model.adapt.losses import BoundaryLoss, MaskConsistencyLoss, PatchContrastLoss, PatchImportanceLoss
from rs_model.adapt.views import Views
from rs_model.refine.importance import late_attention, patch_importance
from rs_model.stages import Prompts
from rs_pipeline.adapt_settings import AdaptSettings
from rs_pipeline.errors import TrainingError

WARMED = ("contrast", "distill")
"""Losses that start small: their first gradients are by far the largest."""
PRESENT = 0.5
"""Least presence, by the teacher, of a row whose attention or words teach anything."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What the teacher says of the plain view, as the student's view lies."""

    probability: Tensor
    """(B, S, S)."""
    presence: Tensor
    """(B,)."""
    valid: Tensor
    """(B, S, S) bool."""


class Objective:
    """The losses of some settings, over an adapter."""

    def __init__(self, adapter: Adapter, settings: AdaptSettings) -> None:
        losses = settings.losses
        self.adapter, self.settings, self.active = adapter, settings, losses.active
        self.consistency = MaskConsistencyLoss(losses.consistency.sure)
        self.importance = PatchImportanceLoss(losses.importance.form, losses.importance.top_share)
        c = losses.contrast
        self.contrast = PatchContrastLoss(c.masks, c.patches, c.temperature, losses.consistency.sure)
        self.boundary = BoundaryLoss()

    def teach(self, views: Views, prompts: Prompts) -> Taught:
        """Call it with the teacher's parameters in place, and without gradients."""
        seen = see(self.adapter.model, self.adapter.alignment, views.plain, prompts)
        count, side = len(prompts), views.plain.shape[-1]
        maps = seen.probability.view(-1, count, side, side)
        valid = views.turned(views.valid).repeat_interleave(count, 0)
        return Taught(views.turned(maps).flatten(0, 1), presence_of(seen), valid)

    def losses(self, views: Views, prompts: Prompts, taught: Taught, done: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Each loss that counts, weighted; `done` 0…1 is the share of the steps that were done.

        Raises
        ------
        TrainingError: one is not finite.
        """
        looks = bool({"importance", "distill"} & set(self.active))
        seen = see(self.adapter.model, self.adapter.alignment, views.other, prompts, attention=looks)
        warmth = min(1.0, done / self.settings.warmup) if self.settings.warmup else 1.0
        found = {}
        for name in self.active:
            weight = getattr(self.settings.losses, name).weight * (warmth if name in WARMED else 1.0)
            with torch.autocast(views.other.device.type, enabled=False):
                found[name] = weight * self._loss(name, seen, prompts, taught, generator)
        check_finite(found)
        return found

    def _loss(self, name: str, seen: Seen, prompts: Prompts, taught: Taught, generator: torch.Generator) -> Tensor:
        tokens, present = seen.fused.tokens.float(), taught.presence >= PRESENT
        loss: Tensor
        if name == "consistency":
            loss = self.consistency(seen.probability, taught.probability, taught.valid)
        elif name == "contrast":
            loss = self.contrast(tokens, seen.on_grid(taught.probability), generator)
        elif name == "boundary":
            loss = self.boundary(tokens, seen.before.float(), seen.on_grid(taught.probability), seen.grid)
        elif name == "text_image":
            loss = self._text_image(tokens, seen, prompts, taught, present)
        else:
            loss = self._attended(name, tokens[present], seen, present)
        return loss

    def _attended(self, name: str, tokens: Tensor, seen: Seen, present: Tensor) -> Tensor:
        """The losses that read the decoder's attention, on rows whose class is there."""
        if seen.decoded.attention is None:
            raise AssertionError("attention was asked for")
        attention, layers = seen.decoded.attention[present].float(), self.settings.losses.importance.layers
        loss: Tensor
        if name == "importance":
            matched = torch.sigmoid(seen.scores[present].float())
            loss = self.importance(tokens, patch_importance(attention, matched, "score", layers))
        elif self.adapter.distill is not None:
            loss = self.adapter.distill(tokens, seen.decoded.queries[present].float(), late_attention(attention, layers)[:, 1:])
        else:
            raise AssertionError(f"no loss is called {name}")
        return loss

    def _text_image(self, tokens: Tensor, seen: Seen, prompts: Prompts, taught: Taught, present: Tensor) -> Tensor:
        if self.adapter.text_image is None:
            raise AssertionError("text and image have their own parameters")
        mask = seen.on_grid(taught.probability)
        share = mask / mask.sum(1, keepdim=True).clamp(min=1e-6)
        inside = torch.einsum("bn,bnc->bc", share, tokens)
        rows = torch.arange(len(tokens), device=tokens.device) % len(prompts)
        words = prompts.mask[..., None]
        said = (prompts.features.float() * words).sum(1) / words.sum(1)
        loss: Tensor = self.adapter.text_image(inside[present], said[rows[present]], rows[present])
        return loss


def check_finite(losses: Mapping[str, Tensor]) -> None:
    """Refuse to go on from a loss that is not finite.

    Raises
    ------
    TrainingError: names it.
    """
    for name, loss in losses.items():
        if not torch.isfinite(loss):
            raise TrainingError("finite losses", f"{name} is {loss.item()}", f"Lower learning_rate or losses.{name}.weight.")
