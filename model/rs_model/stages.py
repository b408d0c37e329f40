"""SAM 3's head in named stages: fuse → decode → score → embed pixels → masks. One set of parts for SAM 3 and rs-tiny.

Called in order they are `Sam3Model.forward`, bit for bit with one prompt (METHODS.md section 0); between them is where refinements
go. An image is encoded once for all prompts and a prompt once for all images, and what a head computes from the image alone is
computed once for all its prompts: a row is one image with one prompt. Shapes: N images,
P prompts, B rows (image-major; B = N·P until rows are left out), T text tokens, C channels, n = h·w image tokens, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam3Model
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

from rs_model.collector import DecoderAttentionCollector

NOWHERE = -30.0
"""Logit of a cell that is left out: its probability and its loss are 0, and so are their gradients."""
BOX_GROWS = 1.15
"""A mask that is cut at its own box may pass it by so much: boxes err."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Encoded images."""

    levels: tuple[Tensor, Tensor, Tensor]
    """Fine to coarse: (N, C, 4h, 4w), (N, C, 2h, 2w), (N, C, h, w)."""
    position: Tensor
    """(N, C, h, w) position encoding of the coarsest level."""
    tokens: Tensor
    """(N, n, D) the image encoder's own tokens, row by row, before they were projected to C channels."""

    @property
    def grid(self) -> tuple[int, int]:
        """h, w."""
        return self.position.shape[-2], self.position.shape[-1]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Encoded texts."""

    features: Tensor
    """(P, T, C)."""
    mask: Tensor
    """(P, T) bool, True where there is a token."""

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: slice | Tensor) -> Prompts:
        return Prompts(self.features[rows], self.mask[rows])

    def repeated(self, images: int) -> Prompts:
        """(N·P, …): the prompts once per image, image-major."""
        return Prompts(self.features.repeat(images, 1, 1), self.mask.repeat(images, 1))


@dataclass(frozen=True, slots=True)
class Fused:
    """Image tokens that have met a prompt."""

    tokens: Tensor
    """(B, n, C)."""
    position: Tensor
    """(B, n, C)."""
    text: Prompts
    """One per row."""
    image: Tensor
    """(B,) int64, which image a row is of; ascending."""
    shape: Tensor
    """(1, 2) int64: h, w."""

    def with_tokens(self, tokens: Tensor) -> Fused:
        """The same rows with other tokens."""
        return replace(self, tokens=tokens)

    def __getitem__(self, rows: Tensor) -> Fused:
        return Fused(self.tokens[rows], self.position[rows], self.text[rows], self.image[rows], self.shape)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the queries found."""

    layers: Tensor
    """(L, B, Q, C) the queries after each layer."""
    presence: Tensor
    """(B, 1) logits: is the thing there at all."""
    attention: Tensor | None
    """(B, L, heads, 1 + Q, n) what each query looked at; row 0 is the presence token. None where it was not asked for."""

    @property
    def queries(self) -> Tensor:
        """(B, Q, C) after the last layer."""
        return self.layers[-1]


class Aligner(Protocol):
    """What an adapter does between the stages; `rs_model.adapt.alignment.Alignment` is one."""

    def before_decoder(self, sam: Sam3Model, pyramid: Pyramid, fused: Fused) -> Fused:
        """The rows as the decoder, and with it everything after, is to see them."""
        ...

    def before_masks(self, fused: Fused) -> Fused:
        """The rows as masks are to be made of them."""
        ...


