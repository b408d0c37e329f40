"""Modules in which image tokens meet the text once more (METHODS.md section 4), and the feedback of a first look (section 2).

Shapes as in `rs_model.stages`: B rows, n image tokens, T text tokens, C channels. Each module starts as the identity, bit for bit: its
last projection is 0, and what multiplies it is not, so that gradients arrive (both at 0 would be dead forever).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam3Model

from rs_model.refine.importance import patch_importance
from rs_model.stages import Fused, Prompts, Pyramid, decode, embed_pixels, score, semantic_logits
from rs_pipeline.adapters import AlignSettings, Learned

SHARPEST = 2.0
"""Bounds of a learnable temperature's logarithm, on both sides."""
CLIP_START = math.log(1 / 0.07)
"""Where CLIP's temperature starts."""
SURE_BOUND = 6.0
"""Log-odds of the model's own masks are cut here before they gate anything: beyond it a sigmoid has no slope."""
LOOK_LAYERS = 3
"""Last decoder layers whose attention makes the importance of a token."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What the model says of its tokens by itself; no gradient passes."""

    mask: Tensor
    """(B, n) log-odds that a token is what its prompt asks for."""
    importance: Tensor
    """(B, n) how much it was looked at, 1 on average."""
    confidence: Tensor
    """(B, 1) presence times the best query's score, 0…1."""

    @property
    def entropy(self) -> Tensor:
        """(B, n) of the mask, 0…1."""
        p = torch.sigmoid(self.mask)
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


class TextAttention(nn.Module):
    """`y = x + gate · out(softmax(q kᵀ exp(logit_scale) / √C) v)`, q of the image tokens, k and v of the text tokens."""

    def __init__(self, width: int, *, temperature: Learned, gate: Learned, start: float, logit_scale: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.gate: Tensor
        self._own("gate", start, learned=gate == "learnable")
        self.logit_scale: Tensor | None = None
        if temperature == "learnable":
            self.logit_scale = nn.Parameter(torch.tensor(min(logit_scale, SHARPEST)))

    def _own(self, name: str, value: float, *, learned: bool) -> None:
        if learned:
            setattr(self, name, nn.Parameter(torch.tensor(value)))
        else:
            self.register_buffer(name, torch.tensor(value))

    def forward(self, tokens: Tensor, text: Prompts) -> Tensor:
        """(B, n, C) tokens with a text per row → (B, n, C)."""
        moved: Tensor = tokens + self.gate * self.out(self._attended(tokens, text))
        return moved

    def _attended(self, tokens: Tensor, text: Prompts, top: int | None = None) -> Tensor:
        """(B, n, C); with `top`, each token asks its so many nearest text tokens alone."""
        scale = 1 / math.sqrt(tokens.shape[-1])
        logits = self.query(tokens) @ self.key(text.features).transpose(1, 2) * scale
        if self.logit_scale is not None:
            logits = logits * self.logit_scale.exp()
        logits = logits.masked_fill(~text.mask[:, None], -torch.inf)
        if top is not None and top < logits.shape[-1]:
            nearest = logits.topk(top, dim=-1).indices
            kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, nearest, value=True)
            logits = logits.masked_fill(~kept, -torch.inf)
        attended: Tensor = logits.softmax(-1) @ self.value(text.features)
        return attended

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the temperature back between its bounds, after a step: a clamp in the forward pass would stop it there for good."""
        if self.logit_scale is not None:
            self.logit_scale.clamp_(-SHARPEST, SHARPEST)


class SsaLite(TextAttention):
    """SSA-lite: fixed 1/√d, or a learnable temperature that starts at CLIP's; γ starts at 0.1."""

    def __init__(self, width: int, *, temperature: Learned = "fixed", gate: Learned = "learnable", start: float = 0.1) -> None:
        super().__init__(width, temperature=temperature, gate=gate, start=start, logit_scale=CLIP_START)


class DecoderAlignment(TextAttention):
    """Decoder alignment: a learnable temperature that starts at 1, and α that starts at 0.5."""

    def __init__(self, width: int, *, temperature: Learned = "learnable", gate: Learned = "learnable", start: float = 0.5) -> None:
        super().__init__(width, temperature=temperature, gate=gate, start=start, logit_scale=0.0)


