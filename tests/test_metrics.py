import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipeline.metrics import confusion

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