def fuse(sam: Sam3Model, pyramid: Pyramid, prompts: Prompts, *, geometry_token: bool = False) -> Fused:
    """The DETR encoder: tokens of every image with every prompt.

    `geometry_token` appends the image's own token to each text, as the official model does (METHODS.md section 0): the same as
    `Sam3Model.forward` with one box labelled -10.
    """
    images, count = len(pyramid.position), len(prompts)
    text = prompts.repeated(images)
    if geometry_token:
        token = _geometry(sam, pyramid)
        features = torch.cat([text.features, token.features.repeat_interleave(count, 0)], 1)
        text = Prompts(features, torch.cat([text.mask, token.mask.repeat_interleave(count, 0)], 1))
    with _once_per_image(cast("nn.Module", sam.detr_encoder.layers[0].self_attn), count):
        fused = sam.detr_encoder(
            vision_features=[pyramid.levels[2].repeat_interleave(count, 0)],
            text_features=text.features,
            vision_pos_embeds=[pyramid.position.repeat_interleave(count, 0)],
            text_mask=text.mask,
        )
    image = torch.arange(images, device=text.mask.device).repeat_interleave(count)
    return Fused(fused.last_hidden_state, fused.pos_embeds_flattened, text, image, fused.spatial_shapes)


@contextmanager
def _once_per_image(attention: nn.Module, prompts: int) -> Iterator[None]:
    """Inside, an attention that has met no prompt yet is computed for one row of each image and repeated for its others.

    The first layer of the DETR encoder looks at the image before it looks at the text: a sixth of SAM 3's encoder, half of rs-tiny's.
    """
    if prompts == 1 or attention.training:
        yield
        return

    def one_row(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {name: kwargs[name][::prompts] for name in ("query", "key", "value")}

    def all_rows(_module: nn.Module, _args: tuple[Any, ...], out: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return out[0].repeat_interleave(prompts, 0), out[1]

    hooks = [attention.register_forward_pre_hook(one_row, with_kwargs=True), attention.register_forward_hook(all_rows)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _geometry(sam: Sam3Model, pyramid: Pyramid) -> Prompts:
    """(N, 2, C): what the geometry encoder says of an image without a box. It does not depend on the prompt."""
    images = len(pyramid.position)
    boxes = torch.zeros(images, 1, 4, device=pyramid.position.device)
    nothing = torch.zeros(images, 1, dtype=torch.long, device=boxes.device)
    # In float32: transformers pools in float16 here, which a CPU's autocast to bfloat16 cannot mix. Two tokens cost nothing.
    with torch.autocast(boxes.device.type, enabled=False):
        out = sam.geometry_encoder(
            box_embeddings=boxes,
            box_mask=nothing.bool(),
            box_labels=nothing,
            img_feats=tuple(level.float() for level in pyramid.levels),
            img_pos_embeds=(pyramid.position.float(),),
        )
    return Prompts(out.last_hidden_state, out.attention_mask)


def decode(sam: Sam3Model, fused: Fused, *, attention: bool = False) -> Decoded:
    """The DETR decoder: queries and presence, with what they looked at where `attention` is asked for."""
    inputs = {
        "vision_features": fused.tokens,
        "text_features": fused.text.features,
        "vision_pos_encoding": fused.position,
        "text_mask": fused.text.mask,
        "spatial_shapes": fused.shape,
    }
    if not attention:
        out = sam.detr_decoder(**inputs)
        return Decoded(out.intermediate_hidden_states, out.presence_logits[-1], None)
    with DecoderAttentionCollector(sam.detr_decoder) as collector:
        out = collector.decode(**inputs)
    return Decoded(out.intermediate_hidden_states, out.presence_logits[-1], collector.attention)


def score(sam: Sam3Model, decoded: Decoded, fused: Fused) -> Tensor:
    """(B, Q) logits: how well each query matches its prompt."""
    # All layers, as `forward` does it: the last one alone comes out different in its last bits.
    scores: Tensor = sam.dot_product_scoring(
        decoder_hidden_states=decoded.layers, text_features=fused.text.features, text_mask=fused.text.mask
    )
    return scores[-1].squeeze(-1)


def embed_pixels(sam: Sam3Model, pyramid: Pyramid, fused: Fused) -> Tensor:
    """(B, C, 4h, 4w) pixel embeddings: the mask decoder up to its two outputs."""
    decoder = sam.mask_decoder
    normed = decoder.prompt_cross_attn_norm(fused.tokens)
    mask = create_bidirectional_mask(
        config=decoder.config, inputs_embeds=normed, encoder_hidden_states=fused.text.features, attention_mask=fused.text.mask
    )
    attended, _ = decoder.prompt_cross_attn(query=normed, key=fused.text.features, value=fused.text.features, attention_mask=mask)
    tokens = fused.tokens + attended
    pixels: Tensor = tokens.transpose(1, 2).reshape(len(tokens), -1, *pyramid.grid)
    rows_of_image = torch.bincount(fused.image, minlength=len(pyramid.position)).tolist()
    pixel = decoder.pixel_decoder
    # SAM 3 carries a third, unused conv and norm.
    for level, conv, norm in zip(pyramid.levels[1::-1], pixel.conv_layers, pixel.norms, strict=False):
        pixels = F.relu_(norm(_conv_of_sum(cast("nn.Conv2d", conv), pixels, level, rows_of_image)))
    return pixels


def _conv_of_sum(conv: nn.Conv2d, pixels: Tensor, level: Tensor, rows_of_image: Sequence[int]) -> Tensor:
    """`conv(enlarge(pixels) + level)`: rows (B, C, h, w), doubled by nearest neighbour, with the features of their image.

    With several prompts per image the sum is taken apart: the image's share once for all its rows, and the prompt's share on the
    coarse grid, as the transposed convolution that doubling followed by a 3 x 3 convolution is. Less than half of the work, and
    another order of additions; one prompt per image is done as `forward` does it, bit for bit.
    """
    if max(rows_of_image) == 1:
        seen = torch.tensor(rows_of_image, device=level.device).bool()
        own: Tensor = conv(F.interpolate(pixels, size=level.shape[-2:], mode="nearest") + level[seen])
        return own
    out = F.conv_transpose2d(pixels, _doubled(conv.weight), stride=2, padding=1)
    start = 0
    for image, rows in zip(conv(level), rows_of_image, strict=True):
        out[start : start + rows] += image
        start += rows
    return out


def _doubled(weight: Tensor) -> Tensor:
    """(O, I, 3, 3) of a convolution to the (I, O, 4, 4) of a transposed one that doubles first: equal neighbours share a weight."""
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], axis)
    return weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)


