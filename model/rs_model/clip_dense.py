"""Dense CLIP: one feature per patch, in the space of the texts (METHODS.md section 1, row clip).

CLIP was trained on whole images: its last block's attention gathers everything into the class token, and its patch tokens say
little of their own place. The published remedies leave the weights alone and replace that one attention:

- MaskCLIP (Zhou et al., ECCV 2022): each patch keeps its own value.
- SCLIP (Wang et al., ECCV 2024): patches gather by query-query and key-key likeness.
- ClearCLIP (Lan et al., ECCV 2024): by query-query likeness, without the residual and the MLP, which carry the global noise.
- ProxyCLIP (Lan et al., ECCV 2024): by the likeness of another model's tokens, here the segmenter's.

Shapes: N images, n = h·w patches, C channels of the tower, D of the joint space, d of one head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rs_model.refine.clip_fusion import cosines, resample_tokens

Attention = Literal["maskclip", "sclip", "clearclip"]

OVERHEAD_TEMPLATES = (
    "a satellite image of {}.",
    "an aerial photo of {}.",
    "an aerial image showing {}.",
    "a remote sensing image of {}.",
    "an orthophoto of {}.",
    "a drone photo of {}.",
    "a high resolution satellite photo of {}.",
    "a top-down view of {}.",
    "a bird's-eye view of {}.",
    "{} seen from above.",
)
"""One name through several phrasings makes a steadier text than one; these are what captions of such images say."""
PROXY_SHIFT = 1.2
"""ProxyCLIP's β: affinities below this many times the image's mean are not gathered."""
PROXY_SHARPNESS = 3.0
"""ProxyCLIP's γ, the inverse temperature of the rest."""


class DenseClip:
    """A frozen open_clip model. Images come as (N, 3, H, W) float32 in [0, 1]; they are resized to a square, so that one patch
    covers H/h × W/w pixels. Each text is encoded once in the life of the object.

    Parameters
    ----------
    model: an open_clip CLIP with a plain VisionTransformer; `rs_model.clip` sees to that.
    tokenizer: texts → (K, length) ids.
    """

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Tensor], attention: Attention, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.tokenizer, self.attention, self.device = tokenizer, attention, device
        visual = self.model.visual
        self.image_size: tuple[int, int] = visual.image_size
        self.grid: tuple[int, int] = visual.grid_size
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (visual.image_mean, visual.image_std))
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, h, w, D) unit length, in the space of `encode_texts`."""
        return self._joint(dense_tokens(self.model.visual, self.last_block_input(images), self.attention))

    @torch.no_grad()
    def proxy_features(self, images: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """ProxyCLIP: CLIP's values, gathered by the likeness of the segmenter's tokens; no residual, no MLP.

        Parameters
        ----------
        images: (N, 3, H, W).
        tokens: (N, n', C') the segmenter's, row by row over `grid` (height, width), which covers the same ground as the images.

        Returns
        -------
        (N, h, w, D) unit length.
        """
        block = self.model.visual.transformer.resblocks[-1]
        *_, value = _heads(block, self.last_block_input(images))
        weights = proxy_weights(cosines(resample_tokens(tokens, grid, self.grid)))
        # The same weights for all heads; the class token has no counterpart among the segmenter's tokens.
        return self._joint(_out(block, weights[:, None] @ value[:, :, 1:]))

    @torch.no_grad()
    def encode_texts(self, names: Sequence[str]) -> Tensor:
        """K names, at least one → (K, D) unit length: the mean over `OVERHEAD_TEMPLATES`."""
        for name in names:
            if name not in self._texts:
                ids = self.tokenizer([template.format(name) for template in OVERHEAD_TEMPLATES]).to(self.device)
                self._texts[name] = F.normalize(self.model.encode_text(ids, normalize=True).mean(0), dim=-1)
        return torch.stack([self._texts[name] for name in names])

    def last_block_input(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 1 + n, C): class token and patch tokens after all blocks but the last."""
        return last_block_input(self.model.visual, self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] → the tower's input: its size, its mean, its standard deviation."""
        resized = F.interpolate(images, size=self.image_size, mode="bicubic", antialias=True, align_corners=False)
        return (resized.clamp(0, 1) - self._mean) / self._std  # bicubic overshoots beside sharp edges

    def _joint(self, tokens: Tensor) -> Tensor:
        """(N, n, C) patches of the last block's output → (N, h, w, D) unit length."""
        return F.normalize(joint(self.model.visual, tokens), dim=-1).view(len(tokens), *self.grid, -1)


def last_block_input(visual: Any, images: Tensor) -> Tensor:
    """(N, 3, H, W) as the tower takes them → (N, 1 + n, C): class token and patch tokens after all blocks but the last."""
    stages = visual.forward_intermediates(
        images,
        indices=[len(visual.transformer.resblocks) - 2],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    return torch.cat([stages["image_intermediates_prefix"][0], stages["image_intermediates"][0]], 1)


def dense_tokens(visual: Any, tokens: Tensor, attention: Attention) -> Tensor:
    """(N, 1 + n, C) before the last block → (N, n, C) after it, its attention replaced.

    The class token takes part as a key, as in the published code, and is dropped at the end.
    """
    block = visual.transformer.resblocks[-1]
    query, key, value = _heads(block, tokens)
    if attention == "clearclip":
        return _out(block, F.scaled_dot_product_attention(query, query, value))[:, 1:]
    if attention == "sclip":
        value = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
    tokens = tokens + _out(block, value)
    changed: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return changed[:, 1:]


def joint(visual: Any, tokens: Tensor) -> Tensor:
    """(…, C) of the last block's output → (…, D) in the space of the texts, not yet of unit length."""
    projected: Tensor = visual.ln_post(tokens) @ visual.proj
    return projected


def proxy_weights(affinity: Tensor) -> Tensor:
    """(N, n, n) cosines of proxy tokens → ProxyCLIP's attention, rows that sum to 1.

    `softmax(γ(A - β·mean(A)))` over what is positive there. The mean is the image's own: the published code takes the batch's,
    and an image would depend on its neighbours. A token always gathers itself, or a uniform image would have empty rows.
    """
    logits = PROXY_SHARPNESS * (affinity - PROXY_SHIFT * affinity.mean((1, 2), keepdim=True))
    itself = torch.eye(affinity.shape[-1], dtype=torch.bool, device=affinity.device)
    return logits.masked_fill((logits < 0) & ~itself, float("-inf")).softmax(-1)


def _heads(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of a block's attention, (N, heads, 1 + n, d) each."""
    attention: nn.MultiheadAttention = block.attn
    mixed = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = mixed.view(*tokens.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return query, key, value


def _out(block: Any, attended: Tensor) -> Tensor:
    """(N, heads, n, d) → (N, n, C): what the attention branch adds to the residual."""
    projected: Tensor = block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return projected
