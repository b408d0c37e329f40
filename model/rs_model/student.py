"""What is trained: rs-tiny, the head of the dense phase, and the layer that reads the text encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rs_model.architecture import Architecture
from rs_model.dense import DenseHead
from rs_model.labels import CLASSES
from rs_model.matching import Found, found_by, query_scores, start_queries
from rs_model.pieces import Tokenizer
from rs_model.recipe import Lesson, Recipe
from rs_model.stages import Fused, Pyramid, decode, embed_pixels, fuse, semantic_logits
from rs_model.text_training import new_reader
from rs_model.tiny import TinySam3

BUILDING = CLASSES.index("building")


@dataclass(frozen=True, slots=True)
class Queried:
    """What the decoder says of every image with every prompt."""

    presence: Tensor
    """(N, P) logits."""
    found: Found
    """Of the N rows of the building prompt."""
    silent: Tensor
    """(L, N·(P-1), Q) logits of the queries of all other rows, which have no instances."""


class Student(nn.Module):
    """The model and the head of the dense phase, so that one checkpoint and one moving average hold both."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__()
        architecture = Architecture(backbone=recipe.backbone)
        self.model = TinySam3(architecture, tokenizer)
        self.dense = DenseHead(architecture.width)
        self.reader = new_reader(architecture.width, recipe.seed)
        start_queries(self.model.head)

    def dense_logits(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] → (N, 5, H/4, W/4)."""
        logits: Tensor = self.dense(self.model.encode_images(images).levels)
        return logits

    def prompted(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Queried]:
        """Every image with every prompt of token ids (P, T), the `BUILDING`-th of which has instances: (N, P, H/4, W/4) semantic logits,
        and what the queries say.
        """
        head, (pyramid, fused) = self.model.head, self._fused(images, ids, mask)
        pixels = embed_pixels(head, pyramid, fused)
        logits = semantic_logits(head, pixels)
        buildings = torch.arange(BUILDING, len(fused.image), len(ids))
        return logits.view(len(images), len(ids), *logits.shape[-2:]), self._query(fused, pixels[buildings], buildings)

    def queried(self, images: Tensor, ids: Tensor, mask: Tensor) -> Queried:
        """The same of the queries alone; gradients reach the decoder and what turns queries into scores, boxes and masks."""
        with torch.no_grad():
            pyramid, fused = self._fused(images, ids, mask)
            buildings = torch.arange(BUILDING, len(fused.image), len(ids))
            pixels = embed_pixels(self.model.head, pyramid, fused[buildings])
        return self._query(fused, pixels, buildings)

    def _fused(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Pyramid, Fused]:
        pyramid = self.model.encode_images(images)
        return pyramid, fuse(self.model.head, pyramid, self.model.encode_ids(ids, mask))

    def _query(self, fused: Fused, pixels: Tensor, buildings: Tensor) -> Queried:
        """`pixels`: of the building rows alone."""
        head, images = self.model.head, int(fused.image[-1]) + 1
        decoded = decode(head, fused)
        others = torch.ones(len(fused.image), dtype=torch.bool)
        others[buildings] = False
        found = found_by(head, fused, decoded, pixels, buildings)
        return Queried(decoded.presence.view(images, -1), found, query_scores(head, decoded, fused)[:, others])

    def learns(self, lesson: Lesson) -> list[nn.Module]:
        """The parts that learn it; all others stay as they are, running means of their norms included."""
        head, encoder = self.model.head, [self.model.backbone, self.model.project]
        if lesson == "dense":
            return [*encoder, self.dense]
        if lesson in {"prompted", "together"}:
            return [*encoder, *self._asking()]
        if lesson == "words":
            return self._asking()
        return [*self._decoding(), head.mask_decoder.mask_embedder, head.mask_decoder.instance_projection]

    def _asking(self) -> list[nn.Module]:
        """All that a prompt goes through behind the text encoder."""
        return [self.model.head.detr_encoder, *self._decoding(), self.model.head.mask_decoder]

    def _decoding(self) -> list[nn.Module]:
        return [self.model.head.detr_decoder, self.model.head.dot_product_scoring]
