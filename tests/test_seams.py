"""Gaps between objects: where two queries' masks meet, and nowhere else."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rs_model.seams import SHARED, seams
from rs_model.stages import NOWHERE, cut_masks
from scipy import ndimage
from torch.nn import functional as F

SIZE = (32, 48)
WHOLE = (0.5, 0.5, 1.0, 1.0)


def masks_of(*windows, grid=(8, 12), inside=6.0, outside=-6.0):
    """(1, k, 8, 12) logits, high in windows of cells: top, bottom, left, right."""
    masks = torch.full((1, len(windows), *grid), outside)
    for mask, (top, bottom, left, right) in zip(masks[0], windows, strict=True):
        mask[top:bottom, left:right] = inside
    return masks


def boxes_of(*boxes):
    return torch.tensor([boxes], dtype=torch.float32)


def scores_of(*scores):
    return torch.tensor([scores], dtype=torch.float32)


def test_two_objects_side_by_side_are_a_pixel_apart():
    seam = seams(masks_of((0, 8, 0, 6), (0, 8, 6, 12)), boxes_of(WHOLE, WHOLE), scores_of(0.9, 0.8), SIZE)
    assert seam.shape == (1, *SIZE)
    assert seam.dtype == torch.bool
    assert seam[0].any(0).nonzero().flatten().tolist() == [23], "the column before the border of the two masks"
    assert ndimage.label(~seam[0].numpy())[1] == 2


def test_a_query_that_is_not_asked_parts_nothing():
    assert not seams(masks_of((0, 8, 0, 6), (0, 8, 6, 12)), boxes_of(WHOLE, WHOLE), scores_of(0.9, 0.0), SIZE).any()
    assert not seams(masks_of(), torch.zeros(1, 0, 4), torch.zeros(1, 0), SIZE).any()


def test_of_two_queries_on_the_same_ground_the_better_stands_alone():
    same = masks_of((0, 8, 0, 6), (0, 8, 0, 8)), boxes_of(WHOLE, WHOLE), scores_of(0.9, 0.8)
    assert not seams(*same, SIZE).any()
    third = masks_of((0, 8, 0, 6), (0, 8, 3, 12), (0, 8, 7, 12)), boxes_of(WHOLE, WHOLE, WHOLE), scores_of(0.9, 0.8, 0.7)
    assert ndimage.label(~seams(*third, SIZE)[0].numpy())[1] == 2, "what a better one refused does not refuse others"


def test_a_mask_ends_at_its_own_box():
    """What a mask says outside its box is nobody's: no gap there, as wide as the ground between two objects may be."""
    masks = masks_of((0, 8, 0, 12), (0, 8, 9, 12))
    left, right = (0.125, 0.5, 0.25, 1.0), (0.875, 0.5, 0.25, 1.0)
    assert not seams(masks, boxes_of(left, right), scores_of(0.9, 0.8), SIZE).any()
    assert seams(masks, boxes_of((0.33, 0.5, 0.66, 1.0), right), scores_of(0.9, 0.8), SIZE).any()


def test_rows_are_parted_by_their_own_queries():
    both = torch.cat([masks_of((0, 8, 0, 6), (0, 8, 6, 12)), masks_of((0, 4, 0, 12), (4, 8, 0, 12))])
    boxes, scores = boxes_of(WHOLE, WHOLE).expand(2, -1, -1), scores_of(0.9, 0.8).expand(2, -1)
    found = seams(both, boxes, scores, SIZE)
    for row in range(2):
        assert torch.equal(found[row : row + 1], seams(both[row : row + 1], boxes[:1], scores[:1], SIZE))
    assert found[1].any(1).nonzero().flatten().tolist() == [15]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_without_the_gaps_no_two_objects_share_a_side_and_within_one_there_are_none(seed, count):
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.normal(0, 4, (1, count, 8, 12)).astype(np.float32))
    boxes = torch.from_numpy(rng.uniform(0.1, 0.9, (1, count, 4)).astype(np.float32))
    scores = torch.from_numpy(np.sort(rng.uniform(0.1, 1, (1, count)).astype(np.float32))[:, ::-1].copy())
    seam = seams(masks, boxes, scores, SIZE)[0].numpy()
    owner = _owners(masks, boxes)
    for free, one, other in (
        (~seam[:, :-1] & ~seam[:, 1:], owner[:, :-1], owner[:, 1:]),
        (~seam[:-1] & ~seam[1:], owner[:-1], owner[1:]),
    ):
        assert not (free & (one >= 0) & (other >= 0) & (one != other)).any()
    alone = np.zeros_like(seam)
    alone[:, :-1] |= (owner[:, :-1] != owner[:, 1:]) & (owner[:, 1:] >= 0)
    alone[:-1] |= (owner[:-1] != owner[1:]) & (owner[1:] >= 0)
    assert (seam <= (alone & (owner >= 0))).all()


def _owners(masks, boxes):
    """(H, W) the query that each pixel is of, -1 for none: one mask after another, in NumPy."""
    cut = cut_masks(masks, boxes)[0].numpy()
    inside, kept = cut > 0, []
    for number, mask in enumerate(inside):
        shared = [(mask & inside[other]).sum() > SHARED * min(mask.sum(), inside[other].sum()) for other in kept]
        if mask.sum() >= 3 and not any(shared):
            kept.append(number)
    owner, best = np.full(SIZE, -1), np.full(SIZE, NOWHERE / 2, np.float32)
    for number in kept:
        large = F.interpolate(torch.from_numpy(cut[None, [number]]), SIZE, mode="bilinear")[0, 0].numpy()
        owner, best = np.where(large > best, number, owner), np.maximum(best, large)
    return owner
