"""Calibration: a temperature is found where there is one, what has none is left as it is, and a weights folder carries it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from rs_model import query_calibration, segmenter
from rs_model.calibration import TEMPERATURES, Scaling, fit_scaling, queries_of, read_calibration, to_config, training_class
from rs_model.chain import Chain
from rs_model.instance_score import Seen
from rs_model.labels import CLASSES as TRAINED
from rs_model.labels import IGNORE
from rs_model.places import Place
from rs_model.provider import sam3_provider
from rs_model.query_calibration import fit_queries
from rs_model.reliability import Tally, reliability
from rs_model.scenes import Scene
from rs_model.scores import best_queries
from rs_model.segmenter import PromptedSegmenter
from rs_model.weights import CONFIG, KEYS, MODEL_TYPE, WEIGHTS, weights_digest, write_calibration
from rs_model.words import SYNONYMS
from scipy.special import expit, logit
from small_sam3 import SIDE, small_full, write_folder

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import SegmenterError

seeds = st.integers(0, 2**32 - 1)
temperatures, biases = st.floats(0.4, 3), st.floats(-1.5, 1.5)


def drawn(seed, temperature, bias, count=40_000):
    """Scores of a model that is wrong about itself by this temperature and bias, and truths."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-0.5, 2.5, count)
    return expit(log_odds), rng.random(count) < expit(log_odds / temperature + bias)


@given(seeds, temperatures, biases)
@limits(max_examples=25)
def test_the_temperature_and_bias_that_made_the_truth_are_found(seed, temperature, bias):
    found = fit_scaling([Tally.of(*drawn(seed, temperature, bias))])
    assert found.temperature == pytest.approx(temperature, rel=0.12)
    assert found.bias == pytest.approx(bias, abs=0.15)


@given(seeds, temperatures, biases)
@limits(max_examples=25)
def test_calibrated_scores_keep_what_they_promise_and_are_likelier_than_before(seed, temperature, bias):
    scores, truth = drawn(seed, temperature, bias)
    tally = Tally.of(scores, truth)
    found = fit_scaling([tally])
    assert reliability(tally, found.apply).error < 0.02

    def surprise(probability):
        return -np.log(np.where(truth, probability, 1 - probability)).mean()

    assert surprise(found.apply(logit(scores))) <= surprise(scores) + 1e-6


def test_a_temperature_alone_moves_nothing_across_one_half():
    tally = Tally.of(*drawn(3, 2.0, 0.5))
    found = fit_scaling([tally], with_bias=False)
    assert found.bias == 0
    assert found.temperature > 1
    assert found.apply(np.zeros(1)).tolist() == [0.5]
    assert reliability(tally, found.apply).error < reliability(tally).error


def test_every_place_weighs_the_same_however_many_pixels_it_has():
    one, other = Tally.of(*drawn(1, 2.0, 0.0)), Tally.of(*drawn(2, 0.5, 1.0))
    assert fit_scaling([one, other]) == fit_scaling([Tally(one.counts * 50), other])
    assert fit_scaling([one, other]) == fit_scaling([other, one])


@given(temperatures, biases, st.lists(st.floats(0, 1), min_size=2))
def test_a_scaling_keeps_the_order_and_certainty(temperature, bias, scores):
    scaled = Scaling(temperature, bias).apply(logit(np.sort(scores)))
    assert (np.diff(scaled) >= 0).all()
    assert Scaling(temperature, bias).apply(np.array([-np.inf, np.inf])).tolist() == [0, 1]


@pytest.mark.parametrize("truth", [True, False])
def test_nothing_to_tell_apart_cannot_be_fitted(truth):
    with pytest.raises(ValueError, match="beside it"):
        fit_scaling([Tally.of(np.array([0.2, 0.7]), np.array([truth, truth]))])


def test_scores_without_a_mistake_get_a_low_temperature_that_is_not_0():
    found = fit_scaling([Tally.of(np.array([0.2, 0.7]), np.array([False, True]))])
    assert TEMPERATURES[0] <= found.temperature < 0.2
    assert np.isfinite(found.bias)


