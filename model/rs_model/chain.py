"""The refinements of a run, composed: backbone tokens, then encoder tokens, then class maps, each in the preset's order.

Steps of strength 0 are not in the chain at all, so that they are the identity bit for bit. The guided steps (reweight, the gates,
prune) share one look at the decoder: it is taken when the first of them comes, and the decoder runs again on what they made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Sam3Model

from rs_model.refine.clip_fusion import CONTRAST, agreement, class_prior, fuse_loglinear
from rs_model.refine.gates import QueryGate, attention_alpha, load_query_gate, presence_gate, query_gate
from rs_model.refine.importance import patch_importance, presence_attention
from rs_model.refine.laplacian import laplacian
from rs_model.refine.lowpass import lowpass
from rs_model.refine.prune import kept_tokens, pruned_keys
from rs_model.refine.reweight import reweight
from rs_model.refine.smooth import smooth
from rs_model.stages import Decoded, Fused, Pyramid, decode, score
from rs_pipeline.options import GUIDED, RefineSettings

TOKEN_STEPS = ("smooth", "lowpass", "laplacian")


class DenseClipLike(Protocol):
    """What the chain needs of CLIP; `rs_model.clip_dense.DenseClip` is it."""

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, h, w, D)."""
        ...

    def proxy_features(self, images: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The same, its values gathered by the affinity of tokens (N, n, C)."""
        ...

    def encode_texts(self, names: Sequence[str]) -> Tensor:
        """(K, D)."""
        ...


@dataclass(frozen=True, slots=True)
class _Look:
    """What one pass of the decoder says of the tokens it saw."""

    importance: Tensor
    """(B, n), sums to 1."""
    attention: Tensor
    """(B, some last layers, heads, 1 + Q, n)."""
    decoded: Decoded


class Chain:
    """The steps of one run."""

    def __init__(self, settings: RefineSettings, clip: DenseClipLike | None = None, device: torch.device | None = None) -> None:
        self.settings, self.clip = settings, clip
        self._steps = settings.active
        weights = settings.query_gate.weights if "query_gate" in self._steps else None
        self.gate: QueryGate | None = load_query_gate(Path(weights)).to(device).eval() if weights else None

    def backbone(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens of the images, (N, n, D)."""
        for step in self._steps:
            if step in TOKEN_STEPS:
                tokens = self._filter(step, tokens, grid, "backbone")
        return tokens

    def encoder(self, sam: Sam3Model, fused: Fused) -> tuple[Fused, Decoded]:
        """Tokens of image and prompt, refined, and what the decoder makes of them."""
        grid = (int(fused.shape[0, 0]), int(fused.shape[0, 1]))
        look: _Look | None = None
        kept: Tensor | None = None
        for step in self._steps:
            if step in TOKEN_STEPS:
                fused = fused.with_tokens(self._filter(step, fused.tokens, grid, "encoder"))
            elif step in GUIDED:
                look = look or self._look(sam, fused)
                if step == "prune":
                    kept = kept_tokens(look.importance, self.settings.prune.strength)
                else:
                    fused = fused.with_tokens(self._guided(step, fused.tokens, look))
        if kept is None:
            return fused, decode(sam, fused)
        with pruned_keys(sam.detr_decoder, kept):
            return fused, decode(sam, fused)

    def maps(self, probabilities: Tensor, images: Tensor, pyramid: Pyramid, words: Sequence[Sequence[str]]) -> Tensor:
        """Class maps (N, K, H, W) of images (N, 3, H, W) in [0, 1]; `words` are the prompts of each class."""
        if "clip" not in self._steps or self.clip is None:
            return probabilities
        # In float32: a scale of 40 makes bfloat16's third digit of a cosine a third of a logit.
        with torch.autocast(images.device.type, enabled=False):
            return self._constrained(self.clip, probabilities, images, pyramid, words)

    def _constrained(
        self, clip: DenseClipLike, probabilities: Tensor, images: Tensor, pyramid: Pyramid, words: Sequence[Sequence[str]]
    ) -> Tensor:
        settings, tokens = self.settings.clip, pyramid.tokens.float()
        proxy = settings.fusion == "proxy"
        features = clip.proxy_features(images, tokens, pyramid.grid) if proxy else clip.features(images)
        asked = [word for group in words for word in group]
        contrast = [text for text in settings.contrast if text not in asked]  # a class is not held against itself
        class_of_text = [k for k, group in enumerate(words) for _ in group] + [CONTRAST] * len(contrast)
        texts = clip.encode_texts(asked + contrast)
        size = (probabilities.shape[-2], probabilities.shape[-1])
        prior = class_prior(features, texts, class_of_text, len(words), settings.scale, size)
        strength: float | Tensor = settings.strength
        if settings.gate:
            # On CLIP's own features: those gathered by the tokens' affinity would agree with themselves.
            trust = agreement(tokens, pyramid.grid, clip.features(images) if proxy else features)
            strength = strength * functional.interpolate(trust, size, mode="bilinear", align_corners=False)
        return fuse_loglinear(probabilities, prior, strength)

    def _filter(self, step: str, tokens: Tensor, grid: tuple[int, int], place: str) -> Tensor:
        s = self.settings
        if getattr(s, step).at != place:
            return tokens
        if step == "smooth":
            return smooth(tokens, grid, s.smooth.strength)
        if step == "lowpass":
            return lowpass(tokens, grid, s.lowpass.strength, s.lowpass.radius)
        la = s.laplacian
        return laplacian(tokens, grid, la.strength, la.temperature, la.solver, la.steps)

    def _look(self, sam: Sam3Model, fused: Fused) -> _Look:
        decoded = decode(sam, fused, attention=True)
        if decoded.attention is None:
            raise AssertionError("attention was asked for")
        matched = torch.sigmoid(score(sam, decoded, fused)) * torch.sigmoid(decoded.presence)
        settings = self.settings.look
        # In float32, bfloat16 cannot tell 5184 shares from each other; of the layers that are read alone, or they would fill the memory.
        with torch.autocast(matched.device.type, enabled=False):
            attention = decoded.attention[:, -max(settings.layers, 2) :].float()
            importance = patch_importance(attention, matched.float(), settings.pooling, settings.layers)
        return _Look(importance, attention, replace(decoded, attention=None))

    def _guided(self, step: str, tokens: Tensor, look: _Look) -> Tensor:
        s = self.settings
        if step == "reweight":
            return reweight(tokens, look.importance, s.reweight.strength)
        if step == "presence_gate":
            where = presence_attention(look.attention, s.look.layers) if s.presence_gate.by == "position" else None
            return presence_gate(tokens, look.decoded.presence, s.presence_gate.strength, where)
        alpha = attention_alpha(look.attention) if self.gate is None else self.gate(tokens, look.decoded.queries)
        return query_gate(tokens, look.importance, alpha, s.query_gate.strength)