class CrossModal(TextAttention):
    """CMA: hard routing to the top K text tokens, and a gate `σ(a · logit(P) + b)` of the model's own mask on what attention gives.

    A prior added to the logits inside would cancel in the softmax (METHODS.md, trap 7).
    """

    def __init__(self, width: int, *, top_tokens: int = 2, start: float = 0.1) -> None:
        super().__init__(width, temperature="fixed", gate="learnable", start=start, logit_scale=0.0)
        self.top_tokens = top_tokens
        self.slope, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))

    def gated(self, tokens: Tensor, text: Prompts, mask: Tensor, warmth: float = 1.0) -> Tensor:
        """(B, n, C) tokens and (B, n) log-odds of the masks → (B, n, C); `warmth` 0…1 is the share of γ that counts yet."""
        opened = torch.sigmoid(self.slope * mask + self.bias)[..., None]
        moved: Tensor = tokens + warmth * self.gate * self.out(self._attended(tokens, text, self.top_tokens)) * opened
        return moved


class Feedback(nn.Module):
    """ΔF of what a first look says of each token: importance, mask entropy, query confidence. Its gain starts at 0."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, tokens: Tensor, look: FirstLook) -> Tensor:
        """(B, n, C) → (B, n, C)."""
        said = torch.stack([look.importance, look.entropy, look.confidence.expand_as(look.importance)], -1)
        change: Tensor = self.gain * self.read(said)
        return tokens + change


class Alignment(nn.Module):
    """The modules of one adapter, where `rs_model.stages.Aligner` has them."""

    def __init__(self, width: int, settings: AlignSettings) -> None:
        super().__init__()
        self.settings = settings
        e, d = settings.encoder, settings.decoder
        self.encoder = SsaLite(width, temperature=e.temperature, gate=e.gate, start=e.start) if e.use else None
        self.decoder = DecoderAlignment(width, temperature=d.temperature, gate=d.gate, start=d.start) if d.use else None
        cross, feedback = settings.cross_modal, settings.feedback
        self.cross_modal = CrossModal(width, top_tokens=cross.top_tokens, start=cross.start) if cross.use else None
        self.feedback = Feedback(width, feedback.hidden) if feedback.use else None
        self.warmth = 1.0
        """Share of CMA's γ that counts; below 1 while training warms up."""
        self.gives_feedback = True
        """False removes the feedback at inference."""

    def before_decoder(self, sam: Sam3Model, pyramid: Pyramid, fused: Fused) -> Fused:
        """SSA-lite, then CMA, then feedback, which look at what the model would have said without any of them."""
        tokens, feedback = fused.tokens, self.feedback if self.gives_feedback else None
        looks = self.cross_modal is not None or feedback is not None
        look = first_look(sam, pyramid, fused, attention=feedback is not None) if looks else None
        if self.encoder is not None:
            tokens = self.encoder(tokens, fused.text)
        if look is not None and self.cross_modal is not None:
            tokens = self.cross_modal.gated(tokens, fused.text, look.mask, self.warmth)
        if look is not None and feedback is not None:
            tokens = feedback(tokens, look)
        return fused.with_tokens(tokens)

    def before_masks(self, fused: Fused) -> Fused:
        """Decoder alignment."""
        return fused if self.decoder is None else fused.with_tokens(self.decoder(fused.tokens, fused.text))

    def constrain(self) -> None:
        """After each step of training."""
        for module in self.modules():
            if isinstance(module, TextAttention):
                module.constrain()


@torch.no_grad()
def first_look(sam: Sam3Model, pyramid: Pyramid, fused: Fused, *, attention: bool) -> FirstLook:
    """What the model says of its rows as they are; without `attention`, importance and confidence are 1, and the decoder is not asked."""
    logits = semantic_logits(sam, embed_pixels(sam, pyramid, fused)).float()
    mask = F.adaptive_avg_pool2d(logits, pyramid.grid).flatten(1).clamp(-SURE_BOUND, SURE_BOUND)
    if not attention:
        return FirstLook(mask, torch.ones_like(mask), torch.ones_like(mask[:, :1]))
    decoded = decode(sam, fused, attention=True)
    if decoded.attention is None:
        raise AssertionError("attention was asked for")
    matched = torch.sigmoid(score(sam, decoded, fused).float()) * torch.sigmoid(decoded.presence.float())
    # In float32, and of the layers that are read alone: see `rs_model.chain`.
    with torch.autocast(matched.device.type, enabled=False):
        importance = patch_importance(decoded.attention[:, -LOOK_LAYERS:].float(), matched, "score", LOOK_LAYERS) * mask.shape[1]
    return FirstLook(mask, importance, matched.amax(1, keepdim=True))