def test_a_class_belongs_to_the_training_class_that_all_its_prompts_name():
    for name, phrases in SYNONYMS.items():
        assert training_class(phrases) == name
    assert training_class(("Road ", "street")) == "road"
    assert training_class(("house", "river")) is None
    assert training_class(("road", "zeppelin")) is None
    assert training_class(("zeppelin",)) is None


@pytest.mark.parametrize(("temperature", "bias"), [(0, 0), (-1, 0), (float("nan"), 0), (float("inf"), 0), (1, float("inf"))])
def test_an_impossible_scaling_is_refused(temperature, bias):
    with pytest.raises(ValueError, match="temperature above 0"):
        Scaling(temperature, bias)


# --- in a weights folder


@pytest.fixture
def folder(tmp_path):
    """A weights folder as far as its digest and its calibration go."""
    config = dict.fromkeys(KEYS, 1) | {"model_type": MODEL_TYPE}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    return tmp_path


def test_a_calibration_is_read_back_and_changes_the_digest_and_nothing_else(folder):
    assert read_calibration(folder) == {}
    before, config = weights_digest(folder), json.loads((folder / CONFIG).read_text())
    written = {"road": Scaling(1.5, -0.25), "water": Scaling(0.8, 0.5)}
    write_calibration(folder, to_config(written))
    assert read_calibration(folder) == written
    assert weights_digest(folder) != before
    assert {key: value for key, value in json.loads((folder / CONFIG).read_text()).items() if key != "calibration"} == config
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    write_calibration(folder, {})
    assert read_calibration(folder) == {}


@pytest.mark.parametrize("damage", [[], {"road": 1}, {"road": {"temperature": 1}}, {"road": {"temperature": 0, "bias": 0}}, "text"])
def test_a_damaged_calibration_is_one_clear_line(folder, damage):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"calibration": damage}))
    with pytest.raises(SegmenterError, match=r"temperature above 0.*rs_model\.calibrate") as caught:
        read_calibration(folder)
    assert "\n" not in str(caught.value)


# --- in the segmenter


@pytest.fixture(scope="module")
def model():
    return small_full()


CLASSES = ClassSet(tuple(Class(i, word, (word,), (0, 0, 0), 0.5) for i, word in enumerate(("road", "lake", "ufo"), 1)))
CALIBRATION = {"road": Scaling(2.0, 0.7), "water": Scaling(0.5, -1.0)}


def segment(model, calibration, *sets):
    options = load_settings(sets=["device=cpu", "refine.preset=none", "scoring.absent_below=0", *sets]).options
    images = np.random.default_rng(0).random((2, 3, SIDE, SIDE), np.float32)
    segmenter = PromptedSegmenter(model, Chain(options.refine), options, torch.device("cpu"), None, calibration)
    return segmenter.segment(images, np.ones((2, SIDE, SIDE), bool), CLASSES)


def test_weights_without_a_calibration_score_as_they_did_bit_for_bit(model):
    plain = segment(model, None)
    assert segment(model, {}).tobytes() == plain.tobytes()
    assert segment(model, CALIBRATION, "scoring.calibrated=false").tobytes() == plain.tobytes()


@pytest.mark.parametrize("sets", [(), ("scoring.calibrated=true",), ("scoring.calibrated=null",)])
def test_each_class_is_scaled_as_the_training_class_its_words_are_for(model, sets):
    plain, scaled = segment(model, None), segment(model, CALIBRATION, *sets)
    for k, scaling in enumerate(CALIBRATION.values()):
        np.testing.assert_allclose(scaled[:, k], scaling.apply(logit(plain[:, k].astype(np.float64))), atol=1e-6)
        assert np.abs(scaled[:, k] - plain[:, k]).max() > 0.01
    np.testing.assert_array_equal(scaled[:, 2], plain[:, 2])


def test_an_absent_prompt_stays_at_0(model):
    assert (segment(model, {"road": Scaling(1, 5)}, "scoring.absent_below=1")[:, 0] == 0).all()