def semantic_logits(sam: Sam3Model, pixels: Tensor) -> Tensor:
    """(B, 1, 4h, 4w) logits: is this pixel the thing asked for."""
    logits: Tensor = sam.mask_decoder.semantic_projection(pixels)
    return logits


def mask_logits(sam: Sam3Model, pixels: Tensor, queries: Tensor) -> Tensor:
    """(B, k, 4h, 4w) logits of one mask for each of the queries (B, k, C)."""
    decoder = sam.mask_decoder
    return torch.einsum("bqc,bchw->bqhw", decoder.mask_embedder(queries), decoder.instance_projection(pixels))


def query_boxes(sam: Sam3Model, layers: Tensor) -> Tensor:
    """(L, B, Q, C) queries after each layer → (L, B, Q, 4) boxes, as `Sam3Model.forward` has them: each layer moves the last one's.

    Centre x, centre y, width, height as shares of the image.
    """
    decoder = sam.detr_decoder
    box = decoder.reference_points.weight.sigmoid().expand(*layers.shape[1:3], 4)
    boxes = []
    for offset in decoder.box_head(layers):
        box = (inverse_sigmoid(box) + offset).sigmoid()
        boxes.append(box)
    return torch.stack(boxes)


def cut_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Logits of masks (B, k, h, w), `NOWHERE` outside each one's own box (B, k, 4)."""
    return masks.masked_fill(~in_boxes(boxes.float(), (masks.shape[-2], masks.shape[-1])), NOWHERE)


def in_boxes(boxes: Tensor, size: tuple[int, int], grow: float = BOX_GROWS) -> Tensor:
    """(..., 4) boxes → (..., h, w) bool: the cells whose centre lies in a box, its sides `grow` times as long."""
    height, width = size
    down, across = ((torch.arange(n, device=boxes.device) + 0.5) / n for n in (height, width))
    x, y, w, h = (boxes[..., i, None] for i in range(4))
    return ((down - y).abs() <= h * grow / 2)[..., :, None] & ((across - x).abs() <= w * grow / 2)[..., None, :]
