"""Reliability from counts: the figures are those of the pixels themselves, and mean what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rs_model.reliability import BINS, LOG_ODDS, Tally, reliability
from scipy.special import expit

seeds = st.integers(0, 2**32 - 1)


def pixels(seed, count=4000, sharp=2.0, honest=True):
    """Scores and truths; an honest score of p is right in a share p of the cases."""
    rng = np.random.default_rng(seed)
    scores = expit(rng.normal(-1, sharp, count))
    return scores, rng.random(count) < (scores if honest else scores[::-1])


@given(seeds)
def test_scores_that_keep_what_they_promise_have_next_to_no_calibration_error(seed):
    tally = Tally.of(*pixels(seed, 100_000))
    assert reliability(tally).error < 0.02
    assert reliability(tally, adaptive=True).error < 0.02


@given(seeds, st.floats(0.001, 0.999), st.floats(0, 1))
def test_one_score_for_all_is_off_by_its_distance_to_the_share_of_the_class(seed, score, share):
    truth = np.random.default_rng(seed).random(500) < share
    for adaptive in (False, True):
        error = reliability(Tally.of(np.full(500, score), truth), adaptive=adaptive).error
        assert error == pytest.approx(abs(truth.mean() - score), abs=0.003)


@given(seeds, st.booleans())
def test_the_error_is_that_of_the_pixels_themselves(seed, honest):
    """Against the definition, on the pixels; counting moves a score by 0.00125 at most, so some change their bin."""
    scores, truth = pixels(seed, honest=honest)
    expected = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (scores >= low) & (scores < low + 1 / BINS)
        if inside.any():
            expected += inside.mean() * abs(scores[inside].mean() - truth[inside].mean())
    assert reliability(Tally.of(scores, truth)).error == pytest.approx(expected, abs=0.01)


@given(seeds, st.floats(0.02, 0.98))
def test_iou_at_a_threshold_is_that_of_the_pixels_themselves(seed, threshold):
    scores, truth = pixels(seed)
    sure = np.abs(scores - threshold) > 0.003
    scores, truth = scores[sure], truth[sure]
    found = scores >= threshold
    assert Tally.of(scores, truth).iou(threshold) == pytest.approx((found & truth).sum() / (found | truth).sum())


@given(seeds, st.integers(0, 4000))
def test_counts_of_parts_add_up_to_those_of_the_whole(seed, cut):
    scores, truth = pixels(seed)
    parts = Tally.of(scores[:cut], truth[:cut]) + Tally.of(scores[cut:], truth[cut:])
    assert (parts.counts == Tally.of(scores, truth).counts).all()
    assert (parts + Tally.empty()).counts.sum() == 4000


@given(seeds, st.booleans())
def test_bins_share_out_all_pixels_and_errors_are_shares(seed, adaptive):
    found = reliability(Tally.of(*pixels(seed, honest=False)), adaptive=adaptive)
    assert found.share.sum() == pytest.approx(1)
    assert ((found.kept >= 0) & (found.kept <= 1) & (found.promised >= 0) & (found.promised <= 1)).all()
    assert 0 <= found.error <= 1
    if adaptive:
        assert found.share == pytest.approx(np.full(BINS, 1 / BINS), abs=0.02)


def test_certain_scores_are_counted_too():
    scores, truth = np.array([0.0, 1.0, 0.0, 1.0], np.float32), np.array([False, True, True, True])
    tally = Tally.of(scores, truth)
    assert tally.counts[:, 0].tolist() == [1, 1]
    assert tally.counts[:, -1].tolist() == [0, 2]
    assert reliability(tally).error == pytest.approx(0.25, abs=1e-6)
    assert tally.iou(0.5) == pytest.approx(2 / 3)
    assert LOG_ODDS[0] == -np.inf


def test_nothing_counted_gives_no_figure():
    assert np.isnan(reliability(Tally.empty()).error)
    assert np.isnan(Tally.empty().iou(0.5))
