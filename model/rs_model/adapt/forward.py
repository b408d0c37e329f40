"""One pass of a model for training: what `rs_model.segmenter` computes but for queries' masks, what the losses read, and gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rs_model.adapt.parts import Model
from rs_model.scores import word_probability
from rs_model.stages import Aligner, Decoded, Fused, Prompts, decode, embed_pixels, fuse, score, semantic_logits


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model makes of N images with P prompts; rows are image-major."""

    fused: Fused
    """Rows as the decoder saw them."""
    decoded: Decoded
    scores: Tensor
    """(B, Q) logits."""
    probability: Tensor
    """(B, H, W) float32: presence times the semantic map, at the images' own pixels."""
    grid: tuple[int, int]
    size: tuple[int, int]
    """Height and width that the grid covers: the images lie in the upper left corner."""

    def on_grid(self, maps: Tensor) -> Tensor:
        """Maps (B, H, W) of the images → (B, n): the mean over each token's pixels, the last row and column repeated beside the images."""
        beside = (0, self.size[1] - maps.shape[2], 0, self.size[0] - maps.shape[1])
        return F.adaptive_avg_pool2d(F.pad(maps[:, None], beside, mode="replicate"), self.grid).flatten(1)


def see(model: Model, aligner: Aligner | None, images: Tensor, prompts: Prompts, *, attention: bool = False) -> Seen:
    """Images (N, 3, H, W) in [0, 1] with every prompt."""
    sam = model.head
    fitted, size = model.fit(images)
    pyramid = model.encode_images(fitted)
    plain = fuse(sam, pyramid, prompts)
    fused = plain if aligner is None else aligner.before_decoder(sam, pyramid, plain)
    decoded = decode(sam, fused, attention=attention)
    pixels = embed_pixels(sam, pyramid, fused if aligner is None else aligner.before_masks(fused))
    found = word_probability(semantic_logits(sam, pixels), decoded.presence, size)
    probability = found[:, : images.shape[2], : images.shape[3]]
    return Seen(fused, decoded, score(sam, decoded, fused), probability, pyramid.grid, size)


def see_tokens(model: Model, images: Tensor, prompts: Prompts) -> Tensor:
    """(B, n, C): the tokens that the decoder reads, without an adapter's modules."""
    fitted, _ = model.fit(images)
    return fuse(model.head, model.encode_images(fitted), prompts).tokens


def presence_of(seen: Seen) -> Tensor:
    """(B,) probability that a row's prompt is in its image."""
    return torch.sigmoid(seen.decoded.presence[:, 0].float())
