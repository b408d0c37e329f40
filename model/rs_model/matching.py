"""What teaches the queries: each building of a crop is given to the query that fits it best, and the others are to say no.

The set loss of DETR (Carion et al. 2020, arXiv:2005.12872) with the masks of Mask2Former (Cheng et al. 2022, arXiv:2112.01527).
Shapes: L decoder layers, B rows (an image with a prompt), Q queries, h·w cells of a mask, n instances of a row, M of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss
from transformers import Sam3Model
from transformers.models.mask2former.modeling_mask2former import (
    dice_loss,
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
    sigmoid_cross_entropy_loss,
)
from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

from rs_model.instances import InstanceTargets
from rs_model.stages import Decoded, Fused, mask_logits

NOWHERE = -30.0
"""Logit of a cell that is left out: its probability and its loss are 0, and so are their gradients."""
MOSTLY_UNKNOWN = 0.5
"""Share of a query's mask on unknown cells above which nobody can say that it found nothing."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the parts of the loss, and of the costs that instances are given to queries by. Defaults: DETR's for boxes, Mask2Former's
    for masks.
    """

    score: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    quality: float = 0.5
    """A matched query is to score IoU ** quality, of its mask with its instance: 0 asks for 1 whatever the mask is like."""


DEFAULT = Weights()


@dataclass(frozen=True, slots=True)
class Found:
    """What the queries of B rows say."""

    scores: Tensor
    """(L, B, Q) logits: does a query match its prompt."""
    boxes: Tensor
    """(L, B, Q, 4) centre x, centre y, width, height in [0, 1]."""
    masks: Tensor
    """(B, Q, h, w) logits after the last layer."""


def start_queries(sam: Sam3Model) -> None:
    """Starts an untrained decoder's queries apart from each other: own contents, and boxes on a grid over the image, moved by nothing.

    As transformers starts them all boxes are half the image at its centre, and all queries the same but for a hundredth: they
    would first have to learn to differ.
    """
    decoder = sam.detr_decoder
    count = decoder.reference_points.num_embeddings
    side = -int(-(count**0.5) // 1)
    place = torch.linspace(0, side**2 - 1, count).round().long()
    centre = torch.stack([place % side, place // side], 1).add(0.5) / side
    last = cast("nn.Linear", decoder.box_head.layer3)
    with torch.no_grad():
        decoder.reference_points.weight.copy_(torch.cat([centre, torch.full_like(centre, 1 / side)], 1).logit())
    nn.init.normal_(decoder.query_embed.weight)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def query_scores(sam: Sam3Model, decoded: Decoded, fused: Fused) -> Tensor:
    """(L, B, Q) logits after every layer; `stages.score` gives the last."""
    scores: Tensor = sam.dot_product_scoring(
        decoder_hidden_states=decoded.layers, text_features=fused.text.features, text_mask=fused.text.mask
    )
    return scores.squeeze(-1)


def query_boxes(sam: Sam3Model, layers: Tensor) -> Tensor:
    """(L, B, Q, C) queries after each layer → (L, B, Q, 4) boxes, as `Sam3Model.forward` has them: each layer moves the last one's."""
    decoder = sam.detr_decoder
    box = decoder.reference_points.weight.sigmoid().expand(*layers.shape[1:3], 4)
    boxes = []
    for offset in decoder.box_head(layers):
        box = (inverse_sigmoid(box) + offset).sigmoid()
        boxes.append(box)
    return torch.stack(boxes)


def found_by(sam: Sam3Model, fused: Fused, decoded: Decoded, pixels: Tensor, rows: Tensor) -> Found:
    """What the queries of some rows say.

    Parameters
    ----------
    pixels: (B, C, h, w) of `stages.embed_pixels`.
    rows: (R,) int64, those of the prompts that have instances.
    """
    scores = query_scores(sam, decoded, fused)[:, rows]
    return Found(scores, query_boxes(sam, decoded.layers[:, rows]), mask_logits(sam, pixels[rows], decoded.queries[rows]))


