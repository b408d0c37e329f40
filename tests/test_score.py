"""Scores of places: a perfect model scores 1, labels are a run's, places are never two things, and everything is said."""

import json

import numpy as np
import pytest
import yaml
from conftest import SHARED_DATA
from PIL import Image
from rs_model import calibrate, imagery, score, score_tables
from rs_model.calibration import Scaling
from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING
from rs_model.pictures import Album, mistakes, reliability_diagram
from rs_model.places import CALIBRATION_SEEDS, MORE_TEST_SEEDS, PLACES, TEST_SEEDS, TRAINING_FIRST_SEED, Place, generated_place
from rs_model.scenes import Scene
from rs_model.score import NO_TRUTH, PlaceScore, all_classes, labels_of, options_of, places_of, score_places, truth_of
from scipy.special import expit

from rs_pipeline.config import configs_folder
from rs_pipeline.errors import ConfigError
from rs_pipeline.segmenter import ModelInfo

BUILDING = CLASSES.index("building")
INFO = ModelInfo("some model", "0" * 64, 0.5, None, 64, None)


def scene(seed, side=48):
    """Blocks of classes; the red band tells them, so that a model may know."""
    blocks = np.random.default_rng(seed).integers(0, len(CLASSES), (side // 8, side // 8))
    labels = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
    return Scene(f"scene {seed}", np.repeat(labels[..., None] * 30, 3, 2).astype(np.uint8), labels)


def place(split="test", classes=CLASSES, scenes=2, first=0):
    return Place(f"somewhere, {split}", split, classes, lambda _: (scene(first + i) for i in range(scenes)))


class Knowing:
    """Says what the red band tells, as surely as it is told to, and errs in a share of the pixels."""

    def __init__(self, sure=1.0, wrong=0.0):
        self.sure, self.wrong, self.rng = sure, wrong, np.random.default_rng(0)

    def segment(self, images, valid, classes):
        told = np.rint(images[:, 0] * 255 / 30).astype(int)
        told = np.where(self.rng.random(told.shape) < self.wrong, self.rng.integers(0, len(classes), told.shape), told)
        hit = told[:, None] == np.arange(len(classes))[:, None, None]
        return np.where(hit, self.sure, (1 - self.sure) / (len(classes) - 1)).astype(np.float32)


def test_a_perfect_model_scores_1_without_calibration_error_by_either_rule(tmp_path):
    (found,) = score_places(Knowing(), 32, tmp_path, [place()])
    assert found.images == 2
    for name in CLASSES:
        assert found.iou(name, as_run=True) == found.iou(name, as_run=False) == 1
        assert found.calibration_error(name) == pytest.approx(0, abs=1e-6)


def test_a_run_leaves_what_does_not_reach_its_threshold_to_the_background(tmp_path):
    (found,) = score_places(Knowing(sure=0.45), 64, tmp_path, [place()])
    thresholds = {c.name: c.threshold for c in all_classes()}
    for name in CLASSES:
        assert found.iou(name, as_run=False) == 1
        assert found.iou(name, as_run=True) == (1 if thresholds[name] < 0.45 else 0)
        assert found.calibration_error(name) > 0.1


def test_a_place_whose_labels_know_one_class_scores_that_alone():
    codes = np.array([[BUILDING, NOT_BUILDING, IGNORE, BUILDING]], np.uint8)
    where = place(classes=("building",))
    some = Scene("row", np.zeros((1, 4, 3), np.uint8), codes)
    assert truth_of(some, where).tolist() == [[BUILDING + 1, 0, NO_TRUTH, BUILDING + 1]]
    scores = np.zeros((5, 1, 4), np.float32)
    scores[BUILDING] = [[0.9, 0.8, 0.9, 0.1]]
    scores[BUILDING - 1] = 1.0
    assert labels_of(scores, all_classes(), where).tolist() == [[BUILDING + 1, BUILDING + 1, BUILDING + 1, 0]]
    total = PlaceScore(where)
    assert total.add(some, scores, all_classes()) == pytest.approx(1 / 3)
    assert total.iou("building", as_run=True) == pytest.approx(1 / 3)
    assert np.isnan(total.iou("building", as_run=False))
    assert np.isnan(total.iou("road", as_run=True))
    assert np.isnan(total.calibration_error("road"))


def test_every_figure_is_in_the_text_the_card_and_the_json(tmp_path):
    scores = score_places(Knowing(0.8, 0.2), 64, tmp_path, [place(), place("calibration", ("building",))])
    rows = score_tables.figures(scores[0])
    assert [*rows] == [*CLASSES, "mean"]
    assert rows["mean"][0] == pytest.approx(np.mean([rows[name][0] for name in CLASSES]))
    text, card = score_tables.as_text(scores), score_tables.as_card(scores)
    assert len(text.splitlines()) == 1 + 6 + 1
    for name in CLASSES:
        for value in rows[name]:
            assert f"{value:.3f}" in text
            assert f"{value:.3f}" in card
    told = json.loads(json.dumps(score_tables.as_json(scores, INFO), allow_nan=False))
    assert told["places"][0]["classes"]["road"]["iou"] == rows["road"][0]
    assert told["places"][1]["classes"]["building"]["iou"] is None
    assert told["weights_sha256"] == INFO.weights_sha256


def test_no_seed_is_for_two_things_and_no_place_is_listed_twice():
    assert len({*TEST_SEEDS, *MORE_TEST_SEEDS, *CALIBRATION_SEEDS}) == len(TEST_SEEDS) + len(MORE_TEST_SEEDS) + len(CALIBRATION_SEEDS)
    assert max(*TEST_SEEDS, *MORE_TEST_SEEDS) < TRAINING_FIRST_SEED
    assert len({p.name for p in PLACES}) == len(PLACES)
    assert [p.split for p in places_of(("calibration",))] == ["calibration"] * 3
    assert {p.split for p in PLACES} == {"test", "calibration", "train"}


def scored_by_main(monkeypatch, *arguments):
    """What the command hands to `score_places`."""
    told = {}

    def listen(segmenter, tile_px, data, places, look, classes):
        told.update(places=places, thresholds={c.name: c.threshold for c in classes})
        return []

    monkeypatch.setattr(score, "score_places", listen)
    monkeypatch.setattr(score_tables, "as_text", lambda scores: "")
    monkeypatch.setattr("sys.argv", ["score", *arguments])
    assert score.main() == 0
    return told


def test_more_generated_scenes_are_those_of_the_seeds_that_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("rs_model.places.GENERATED_PX", 96)
    assert [s.name for s in generated_place(101, 103).read(tmp_path)] == ["generated 101", "generated 102", "generated 103"]
    (test,) = (p for p in PLACES if p.name == "generated, test")
    always, named = next(iter(test.read(tmp_path))), next(iter(generated_place(1, 1).read(tmp_path)))
    assert np.array_equal(always.image, named.image)
    assert np.array_equal(always.codes, named.codes)
    scored = scored_by_main(monkeypatch, "--data", str(tmp_path), "--generated", "101", "103")
    assert [where.name for where in scored["places"]] == ["generated, 101 to 103"]


def test_thresholds_of_ones_own_are_those_that_a_run_is_scored_with(tmp_path, monkeypatch):
    mine, shipped = tmp_path / "mine.yaml", configs_folder() / "classes" / "default.yaml"
    entries = yaml.safe_load(shipped.read_text())
    entries["water"]["threshold"] = 0.35
    mine.write_text(yaml.safe_dump(entries))
    own = {c.name: c.threshold for c in all_classes()} | {"water": 0.35}
    assert scored_by_main(monkeypatch, "--data", str(tmp_path), "--set", f"vocabulary={mine}")["thresholds"] == own
    lower = scored_by_main(monkeypatch, "--data", str(tmp_path), "--set", "scoring.threshold=0.4")["thresholds"]
    assert lower == dict.fromkeys(CLASSES, 0.4)
    monkeypatch.undo()
    (found,) = score_places(Knowing(sure=0.45), 64, tmp_path, [place()], classes=all_classes(f"vocabulary={mine}"))
    assert [found.iou(name, as_run=True) for name in ("water", "road")] == [1, 0]


@pytest.mark.parametrize("seeds", [("103", "101"), ("-3", "2"), ("990", "1000"), ("2001", "2004")])
def test_generated_scenes_that_train_or_calibrate_are_not_scored_as_more(tmp_path, monkeypatch, capsys, seeds):
    monkeypatch.setattr("sys.argv", ["score", "--data", str(tmp_path), "--generated", *seeds])
    assert score.main() > 0
    assert "expected two seeds from 0 to 999, the lower first" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data sets are not in ../shared/data")
def test_the_real_places_share_no_image_and_hold_the_classes_they_are_scored_on():
    seen = {}
    for where in PLACES:
        if where.split != "test" and not where.name.startswith("generated"):
            first = next(iter(where.read(SHARED_DATA)))
            seen[where.name] = first.name
            assert set(np.unique(truth_of(first, where))) - {0, NO_TRUTH} <= {CLASSES.index(name) + 1 for name in where.classes}
    assert seen["Dubai Tile 2"].startswith("dubai 2/")
    assert seen["Banepa south-west"] == "banepa south-west"


def test_a_bad_setting_of_the_model_is_refused():
    assert options_of("scoring.tta.flips=true").scoring.tta.flips
    with pytest.raises(ConfigError, match="scoring"):
        options_of("scoring.flips=true")


# --- calibration and thresholds from places


class Vague(Knowing):
    """Truths drawn from scores: P is right in a share of sigmoid(logit(P) / 2 + 0.5) of the pixels; a class with each seed."""

    def segment(self, images, valid, classes):
        return np.repeat(images[:, :1], len(classes), 1)


def drawn_place(split, seed, name=None):
    def read(_):
        rng = np.random.default_rng(seed)
        image = rng.integers(3, 252, (128, 128), np.uint8)
        odds = np.log(image / (255 - image.astype(float)))
        is_road = rng.random(image.shape) < expit(odds / 2 + 0.5)
        yield Scene(f"drawn {seed}", np.repeat(image[..., None], 3, 2), np.where(is_road, CLASSES.index("road"), 1).astype(np.uint8))

    return Place(name or f"drawn {split}", split, ("road", "land"), read)


def test_a_calibration_is_fitted_on_the_calibration_places_alone_and_found(tmp_path):
    scores = score_places(Vague(), 128, tmp_path, [drawn_place("calibration", 1), drawn_place("test", 2), place("test")])
    found = calibrate.fit(scores, "platt")
    assert set(found) == {"road", "land"}
    assert found["road"].temperature == pytest.approx(2, rel=0.15)
    assert found["road"].bias == pytest.approx(0.5, abs=0.1)
    assert found == calibrate.fit(scores[:1], "platt")
    before, after = calibrate.score_both(Vague(), 128, tmp_path, [s.place for s in scores], found)
    assert [s.iou("road", as_run=False) for s in before] == [s.iou("road", as_run=False) for s in scores]
    for old, new in zip(before[:2], after, strict=False):
        assert new.calibration_error("road") < 0.03 < old.calibration_error("road")
    said = calibrate.describe_errors(before, after, found)
    assert len(said.splitlines()) == 1 + len(CLASSES) + 1
    assert f"{found['road'].temperature:.3f}" in said


def test_a_scaling_that_all_classes_share_leaves_the_likeliest_class_as_it_is(tmp_path):
    places = [place("calibration"), place("test", first=5)]
    scores = score_places(Knowing(0.6, 0.3), 64, tmp_path, places)
    found = calibrate.fit(scores, "shared")
    assert set(found) == set(CLASSES)
    assert len(set(found.values())) == 1
    assert found["road"] != Scaling(1, 0)
    before, after = calibrate.score_both(Knowing(0.6, 0.3), 64, tmp_path, places, found)
    for old, new in zip(before, after, strict=True):
        assert (old.likeliest.counts == new.likeliest.counts).all()
        assert new.calibration_error("road") < old.calibration_error("road")


def test_of_thresholds_as_good_as_the_best_on_the_calibration_places_the_nearest_to_a_half_is_taken(tmp_path):
    scores = score_places(Knowing(0.7), 64, tmp_path, [place("calibration"), place("test", first=7)])
    rows = {name: calibrate.iou_by_threshold(scores, name) for name in CLASSES}
    best = calibrate.best_thresholds(scores)
    for name, row in rows.items():
        assert best[name] == 0.5
        assert row[calibrate.THRESHOLDS.index(0.5)] == 1
        assert row[calibrate.THRESHOLDS.index(0.75)] == 0
    assert best == calibrate.best_thresholds(scores[:1])
    assert "road:\n  threshold: 0.5" in calibrate.describe_thresholds(scores)
    unsure = score_places(Knowing(0.28), 64, tmp_path, [place("calibration")])  # 0.18 for the other classes
    assert calibrate.best_thresholds(unsure) == dict.fromkeys(CLASSES, 0.25)


# --- pictures


def test_the_best_and_the_worst_test_images_are_drawn(tmp_path):
    album = Album(tmp_path / "pictures", each=1)
    score_places(Knowing(0.9, 0.3), 64, tmp_path, [place(scenes=3), place("calibration", first=9)], album.look)
    files = album.save()
    assert [file.name for file in files] == ["best-1.jpg", "worst-1.jpg"]
    with Image.open(files[0]) as picture:
        assert picture.size == (4 * 48 + 3 * 6, 48 + 16)


def test_pictures_of_maps_alone_hold_no_imagery(tmp_path):
    album = Album(tmp_path / "pictures", each=1, imagery=False)
    score_places(Knowing(0.9, 0.3), 64, tmp_path, [place(scenes=3)], album.look)
    with Image.open(album.save()[0]) as picture:
        assert picture.size == (2 * 48 + 6, 48 + 16)


def test_mistakes_are_red_and_what_is_not_known_is_grey():
    drawn = mistakes(np.array([[1, 2, NO_TRUTH]], np.uint8), np.array([[1, 1, 1]], np.uint8))
    right, wrong, unknown = drawn[0].tolist()
    assert wrong[0] > 2 * max(wrong[1:])
    assert right[1] > right[0]
    assert len(set(unknown)) == 1


def test_a_reliability_diagram_has_a_square_for_each_class(tmp_path):
    scores = score_places(Vague(), 128, tmp_path, [drawn_place("calibration", 1)])
    fitted = calibrate.fit(scores, "platt")
    curves = calibrate.curves_of(scores, fitted, "calibration")
    assert [*curves] == ["land", "road"]
    before, after = (curve.reliability.error for curve in curves["road"])
    assert after < 0.03 < before
    drawn = reliability_diagram({"calibration": curves})
    assert len(set(drawn.getdata())) > 3
    assert drawn.width > drawn.height


def test_all_imagery_is_run_and_drawn_and_what_cannot_be_is_said(make_scene, tmp_path):
    make_scene("data/one/town.tif")
    make_scene("data/two/grey.tif", np.ones((1, 20, 20), np.uint8))
    sets = ["model=fake_segmenter:pointwise"]
    lines = list(imagery.draw_imagery(tmp_path / "data", tmp_path / "out", None, sets))
    assert len(lines) == 2
    assert lines[0].startswith("one/town.tif: 0.5 m: building ")
    shares = [float(word.rstrip(",%")) for word in lines[0].split() if word.rstrip(",").endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=3)
    assert lines[1].startswith("two/grey.tif: left out: expected an image with red, green and blue bands")
    with Image.open(tmp_path / "out" / "one" / "town.tif.jpg") as picture:
        assert picture.size == (2 * 170 + 6, 150 + 16)
    assert not (tmp_path / "out" / "two").exists()
