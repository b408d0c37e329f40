"""The sum that is minimised, and its parts by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rs_model.adapt.adapter import Adapter
from rs_model.adapt.forward import Seen, presence_of, see, see_tokens
from rs_model.adapt.losses import BoundaryLoss, MaskConsistencyLoss, PatchContrastLoss, PatchImportanceLoss
from rs_model.adapt.views import Views
from rs_model.refine.importance import late_attention, patch_importance
from rs_model.stages import Prompts
from rs_pipeline.adapt_settings import AdaptSettings

WARMED = ("contrast", "distill")
"""Losses that start small: their first gradients are by far the largest."""
SEEN = 0.5
"""Least share of a token's pixels that were seen, for it to count."""
UNSURE = 0.5
"""Neither inside a mask nor outside."""
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
    before: Tensor | None = None
    """(B, n, C) tokens of the unadapted model on the student's view, where a loss asks for them."""


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

    def plain_tokens(self, views: Views, prompts: Prompts) -> Tensor | None:
        """`Taught.before`; call it with the values of `Adapter.plain` in place, and without gradients."""
        return see_tokens(self.adapter.model, views.other, prompts) if "boundary" in self.active else None

    def losses(self, views: Views, prompts: Prompts, taught: Taught, done: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Each loss that counts, weighted; `done` 0…1 is the share of the steps that were done."""
        looks = bool({"importance", "distill"} & set(self.active))
        seen = see(self.adapter.model, self.adapter.alignment, views.other, prompts, attention=looks)
        warmth = min(1.0, done / self.settings.warmup) if self.settings.warmup else 1.0
        found = {}
        for name in self.active:
            weight = getattr(self.settings.losses, name).weight * (warmth if name in WARMED else 1.0)
            with torch.autocast(views.other.device.type, enabled=False):
                found[name] = weight * self._loss(name, seen, prompts, taught, generator)
        return found

    def _loss(self, name: str, seen: Seen, prompts: Prompts, taught: Taught, generator: torch.Generator) -> Tensor:
        tokens, present = seen.fused.tokens.float(), taught.presence >= PRESENT
        valid = seen.on_grid(taught.valid.float()) >= SEEN
        mask = seen.on_grid(taught.probability)
        loss: Tensor
        if name == "consistency":
            loss = self.consistency(seen.probability, taught.probability, taught.valid)
        elif name == "contrast":
            loss = self.contrast(tokens, torch.where(valid, mask, UNSURE), generator)
        elif name == "boundary" and taught.before is not None:
            loss = self.boundary(tokens, taught.before.float(), mask, valid, seen.grid)
        elif name == "text_image":
            loss = self._text_image(tokens, mask * valid, prompts, present)
        else:
            loss = self._attended(name, tokens[present], valid[present], seen, present)
        return loss

    def _attended(self, name: str, tokens: Tensor, valid: Tensor, seen: Seen, present: Tensor) -> Tensor:
        """The losses that read the decoder's attention, on rows whose class is there."""
        if seen.decoded.attention is None:
            raise AssertionError("attention was asked for")
        layers = self.settings.losses.importance.layers
        attention = seen.decoded.attention[present, -layers:].detach().float()
        loss: Tensor
        if name == "importance":
            importance = patch_importance(attention, torch.sigmoid(seen.scores[present].detach().float()), "score", layers) * valid
            share = importance / importance.sum(1, keepdim=True).clamp(min=1e-12)
            loss = self.importance(tokens * valid[..., None], share)
        elif self.adapter.distill is not None:
            loss = self.adapter.distill(tokens, seen.decoded.queries[present].float(), late_attention(attention, layers)[:, 1:], valid)
        else:
            raise AssertionError(f"no loss is called {name}")
        return loss

    def _text_image(self, tokens: Tensor, mask: Tensor, prompts: Prompts, present: Tensor) -> Tensor:
        if self.adapter.text_image is None:
            raise AssertionError("text and image have their own parameters")
        share = mask / mask.sum(1, keepdim=True).clamp(min=1e-6)
        inside = torch.einsum("bn,bnc->bc", share, tokens)
        rows = torch.arange(len(tokens), device=tokens.device) % len(prompts)
        words = prompts.mask[..., None]
        said = (prompts.features.float() * words).sum(1) / words.sum(1)
        loss: Tensor = self.adapter.text_image(inside[present], said[rows[present]], rows[present])
        return loss
