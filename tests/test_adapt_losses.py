"""Losses of self-training: what each asks for, whom it moves, and what it says where there is nothing to learn from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rs_model.adapt.losses import (
    BoundaryLoss,
    MaskConsistencyLoss,
    PatchContrastLoss,
    PatchImportanceLoss,
    QueryDistillLoss,
    TextImageContrast,
    mask_border,
)
from scipy import ndimage

FORMS = ["kl", "topk", "rank", "l1"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws():
    return torch.Generator().manual_seed(0)


def test_only_pixels_of_which_the_teacher_is_sure_count():
    teacher = torch.tensor([[[0.9, 0.5, 0.1]]])
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    student = torch.tensor([[[0.7, 0.5, 0.4]]], requires_grad=True)
    loss = MaskConsistencyLoss(0.8)(student, teacher, valid)
    parts = [t * math.log(t / p) + (1 - t) * math.log((1 - t) / (1 - p)) for t, p in ((0.9, 0.7), (0.1, 0.4))]
    assert loss.item() == pytest.approx(sum(parts) / 2, rel=1e-5)
    loss.backward()
    assert student.grad[0, 0, 1] == 0
    assert student.grad[0, 0, 0] < 0 < student.grad[0, 0, 2]


def test_a_student_that_agrees_is_left_alone():
    teacher = torch.rand(2, 8, 8, generator=draws())
    student = teacher.clone().requires_grad_()
    loss = MaskConsistencyLoss(0.6)(student, teacher, torch.ones(2, 8, 8, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6


def test_a_few_pixels_of_a_class_weigh_as_much_as_all_others():
    teacher, student = torch.full((1, 10, 10), 0.01), torch.full((1, 10, 10), 0.5)
    teacher[0, 0, 0] = 0.99
    valid = torch.ones_like(teacher, dtype=torch.bool)
    wrong_there, wrong_elsewhere = student.clone(), student.clone()
    wrong_there[0, 0, 0], wrong_elsewhere[0, 5, 5] = 0.1, 0.9
    loss = MaskConsistencyLoss(0.8)
    assert loss(wrong_there, teacher, valid) > 1.5 * loss(wrong_elsewhere, teacher, valid) > 1.5 * loss(student, teacher, valid)


def test_pixels_that_were_not_seen_teach_nothing():
    student = torch.full((1, 2, 2), 0.5, requires_grad=True)
    MaskConsistencyLoss(0.8)(student, torch.ones(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)).backward()
    assert not student.grad.any()


@pytest.mark.parametrize("form", FORMS)
def test_importance_is_least_where_energy_is_where_the_decoder_looked(form):
    w = random(2, 64).exp()
    w = w / w.sum(1, keepdim=True)
    right = torch.nn.functional.normalize(random(2, 64, 8), dim=-1) * w[..., None]
    wrong = right.flip(1)
    loss = PatchImportanceLoss(form)
    assert loss(right, w) < loss(wrong, w)
    if form in {"kl", "l1"}:
        assert loss(right, w).item() == pytest.approx(0, abs=1e-5)


def test_importance_as_kl_equals_pytorchs_own():
    w = random(3, 20).softmax(1)
    tokens = random(3, 20, 4, seed=1)
    energy = tokens.norm(dim=-1) / tokens.norm(dim=-1).sum(1, keepdim=True)
    expected = torch.nn.functional.kl_div(energy.log(), w, reduction="batchmean")
    torch.testing.assert_close(PatchImportanceLoss("kl")(tokens, w), expected)


@pytest.mark.parametrize("form", FORMS)
def test_importance_moves_the_tokens_and_never_the_teacher(form):
    tokens, w = random(2, 64, 8).requires_grad_(), random(2, 64, seed=2).softmax(1).requires_grad_()
    PatchImportanceLoss(form)(tokens, w).backward()
    assert tokens.grad.abs().sum() > 0
    assert w.grad is None


@pytest.mark.parametrize("form", FORMS)
def test_importance_of_no_row_is_nothing(form):
    assert PatchImportanceLoss(form)(torch.zeros(0, 4, 2), torch.zeros(0, 4)).item() == 0


def test_contrast_is_less_where_insides_are_alike_and_outsides_are_not():
    mask = torch.zeros(1, 40)
    mask[:, :20] = 1
    apart = torch.cat([random(1, 1, 8).expand(1, 20, 8), random(1, 1, 8, seed=9).expand(1, 20, 8)], 1) + 0.01 * random(1, 40, 8, seed=5)
    loss = PatchContrastLoss()
    assert loss(apart, mask, draws()) < 0.1 < loss(random(1, 40, 8, seed=3), mask, draws())


def test_contrast_of_patches_that_tell_nothing_is_that_of_chance():
    mask = torch.zeros(1, 40)
    mask[:, :20] = 1
    assert PatchContrastLoss(patches=16)(torch.ones(1, 40, 8), mask, draws()).item() == pytest.approx(1)


def test_contrast_takes_the_surest_rows_and_only_rows_with_both_sides():
    tokens = random(3, 40, 8).requires_grad_()
    mask = torch.zeros(3, 40)
    mask[0, :20], mask[1, :20], mask[2] = 0.9, 1.0, 1.0
    PatchContrastLoss(masks=1)(tokens, mask, draws()).backward()
    assert [bool(row.any()) for row in tokens.grad] == [False, True, False]
    assert PatchContrastLoss()(tokens, torch.full((3, 40), 0.5), draws()).item() == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_the_border_of_a_mask_is_what_erosion_takes(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.7
    eroded = ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
    border = mask_border(torch.from_numpy(mask.reshape(1, -1)), (height, width))
    assert (border.numpy().reshape(height, width) == (mask ^ eroded)).all()


def test_boundary_patches_may_not_come_nearer_to_their_neighbours():
    grid = (6, 6)
    before = random(1, 36, 8)
    mask = torch.zeros(1, 36)
    mask.view(6, 6)[1:4, 1:4] = 1
    loss = BoundaryLoss()
    seen = torch.ones(1, 36, dtype=torch.bool)
    assert loss(before, before, mask, seen, grid).item() == 0
    smooth = torch.nn.functional.avg_pool2d(before.transpose(1, 2).view(1, 8, 6, 6), 3, 1, 1).flatten(2).transpose(1, 2)
    assert loss(smooth, before, mask, seen, grid).item() > 0.1
    assert loss(before, smooth, mask, seen, grid).item() < loss(smooth, before, mask, seen, grid).item()
    assert loss(smooth, before, torch.zeros(1, 36), seen, grid).item() == 0
    assert loss(smooth, before, mask, ~seen, grid).item() == 0


def test_distillation_brings_patches_to_the_query_that_looks_at_them_most():
    queries = torch.nn.functional.normalize(random(1, 3, 8), dim=-1)
    looks = torch.zeros(1, 3, 6)
    looks[0, [0, 1, 2, 0, 1, 2], range(6)] = 1
    tokens = queries[:, [0, 1, 2, 0, 1, 2]] * 5
    loss, seen = QueryDistillLoss(8), torch.ones(1, 6, dtype=torch.bool)
    assert loss(tokens * 0, queries, looks, ~seen).item() == 0
    assert loss(tokens, queries, looks, seen).item() == pytest.approx(0, abs=1e-5)
    moved, taught = random(1, 6, 8, seed=4).requires_grad_(), queries.clone().requires_grad_()
    loss(moved, taught, looks, seen).backward()
    assert moved.grad.abs().sum() > 0
    assert loss.carry.weight.grad.abs().sum() > 0
    assert taught.grad is None


def test_text_and_image_are_told_apart_both_ways_and_equal_classes_are_no_negatives():
    loss = TextImageContrast()
    seen, said, classes = random(4, 8), random(4, 8, seed=1), torch.tensor([0, 1, 0, 1])
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (seen, said))
    logits = (a @ b.T / 0.07).detach().numpy()
    parts = []
    for matrix in (logits, logits.T):
        for i in range(4):
            rivals = [j for j in range(4) if j == i or classes[j] != classes[i]]
            parts.append(np.log(np.exp(matrix[i, rivals]).sum()) - matrix[i, i])
    assert loss(seen, said, classes).item() == pytest.approx(np.mean(parts), rel=1e-4)
    assert loss(seen, said, torch.zeros(4)).item() == 0


def test_the_temperature_of_text_and_image_stays_below_a_hundred():
    loss = TextImageContrast()
    loss.logit_scale.data += 10
    loss.constrain()
    assert loss.logit_scale.exp().item() == pytest.approx(100)