def test_asking_for_a_calibration_that_is_not_there_is_refused(model):
    with pytest.raises(SegmenterError, match=r"scoring\.calibrated=true"):
        segment(model, None, "scoring.calibrated=true")


def test_a_model_is_loaded_with_the_calibration_of_its_folder(tmp_path):
    """SAM 3's folder stands for any: what a folder's config.json says reaches the scores."""
    write_folder(tmp_path)
    options = load_settings(sets=["device=cpu", "refine.preset=none", "scoring.absent_below=0"]).options
    images, valid = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32), np.ones((1, SIDE, SIDE), bool)
    plain = sam3_provider(tmp_path).load(options, 1).segment(images, valid, CLASSES)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"calibration": to_config(CALIBRATION)}))
    scaled = sam3_provider(tmp_path).load(options, 1).segment(images, valid, CLASSES)
    np.testing.assert_allclose(scaled[:, 0], CALIBRATION["road"].apply(logit(plain[:, 0].astype(np.float64))), atol=1e-6)


def test_queries_are_scaled_in_the_map_of_their_own_class_alone(model, monkeypatch):
    """What the map is with scaled scores, it is with scores that came so."""
    scaling, sets = Scaling(0.5, 2.0), ("scoring.query_threshold=0.2",)
    plain, scaled = (segment(model, calibration, *sets) for calibration in (None, {queries_of("road"): scaling}))
    np.testing.assert_array_equal(scaled[:, 1:], plain[:, 1:])

    def likelier(*args):
        index, best = best_queries(*args)
        return index, torch.where(best > 0, torch.from_numpy(scaling.apply(logit(best.double().numpy()))).float(), 0)

    monkeypatch.setattr(segmenter, "best_queries", likelier)
    np.testing.assert_allclose(scaled[:, 0], segment(model, None, *sets)[:, 0], atol=1e-6)
    assert (scaled[:, 0] - plain[:, 0]).max() > 0.01
    monkeypatch.undo()
    off = segment(model, {queries_of("road"): scaling}, *sets, "scoring.calibrated=false")
    assert off.tobytes() == plain.tobytes()


# --- of the queries' scores

ROOF = TRAINED.index("building")
LAND = TRAINED.index("land")


def place_of(codes):
    return Place("somewhere", "calibration", ("building",), lambda _: iter([Scene("one", np.zeros((*codes.shape, 3), np.uint8), codes)]))


def seeing(monkeypatch, *found, presence=0.8):
    """A model that finds, in every window, masks by their slices with these scores."""

    def look(_model, image):
        masks = np.zeros((len(found), *image.shape[:2]), bool)
        for mask, (_, where) in zip(masks, found, strict=True):
            mask[where] = True
        return Seen(masks.any(0), {}, presence, np.array([score * presence for score, _ in found], np.float32), masks)

    monkeypatch.setattr(query_calibration, "look", look)


def test_a_querys_score_becomes_the_share_of_its_pixels_that_are_right(monkeypatch):
    codes = np.full((100, 100), LAND, np.uint8)
    codes[:90, :50] = ROOF
    codes[:70, 50:] = ROOF
    codes[95:] = IGNORE
    seeing(monkeypatch, (0.8, np.s_[:, :50]), (0.6, np.s_[:, 50:]), (0.4, np.s_[:]))
    found = fit_queries(None, 512, None, [place_of(codes)], 0.35)
    np.testing.assert_allclose(found.apply(logit(np.array([0.8, 0.6]))), [90 / 95, 70 / 95], atol=3e-3)
    assert fit_queries(None, 64, None, [place_of(codes), place_of(np.full_like(codes, IGNORE))], 0.35) is not None


@pytest.mark.parametrize("code", [ROOF, LAND, IGNORE])
def test_queries_that_are_all_right_or_all_wrong_or_none_are_left_as_they_are(monkeypatch, code):
    seeing(monkeypatch, (0.8, np.s_[:, :50]))
    codes = np.full((100, 100), code, np.uint8)
    assert fit_queries(None, 512, None, [place_of(codes)], 0.35) is None
    assert fit_queries(None, 512, None, [place_of(codes)], 0.9) is None