def instance_loss(found: Found, targets: Sequence[InstanceTargets], weights: Weights = DEFAULT) -> Tensor:
    """The sum that is minimised, () float32; 0, with gradients of 0, where nothing is known.

    Instances are given to queries after the last layer; all layers are held to that. A crop may have more of them than there are
    queries: the rest are taught to nobody. Queries without one are to score 0, but not where their mask lies on unknown cells. To be
    called outside autocast, which would compute the costs in half precision; `found` may come from inside.

    Parameters
    ----------
    targets: one per row, with masks of the size of `found.masks`.
    """
    device = found.masks.device
    unknown = torch.stack([torch.from_numpy(t.unknown) for t in targets]).to(device)
    logits = found.masks.float().masked_fill(unknown[:, None], NOWHERE).flatten(2)
    rows, queries, masks, boxes = _assign(found, logits, targets, weights)
    chosen = logits[rows, queries]
    wanted = torch.zeros_like(found.scores[-1], dtype=torch.float32)
    wanted[rows, queries] = _iou(chosen.detach() > 0, masks > 0) ** weights.quality
    judged = ~_mostly(unknown, found.masks.detach())
    judged[rows, queries] = True
    count = max(len(rows), 1)
    loss = weights.mask * sigmoid_cross_entropy_loss(chosen, masks, count) + weights.dice * dice_loss(chosen, masks, count)
    for scores, guess in zip(found.scores.float(), found.boxes.float(), strict=True):
        mine = guess[rows, queries]
        apart = generalized_box_iou_loss(_corners(mine), _corners(boxes), reduction="sum") / count
        loss = loss + weights.box * (mine - boxes).abs().sum() / count + weights.giou * apart
        loss = loss + weights.score * _score_loss(scores, wanted, judged)
    return loss


def absence_loss(scores: Tensor, weights: Weights = DEFAULT) -> Tensor:
    """() float32: no query is to score where a prompt has no instances at all, whatever the crop shows; scores (L, B, Q) logits."""
    silent = torch.zeros_like(scores[0], dtype=torch.float32)
    parts = [_score_loss(layer, silent, torch.ones_like(silent, dtype=torch.bool)) for layer in scores.float()]
    total: Tensor = weights.score * torch.stack(parts).sum()
    return total


def _score_loss(scores: Tensor, wanted: Tensor, judged: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the queries that can be judged; (B, Q) each."""
    each = F.binary_cross_entropy_with_logits(scores, wanted, weight=judged.float(), reduction="sum")
    return each / judged.sum().clamp(min=1)


@torch.no_grad()
def _assign(found: Found, logits: Tensor, targets: Sequence[InstanceTargets], weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and query, (M,) int64 each, of the instances that got one; their masks, (M, h·w) float32, and boxes, (M, 4) float32."""
    device = logits.device
    rows, queries, masks, boxes = [], [], [], []
    for row, target in enumerate(targets):
        mask = torch.from_numpy(target.masks).to(device).flatten(1).float()
        box = torch.from_numpy(target.boxes).to(device)
        guess, score = found.boxes[-1, row].float(), found.scores[-1, row].float().sigmoid()
        cost = (
            weights.box * torch.cdist(guess, box, p=1)
            - weights.giou * generalized_box_iou(_corners(guess), _corners(box))
            - weights.score * score[:, None]
            + weights.mask * pair_wise_sigmoid_cross_entropy_loss(logits[row], mask)
            + weights.dice * pair_wise_dice_loss(logits[row], mask)
        )
        # A model that has burst is reported by its loss, not by the solver.
        query, instance = (torch.from_numpy(i).to(device) for i in linear_sum_assignment(cost.nan_to_num().cpu()))
        rows.append(torch.full_like(query, row))
        queries.append(query)
        masks.append(mask[instance])
        boxes.append(box[instance])
    return torch.cat(rows), torch.cat(queries), torch.cat(masks), torch.cat(boxes)


def _corners(boxes: Tensor) -> Tensor:
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return corners


def _iou(found: Tensor, true: Tensor) -> Tensor:
    """(M, h·w) bool each → (M,)."""
    return (found & true).sum(1) / (found | true).sum(1).clamp(min=1)


def _mostly(unknown: Tensor, masks: Tensor) -> Tensor:
    """(B, Q) bool: does most of a mask, (B, Q, h, w) logits, lie on unknown cells, (B, h, w) bool."""
    weight = masks.float().sigmoid()
    there: Tensor = torch.einsum("bqhw,bhw->bq", weight, unknown.float())
    return there > MOSTLY_UNKNOWN * weight.sum((2, 3))
