"""The set loss of the queries: each instance teaches the query that fits it, unknown ground teaches nobody, and it can be learnt."""

import numpy as np
import pytest
import torch
from rs_model.architecture import Architecture, build_head
from rs_model.instances import InstanceTargets
from rs_model.matching import Found, Weights, absence_loss, found_by, instance_loss, query_boxes, query_scores, start_queries
from rs_model.stages import Prompts, Pyramid, decode, embed_pixels, fuse, score
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput, box_cxcywh_to_xyxy

SMALL = Architecture(width=16, heads=2, intermediate=32, text_layers=1, encoder_layers=1, decoder_layers=2, queries=9)
CELLS = 16


def targets(*rectangles, unknown=()):
    """Instances x0, y0, x1, y1 in cells of a mask of 16 x 16, and unknown rectangles."""
    masks = np.zeros((len(rectangles), CELLS, CELLS), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, rectangles, strict=True):
        mask[y0:y1, x0:x1] = True
    boxes = [((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0) for x0, y0, x1, y1 in rectangles]
    hidden = np.zeros((CELLS, CELLS), bool)
    for x0, y0, x1, y1 in unknown:
        hidden[y0:y1, x0:x1] = True
    return InstanceTargets(masks, np.array(boxes, np.float32).reshape(-1, 4) / CELLS, hidden)


TOWN = targets((1, 1, 5, 4), (8, 2, 12, 8), (3, 10, 7, 14))


def guesses(seed=0, rows=1, queries=5, layers=2):
    """What an untrained model might say, ready for gradients."""
    torch.manual_seed(seed)
    parts = torch.randn(layers, rows, queries), torch.rand(layers, rows, queries, 4) * 0.4 + 0.2, torch.randn(rows, queries, CELLS, CELLS)
    return Found(*(part.requires_grad_() for part in parts))


def perfect(town, queries=5):
    """A model that is sure and right; query i has instance i, and the others say no."""
    count = len(town.masks)
    scores, boxes = torch.full((2, 1, queries), -20.0), torch.full((2, 1, queries, 4), 0.3)
    masks = torch.full((1, queries, CELLS, CELLS), -20.0)
    scores[:, 0, :count] = 20
    boxes[:, 0, :count] = torch.from_numpy(town.boxes)
    masks[0, :count][torch.from_numpy(town.masks)] = 20
    return Found(scores, boxes, masks)


def pyramid(images=1, seed=0):
    """Levels of a 64 px image, and its position encoding."""
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(images, SMALL.width, side, side, generator=generator) for side in (CELLS, CELLS // 2, CELLS // 4)]
    return Pyramid(tuple(levels), torch.randn(images, SMALL.width, 4, 4, generator=generator), levels[2].flatten(2).transpose(1, 2))


def head(seed=0, *, spread=True):
    torch.manual_seed(seed)
    sam = build_head(SMALL, 12)
    if spread:
        start_queries(sam)
    return sam


def text_of(sam, prompts=1):
    ids = torch.tensor([[1, 4 + i, 2, 0, 0, 0, 0, 0] for i in range(prompts)])
    mask = (ids > 0).long()
    return ids, mask, Prompts(sam.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True).pooler_output, mask.bool())


def ask(sam, seen, rows):
    fused = fuse(sam, seen, text_of(sam, 2)[2])
    decoded = decode(sam, fused)
    return found_by(sam, fused, decoded, embed_pixels(sam, seen, fused)[rows], rows)


@torch.no_grad()
def test_boxes_and_scores_are_those_of_sam3_forward():
    sam, seen = head(spread=False).eval(), pyramid()
    ids, mask, prompts = text_of(sam)
    fused = fuse(sam, seen, prompts)
    decoded = decode(sam, fused)
    levels = [*seen.levels, seen.position]
    embeds = Sam3VisionEncoderOutput(fpn_hidden_states=(*levels[:3], None), fpn_position_encoding=(*levels[:2], levels[3], None))
    whole = sam(vision_embeds=embeds, input_ids=ids, attention_mask=mask)
    boxes = query_boxes(sam, decoded.layers)
    assert boxes.shape == (2, 1, 9, 4)
    torch.testing.assert_close(box_cxcywh_to_xyxy(boxes[-1]), whole.pred_boxes)
    torch.testing.assert_close(query_scores(sam, decoded, fused)[-1], whole.pred_logits)
    assert torch.equal(query_scores(sam, decoded, fused)[-1], score(sam, decoded, fused))


@torch.no_grad()
def test_rows_are_chosen_alike_in_scores_boxes_and_masks():
    sam, seen = head().eval(), pyramid(images=2)
    every, some = ask(sam, seen, torch.arange(4)), ask(sam, seen, torch.tensor([0, 2]))
    assert some.masks.shape == (2, 9, CELLS, CELLS)
    torch.testing.assert_close(some.masks, every.masks[[0, 2]])
    torch.testing.assert_close(some.boxes, every.boxes[:, [0, 2]])
    torch.testing.assert_close(some.scores, every.scores[:, [0, 2]])


@pytest.mark.parametrize("count", [1, 2, 7, 16, 100, 128])
@torch.no_grad()
def test_queries_start_on_boxes_spread_over_the_image(count):
    sam = build_head(Architecture(width=16, heads=2, intermediate=32, text_layers=1, encoder_layers=1, decoder_layers=1, queries=count), 12)
    start_queries(sam)
    boxes = query_boxes(sam, torch.randn(1, 1, count, 16))[0, 0]
    assert len({tuple(b) for b in boxes[:, :2].mul(1000).round().tolist()}) == count
    assert (boxes[:, :2] > 0).all()
    assert (boxes[:, :2] < 1).all()
    probe = torch.rand(500, 2, generator=torch.Generator().manual_seed(1))
    nearest = torch.cdist(probe, boxes[:, :2]).min(1).values
    assert nearest.max() < 1.6 / count**0.5


def test_a_perfect_prediction_costs_nearly_nothing_and_a_worse_one_more():
    good = perfect(TOWN)
    assert instance_loss(good, [TOWN]) < 1e-3
    worse = [
        Found(good.scores.neg(), good.boxes, good.masks),
        Found(good.scores, (good.boxes + 0.05).clamp(max=1), good.masks),
        Found(good.scores, good.boxes, good.masks.roll(2, 2)),
    ]
    assert all(instance_loss(found, [TOWN]) > 0.2 for found in worse)


def test_the_order_of_targets_and_of_queries_does_not_matter():
    found, order = guesses(), torch.tensor([3, 0, 4, 1, 2])
    expected = instance_loss(found, [TOWN])
    mixed = InstanceTargets(TOWN.masks[[2, 0, 1]], TOWN.boxes[[2, 0, 1]], TOWN.unknown)
    torch.testing.assert_close(instance_loss(found, [mixed]), expected)
    other = Found(found.scores[:, :, order], found.boxes[:, :, order], found.masks[:, order])
    torch.testing.assert_close(instance_loss(other, [TOWN]), expected)


def test_each_instance_goes_to_the_query_whose_box_is_its_own():
    good, order = perfect(TOWN), torch.tensor([4, 2, 0, 3, 1])
    shuffled = Found(torch.zeros(2, 1, 5, requires_grad=True), good.boxes[:, :, order], good.masks[:, order])
    torch.autograd.backward(instance_loss(shuffled, [TOWN], Weights(quality=0.0)))
    wants_more = (shuffled.scores.grad < 0)[:, 0]
    assert wants_more.tolist() == [[False, True, True, False, True]] * 2


def test_a_matched_query_is_to_score_as_its_mask_is_good_if_quality_says_so():
    good = perfect(TOWN)
    masks = good.masks.clone()
    masks[0, 0, 1:4, 3:5] = -20  # half of the first instance
    found = Found(torch.zeros(2, 1, 5, requires_grad=True), good.boxes, masks)
    torch.autograd.backward(instance_loss(found, [TOWN], Weights(quality=1.0)))
    pull = found.scores.grad[0, 0]
    assert abs(pull[0]) < 1e-6  # IoU is 0.5, and so is the score
    assert (pull[1:3] < -1e-3).all()
    assert (pull[3:] > 1e-3).all()


def test_without_instances_only_the_scores_are_taught():
    found = guesses()
    loss = instance_loss(found, [targets()])
    torch.testing.assert_close(loss, absence_loss(found.scores))
    torch.autograd.backward(loss)
    assert (found.scores.grad > 0).all()
    assert not found.masks.grad.any()
    assert not found.boxes.grad.any()


def test_a_crop_of_which_nothing_is_known_costs_nothing_and_its_gradients_are_zero():
    found = guesses()
    loss = instance_loss(found, [targets(unknown=[(0, 0, CELLS, CELLS)])])
    torch.autograd.backward(loss)
    assert loss.item() == 0
    for part in (found.scores, found.boxes, found.masks):
        assert not part.grad.any()


def test_unknown_cells_do_not_move_the_masks():
    town = targets((1, 1, 5, 4), (8, 2, 12, 8), unknown=[(0, 10, 16, 16)])
    found = guesses(queries=2)
    loss = instance_loss(found, [town])
    changed = found.masks.detach().clone()
    changed[:, :, 10:] = 7
    torch.testing.assert_close(instance_loss(Found(found.scores, found.boxes, changed), [town]), loss)
    torch.autograd.backward(loss)
    assert not found.masks.grad[:, :, 10:].any()
    assert found.masks.grad[:, :, :10].any()


def test_a_mask_is_held_to_the_surroundings_of_its_instance():
    town = targets((4, 6, 8, 10))
    found = guesses(queries=1)
    torch.autograd.backward(instance_loss(found, [town]))
    touched = found.masks.grad[0, 0] != 0
    assert touched[4:12, 2:10].all()
    assert touched.sum() == 8 * 8


def test_a_query_is_scored_by_its_mask_inside_its_own_box():
    found = perfect(TOWN)
    everywhere = found.masks.clone()
    everywhere[0, 0, 12:, 12:] = 20  # another roof, far away
    torch.testing.assert_close(instance_loss(Found(found.scores, found.boxes, everywhere), [TOWN]), instance_loss(found, [TOWN]))


def test_a_query_whose_mask_lies_on_unknown_cells_is_not_told_that_it_found_nothing():
    town = targets((1, 1, 5, 4), unknown=[(0, 8, 16, 16)])
    masks = torch.full((1, 3, CELLS, CELLS), -20.0)
    masks[0, 0, 1:4, 1:5] = masks[0, 1, 9:12, 2:9] = masks[0, 2, 5:8, 8:14] = 20
    boxes = torch.tensor([[3, 2.5, 4, 3], [5.5, 10.5, 7, 3], [11, 6.5, 6, 3]]) / CELLS
    found = Found(torch.zeros(1, 1, 3, requires_grad=True), boxes[None, None].clone(), masks)
    torch.autograd.backward(instance_loss(found, [town]))
    taught, doubtful, wrong = found.scores.grad[0, 0]
    assert taught < 0
    assert doubtful == 0
    assert wrong > 0


def test_more_instances_than_queries_are_matched_as_far_as_they_go():
    found = guesses(queries=2)
    loss = instance_loss(found, [TOWN])
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert (found.masks.grad.abs().sum((2, 3)) > 0).all()


def test_rows_without_instances_do_not_disturb_those_with():
    found = guesses(rows=3)
    loss = instance_loss(found, [TOWN, targets(), targets(unknown=[(0, 0, CELLS, CELLS)])])
    torch.autograd.backward(loss)
    touched = found.masks.grad.abs().sum((1, 2, 3)) > 0
    assert touched.tolist() == [True, False, False]
    assert (found.scores.grad[:, 1] > 0).all()
    assert not found.scores.grad[:, 2].any()


def test_a_model_that_has_burst_gives_a_loss_that_is_not_finite_and_no_other_error():
    found = guesses()
    with torch.no_grad():
        found.boxes.fill_(float("nan"))
    assert not torch.isfinite(instance_loss(found, [TOWN]))


def test_half_precision_is_computed_in_float32():
    found = guesses()
    loss = instance_loss(Found(*(part.bfloat16() for part in (found.scores, found.boxes, found.masks))), [TOWN])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, instance_loss(found, [TOWN]), rtol=0.02, atol=0)


def test_gradients_reach_every_part_of_the_instance_head_and_a_few_steps_lower_the_loss():
    sam, seen, rows = head().train(), pyramid(images=2), torch.tensor([0, 2])
    wanted = [TOWN, targets((2, 2, 8, 6))]
    optimizer = torch.optim.Adam(sam.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = instance_loss(ask(sam, seen, rows), wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    parts = {
        "queries": sam.detr_decoder.query_embed,
        "anchors": sam.detr_decoder.reference_points,
        "box head": sam.detr_decoder.box_head,
        "mask embedder": sam.mask_decoder.mask_embedder,
        "instance projection": sam.mask_decoder.instance_projection,
        "scoring": sam.dot_product_scoring,
    }
    for name, part in parts.items():
        assert all(p.grad is not None and p.grad.any() for p in part.parameters()), name
    assert losses[-1] < 0.2 * losses[0]
