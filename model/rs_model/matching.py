"""What teaches the queries: each building of a crop is given to the query whose box fits it best, and the others are to say no.

The set loss of DETR (Carion et al. 2020, arXiv:2005.12872), matched by boxes and scores, not by masks. Masks are held to their
surroundings, as those that are cut at their own box may be (YOLACT, Bolya et al. 2019, arXiv:1904.02689): so small a model cannot tell
one roof from another across the image by its contents. Scores after the varifocal loss (Zhang et al. 2021, arXiv:2008.13367): of a
hundred queries most have nothing, and count by the square of what they wrongly say; matched ones count fully, not by their quality.
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
from transformers.models.mask2former.modeling_mask2former import dice_loss

from rs_model.instances import InstanceTargets
from rs_model.stages import NOWHERE, Decoded, Fused, in_boxes, mask_logits, query_boxes

SURROUNDINGS = 2.0
"""Sides of the window that a mask is held to, in sides of the instance's box."""
LEAST_SIDE = 0.12
"""Of that window, as a share of the image: a box of two cells has hardly any surroundings."""
MOSTLY_UNKNOWN = 0.5
"""Share of a query's mask on unknown cells above which nobody can say that it found nothing."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the parts of the loss; of `score`, `box` and `giou` also in the costs that instances are given to queries by. Defaults: DETR's."""

    score: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 2.0
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


def found_by(sam: Sam3Model, fused: Fused, decoded: Decoded, pixels: Tensor, rows: Tensor) -> Found:
    """What the queries of some rows say.

    Parameters
    ----------
    pixels: (R, C, h, w) of `stages.embed_pixels`, of those rows alone.
    rows: (R,) int64, those of the prompts that have instances.
    """
    scores = query_scores(sam, decoded, fused)[:, rows]
    return Found(scores, query_boxes(sam, decoded.layers[:, rows]), mask_logits(sam, pixels, decoded.queries[rows]))


def instance_loss(found: Found, targets: Sequence[InstanceTargets], weights: Weights = DEFAULT) -> Tensor:
    """The sum that is minimised, () float32; 0, with gradients of 0, where nothing is known.

    Instances are given to queries after the last layer; all layers are held to that. A crop may have more of them than there are
    queries: the rest are taught to nobody. Queries without one are to score 0, but not where their mask lies on unknown cells. To be
    called outside autocast, which would compute the costs in half precision; `found` may come from inside.

    Parameters
    ----------
    targets: one per row, with masks of the size of `found.masks`.
    """
    device, size = found.masks.device, (found.masks.shape[-2], found.masks.shape[-1])
    unknown = torch.stack([torch.from_numpy(t.unknown) for t in targets]).to(device)
    rows, queries, masks, boxes = _assign(found, targets, weights)
    count = max(len(rows), 1)
    window = torch.cat([boxes[:, :2], (boxes[:, 2:] * SURROUNDINGS).clamp(min=LEAST_SIDE)], 1)
    seen = (in_boxes(window, size, grow=1.0) & ~unknown[rows]).flatten(1)
    chosen = found.masks[rows, queries].float().flatten(1)
    inside = in_boxes(found.boxes[-1].detach().float(), size)
    own = (chosen.detach() > 0) & (inside[rows, queries] & ~unknown[rows]).flatten(1)
    wanted = torch.zeros_like(found.scores[-1], dtype=torch.float32)
    wanted[rows, queries] = _iou(own, masks > 0) ** weights.quality
    matched = torch.zeros_like(wanted, dtype=torch.bool)
    matched[rows, queries] = True
    judged = ~_mostly(unknown, found.masks.detach().float().sigmoid() * inside) | matched
    entropy = F.binary_cross_entropy_with_logits(chosen, masks, weight=seen.float(), reduction="none").sum(1) / seen.sum(1).clamp(min=1)
    loss = weights.mask * entropy.sum() / count + weights.dice * dice_loss(chosen.masked_fill(~seen, NOWHERE), masks, count)
    for scores, guess in zip(found.scores.float(), found.boxes.float(), strict=True):
        mine = guess[rows, queries]
        apart = generalized_box_iou_loss(_corners(mine), _corners(boxes), reduction="sum") / count
        loss = loss + weights.box * (mine - boxes).abs().sum() / count + weights.giou * apart
        loss = loss + weights.score * _score_loss(scores, wanted, matched, judged) / count
    return loss


def absence_loss(scores: Tensor, weights: Weights = DEFAULT) -> Tensor:
    """() float32: no query is to score where a prompt has no instances at all, whatever the crop shows; scores (L, B, Q) logits."""
    nothing = torch.zeros_like(scores[0], dtype=torch.float32)
    nobody = torch.zeros_like(nothing, dtype=torch.bool)
    parts = [_score_loss(layer, nothing, nobody, ~nobody) for layer in scores.float()]
    total: Tensor = weights.score * torch.stack(parts).sum() / max(len(nothing), 1)
    return total


def _score_loss(scores: Tensor, wanted: Tensor, matched: Tensor, judged: Tensor) -> Tensor:
    """Varifocal: the sum over the queries that can be judged, those without an instance by the square of what they wrongly say.

    (B, Q) each.
    """
    weight = torch.where(matched, 1.0, scores.detach().sigmoid() ** 2) * judged
    return F.binary_cross_entropy_with_logits(scores, wanted, weight=weight, reduction="sum")


@torch.no_grad()
def _assign(found: Found, targets: Sequence[InstanceTargets], weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and query, (M,) int64 each, of the instances that got one; their masks, (M, h·w) float32, and boxes, (M, 4) float32."""
    device = found.masks.device
    rows, queries, masks, boxes = [], [], [], []
    for row, target in enumerate(targets):
        mask = torch.from_numpy(target.masks).to(device).flatten(1).float()
        box = torch.from_numpy(target.boxes).to(device)
        guess, score = found.boxes[-1, row].float(), found.scores[-1, row].float().sigmoid()
        cost = (
            weights.box * torch.cdist(guess, box, p=1)
            - weights.giou * generalized_box_iou(_corners(guess), _corners(box))
            - weights.score * score[:, None]
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
    """(B, Q) bool: does most of a mask, (B, Q, h, w) probabilities, lie on unknown cells, (B, h, w) bool."""
    there: Tensor = torch.einsum("bqhw,bhw->bq", masks, unknown.float())
    return there > MOSTLY_UNKNOWN * masks.sum((2, 3))
