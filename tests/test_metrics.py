import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipeline.metrics import Confusion, bootstrap_miou, boundary, confusion, interval

TRUTH = np.array([[0, 0, 1, 1], [1, 2, 2, 255]], np.uint8)
PREDICTED = np.array([[0, 1, 1, 1], [0, 2, 255, 1]], np.uint8)


def test_counts_by_hand() -> None:
    result = confusion(TRUTH, PREDICTED, 4)
    np.testing.assert_array_equal(result.counts, [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert result.not_observed == 1
    assert result.not_observed_share == pytest.approx(1 / 7)


def test_figures_by_hand() -> None:
    result = confusion(TRUTH, PREDICTED, 4)
    np.testing.assert_allclose(result.iou, [1 / 3, 2 / 4, 1, math.nan])
    np.testing.assert_allclose(result.precision, [1 / 2, 2 / 3, 1, math.nan])
    np.testing.assert_allclose(result.recall, [1 / 2, 2 / 3, 1, math.nan])
    np.testing.assert_allclose(result.f1, [1 / 2, 2 / 3, 1, math.nan])
    assert result.pixel_accuracy == pytest.approx(4 / 6)
    assert result.mean_iou() == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert result.mean_iou(first=1) == pytest.approx(3 / 4)


def test_a_class_only_predicted_has_no_recall_and_an_iou_of_zero() -> None:
    result = confusion(np.array([0, 0]), np.array([0, 1]), 2)
    assert result.iou[1] == 0
    assert result.precision[1] == 0
    assert math.isnan(result.recall[1])


def test_without_pixels_every_figure_is_nan() -> None:
    result = confusion(np.array([255], np.uint8), np.array([0], np.uint8), 2)
    assert math.isnan(result.pixel_accuracy)
    assert math.isnan(result.mean_iou())
    assert math.isnan(result.not_observed_share)


def test_another_label_can_be_the_one_that_says_nothing() -> None:
    assert confusion(np.array([9, 1]), np.array([0, 1]), 2, ignore=9).counts.sum() == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_figures_agree_with_sets_of_pixels(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (rng.choice([*range(n), 255], 60).astype(np.uint8) for _ in range(2))
    result = confusion(truth, predicted, n)
    pixels = [i for i in range(60) if truth[i] != 255 and predicted[i] != 255]
    for k in range(n):
        t, p = {i for i in pixels if truth[i] == k}, {i for i in pixels if predicted[i] == k}
        np.testing.assert_allclose(result.iou[k], len(t & p) / len(t | p) if t | p else math.nan)
        np.testing.assert_allclose(result.precision[k], len(t & p) / len(p) if p else math.nan)
        np.testing.assert_allclose(result.recall[k], len(t & p) / len(t) if t else math.nan)
    assert result.counts.sum() + result.not_observed == (truth != 255).sum()


def test_pooling_two_images_is_counting_both_at_once() -> None:
    both = confusion(np.stack([TRUTH, TRUTH]), np.stack([PREDICTED, PREDICTED[:, ::-1]]), 3)
    pooled = confusion(TRUTH, PREDICTED, 3) + confusion(TRUTH, PREDICTED[:, ::-1], 3)
    np.testing.assert_array_equal(pooled.counts, both.counts)
    assert pooled.not_observed == both.not_observed


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(4,\)"):
        confusion(TRUTH, PREDICTED[0], 3)


@pytest.mark.parametrize(("truth", "predicted", "message"), [(3, 0, "truth are 0…2, got 3…3"), (0, 7, "prediction are 0…2, got 7…7")])
def test_labels_must_be_known(truth: int, predicted: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(np.array([truth]), np.array([predicted]), 3)


def boundary_pixels(labels: np.ndarray, known: np.ndarray, k: int) -> list[tuple[int, int]]:
    height, width = labels.shape
    found = []
    for r in range(height):
        for c in range(width):
            around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            around = [(y, x) for y, x in around if 0 <= y < height and 0 <= x < width and known[y, x]]
            if known[r, c] and labels[r, c] == k and any(labels[p] != k for p in around):
                found.append((r, c))
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 2**0.5, 2.0, 3.7]), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_boundaries_agree_with_pixel_by_pixel_search(seed: int, tolerance: float, patch: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (
        np.kron(rng.choice([0, 1, 2, 255], (6, 7), p=[0.4, 0.3, 0.2, 0.1]), np.ones((patch, patch), int)).astype(np.uint8) for _ in range(2)
    )
    known = (truth != 255) & (predicted != 255)
    result = boundary(truth, predicted, 3, tolerance)
    for k in range(3):
        real, found = boundary_pixels(truth, known, k), boundary_pixels(predicted, known, k)

        def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
            return sum(any((r - y) ** 2 + (c - x) ** 2 <= tolerance**2 * (1 + 1e-12) for y, x in others) for r, c in points)

        expected = (len(found), near(found, real), len(real), near(real, found))
        assert (result.predicted[k], result.predicted_near[k], result.true[k], result.true_near[k]) == expected
        if not real and not found:
            assert math.isnan(result.f1[k])
        else:
            precision, recall = expected[1] / max(expected[0], 1), expected[3] / max(expected[2], 1)
            assert result.f1[k] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-300))


def test_a_boundary_may_be_off_by_a_share_of_the_diagonal() -> None:
    truth = np.zeros((300, 400), np.uint8)  # diagonal 500 px, tolerance 3.75 px
    truth[:, 200:] = 1
    for shift, f1 in ((0, 1.0), (3, 1.0), (4, 0.0)):
        predicted = np.zeros_like(truth)
        predicted[:, 200 + shift :] = 1
        np.testing.assert_array_equal(boundary(truth, predicted, 2).f1, [f1, f1])


def test_boundary_counts_of_two_images_add_up() -> None:
    one, other = boundary(TRUTH, PREDICTED, 3, 1.0), boundary(PREDICTED, TRUTH, 3, 1.0)
    pooled = one + other
    np.testing.assert_array_equal(pooled.true, one.true + one.predicted)
    np.testing.assert_array_equal(pooled.predicted_near, one.predicted_near + one.true_near)


def noisy_images(count: int, wrong: float, seed: int) -> list[Confusion]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth = rng.integers(0, 3, 400)
        predicted = np.where(rng.random(400) < wrong * rng.random(), rng.integers(0, 3, 400), truth)
        images.append(confusion(truth, predicted, 3))
    return images


def test_the_bootstrap_draws_images_and_pools_their_counts() -> None:
    images = noisy_images(7, 0.8, 1)
    samples = bootstrap_miou(images, first=1, resamples=50, seed=3)
    draws = np.random.default_rng(3).integers(7, size=(50, 7))
    for sample, draw in zip(samples, draws, strict=True):
        first, *others = (images[i] for i in draw)
        assert sample == pytest.approx(sum(others, start=first).mean_iou(1), abs=1e-12)


def test_the_interval_holds_the_estimate_and_is_the_same_every_time() -> None:
    for seed in range(5):
        images = noisy_images(20, 0.8, seed)
        low, high = interval(bootstrap_miou(images))
        first, *others = images
        assert low < sum(others, start=first).mean_iou() < high
        assert interval(bootstrap_miou(images)) == (low, high)


def test_identical_images_have_no_spread_and_a_setting_never_differs_from_itself() -> None:
    images = noisy_images(9, 0.8, 0)
    low, high = interval(bootstrap_miou([images[0]] * 9))
    assert low == high == pytest.approx(images[0].mean_iou())
    assert interval(bootstrap_miou(images) - bootstrap_miou(list(images))) == (0.0, 0.0)


def test_the_paired_interval_is_narrower_than_the_two_apart() -> None:
    worse = noisy_images(30, 0.8, 2)
    better = [Confusion(np.where(np.eye(3, dtype=bool), i.counts + 5, i.counts), 0) for i in worse]
    low, high = interval(bootstrap_miou(better) - bootstrap_miou(worse))
    assert 0 < low < high < interval(bootstrap_miou(worse))[1] - interval(bootstrap_miou(worse))[0]


def test_without_classes_there_is_no_interval() -> None:
    nothing = confusion(np.zeros(3, int), np.zeros(3, int), 2)
    assert all(math.isnan(bound) for bound in interval(bootstrap_miou([nothing] * 3, first=1)))
