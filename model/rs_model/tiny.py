"""rs-tiny: SAM 3's text encoder and heads at small width, fed by a small convolutional backbone.

The stages are called one by one (text → fuse → decode → presence → masks) in the order of `Sam3Model.forward`, and give
the same numbers (METHODS.md section 0): that is where refinements plug in. Shapes: N images, P prompts, B = N·P rows in
image-major order, C channels, h·w tokens at stride 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam3.modeling_sam3 import Sam3SinePositionEmbedding, Sam3VisionEncoderOutput

from rs_model.architecture import LAYER_SCALE, Architecture, build_head


@dataclass(frozen=True, slots=True)
class Pyramid:
    """An encoded image: features at strides 4, 8 and 16, and the position of each token."""

    levels: tuple[Tensor, Tensor, Tensor]
    """(N, C, H/4, W/4), (N, C, H/8, W/8), (N, C, H/16, W/16)."""
    position: Tensor
    """(N, C, H/16, W/16) sine position encoding."""

    def outputs(self) -> Sam3VisionEncoderOutput:
        """The form that `Sam3Model.forward` takes; it ignores a fourth, coarsest level, which is a dummy here."""
        dummy = self.position[:, :, ::2, ::2]
        return Sam3VisionEncoderOutput(
            fpn_hidden_states=(*self.levels, dummy), fpn_position_encoding=(*self.levels[:2], self.position, dummy)
        )


@dataclass(frozen=True, slots=True)
class Prompts:
    """Encoded prompts."""

    features: Tensor
    """(P, 8, C) one vector per token."""
    mask: Tensor
    """(P, 8) bool, True where there is a token."""

    def repeated(self, images: int) -> Prompts:
        """(N·P, …): the prompts once per image, image-major."""
        return Prompts(self.features.repeat(images, 1, 1), self.mask.repeat(images, 1))


class TinySam3(nn.Module):
    """The model. Images come as (N, 3, H, W) float32 in [0, 1], H and W multiples of 16."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.architecture = architecture
        backbone: Any = timm.create_model(
            architecture.backbone, pretrained=False, features_only=True, out_indices=(0, 1, 2), ls_init_value=LAYER_SCALE
        )
        channels: list[int] = backbone.feature_info.channels()
        self.backbone: nn.Module = backbone
        self.project = nn.ModuleList(nn.Conv2d(c, architecture.width, 1) for c in channels)
        self.position = Sam3SinePositionEmbedding(num_position_features=architecture.width // 2, normalize=True)
        self.head = build_head(architecture, vocab_size)

    def encode_images(self, images: Tensor) -> Pyramid:
        """(N, 3, H, W) in [0, 1] → `Pyramid`."""
        features = self.backbone((images - 0.5) * 4)
        levels = tuple(project(f) for project, f in zip(self.project, features, strict=True))
        position = self.position(levels[2].shape, levels[2].device, levels[2].dtype)
        return Pyramid(cast("tuple[Tensor, Tensor, Tensor]", levels), position)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Prompts:
        """Token ids and mask, (P, 8) int64 each → `Prompts`."""
        text = self.head.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
        return Prompts(text.pooler_output, mask.bool())

    def fuse(self, pyramid: Pyramid, prompts: Prompts) -> Any:
        """Text-conditioned tokens: the DETR encoder's output, rows (N·P, h·w, C)."""
        count = len(prompts.mask)
        text = prompts.repeated(len(pyramid.position))
        return self.head.detr_encoder(
            vision_features=[pyramid.levels[2].repeat_interleave(count, 0)],
            text_features=text.features,
            vision_pos_embeds=[pyramid.position.repeat_interleave(count, 0)],
            text_mask=text.mask,
        )

    def decode(self, fused: Any, prompts: Prompts) -> Any:
        """Queries, boxes and presence: the DETR decoder's output; `presence_logits[-1]` is (N·P, 1)."""
        return self.head.detr_decoder(
            vision_features=fused.last_hidden_state,
            text_features=fused.text_features,
            vision_pos_encoding=fused.pos_embeds_flattened,
            text_mask=prompts.repeated(len(fused.text_features) // len(prompts.mask)).mask,
            spatial_shapes=fused.spatial_shapes,
        )

    def score(self, decoded: Any, fused: Any, prompts: Prompts) -> Tensor:
        """(N·P, Q) logits: how well each query matches its prompt."""
        scores = self.head.dot_product_scoring(
            decoder_hidden_states=decoded.intermediate_hidden_states[-1:],
            text_features=fused.text_features,
            text_mask=prompts.repeated(len(fused.text_features) // len(prompts.mask)).mask,
        )
        return cast("Tensor", scores[0].squeeze(-1))

    def embed_pixels(self, pyramid: Pyramid, tokens: Tensor, prompts: Prompts) -> Tensor:
        """(N·P, C, H/4, W/4) pixel embeddings from (N·P, h·w, C) tokens: the mask decoder up to its two outputs.

        The image's own features are added to all its prompts at once instead of being copied for each.
        """
        decoder, images = self.head.mask_decoder, len(pyramid.position)
        text = prompts.repeated(images)
        mask = torch.zeros(text.mask.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(~text.mask, float("-inf"))
        attended, _ = decoder.prompt_cross_attn(
            query=decoder.prompt_cross_attn_norm(tokens), key=text.features, value=text.features, attention_mask=mask[:, None, None]
        )
        tokens = tokens + attended
        pixels = tokens.transpose(1, 2).reshape(len(tokens), -1, *pyramid.levels[2].shape[-2:])
        pixel = decoder.pixel_decoder
        for level, conv, norm in zip(pyramid.levels[1::-1], pixel.conv_layers, pixel.norms, strict=True):
            up = F.interpolate(pixels, size=level.shape[-2:], mode="nearest")
            up = (up.view(images, -1, *level.shape[1:]) + level[:, None]).flatten(0, 1)
            pixels = F.relu(norm(conv(up)))
        return pixels

    def semantic_logits(self, pixels: Tensor) -> Tensor:
        """(N·P, 1, H/4, W/4) logits: is this pixel the thing asked for."""
        return cast("Tensor", self.head.mask_decoder.semantic_projection(pixels))

    def mask_logits(self, pixels: Tensor, decoded: Any) -> Tensor:
        """(N·P, Q, H/4, W/4) logits of one mask per query."""
        decoder = self.head.mask_decoder
        embeddings = decoder.mask_embedder(decoded.intermediate_hidden_states[-1])
        return torch.einsum("bqc,bchw->bqhw", embeddings, decoder.instance_projection(pixels))

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic logits (N, P, H/4, W/4) and presence logits (N, P), as training needs them."""
        prompts = self.encode_text(ids, mask)
        pyramid = self.encode_images(images)
        fused = self.fuse(pyramid, prompts)
        presence = self.decode(fused, prompts).presence_logits[-1]
        logits = self.semantic_logits(self.embed_pixels(pyramid, fused.last_hidden_state, prompts))
        return logits.view(len(images), -1, *logits.shape[-2:]), presence.view(len(images), -1)
