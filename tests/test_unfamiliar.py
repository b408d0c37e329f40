"""A run says which words its model was not trained on, and where nothing was found by them."""

import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from conftest import random_pixels
from fake_segmenter import Pointwise, Provider
from typer.testing import CliRunner

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.cli import app
from rs_pipeline.plan import plan_run
from rs_pipeline.reporting import Silent
from rs_pipeline.run import run
from rs_pipeline.segmenter import check_vocabulary
from rs_pipeline.unfamiliar import describe_not_found, describe_unfamiliar

MODEL = "test_unfamiliar:"
_TRAINED = "fake was trained on road, water"
TRAINED = {"trained_on": ("road", "water"), "trained_words": ("lagoon", "dirt road", "lagoons")}
INFO = replace(Provider(Pointwise).info(), fuller_model="SAM 3 (--model sam3)", **TRAINED)


class Faint(Pointwise):
    """Scores a tenth of what the bands say, but for the class road."""

    def segment(self, images, valid, classes):
        scores = super().segment(images, valid, classes)
        return scores * np.array([1.0 if c.name == "road" else 0.1 for c in classes], np.float32).reshape(1, -1, 1, 1)


class Taught(Provider):
    def info(self):
        return replace(INFO, weights_sha256="1" * 64)


def faint(folder):
    return Taught(Faint)


def clear(folder):
    return Taught(Pointwise)


class Listener(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def class_set(*prompts):
    return ClassSet(tuple(Class(i + 1, words[0], words, (0, 0, 0), 0.5) for i, words in enumerate(prompts)))


@pytest.mark.parametrize("prompt", ["road", "Water", "lagoon", "blue lagoons", "old dirt-road", "mountain  road"])
def test_a_phrase_that_ends_in_a_word_of_training_is_familiar(prompt):
    assert describe_unfamiliar(INFO, class_set((prompt,))) == []


@pytest.mark.parametrize("prompt", ["piano", "road sign", "railroad", "dirt", "waterproof", "хутор"])
def test_a_phrase_that_ends_in_another_word_is_not(prompt):
    (note,) = describe_unfamiliar(INFO, class_set(("road",), (prompt,)))
    assert note == (
        f"{prompt!r}: fake was trained on road, water, and what it makes of other words is a guess; SAM 3 (--model sam3) takes any text"
    )


def test_words_that_are_not_known_share_one_note_each_once():
    (note,) = describe_unfamiliar(INFO, class_set(("piano", "grand piano"), ("harp",), ("violin", "harp", "road")))
    assert note.startswith("'piano', 'grand piano', 'harp', 'violin': ")


def test_a_model_that_says_nothing_of_its_training_is_not_doubted():
    silent = replace(INFO, trained_on=None)
    assert describe_unfamiliar(silent, class_set(("piano",))) == []
    assert describe_not_found(silent, class_set(("piano",)), np.zeros(1, np.uint8)) == []
    check_vocabulary(silent, class_set(("piano",)))


def test_a_note_names_its_class_its_highest_score_and_who_knows_more():
    (note,) = describe_not_found(INFO, class_set(("road",), ("piano",)), np.array([3, 8], np.uint8))
    assert note == "nothing of 'piano' was found (highest score 0.03): fake was trained on road, water; SAM 3 (--model sam3) takes any text"


@pytest.mark.parametrize(("highest", "found"), [(126, False), (127, True), (254, True)])
def test_found_is_what_reaches_the_threshold_somewhere(highest, found):
    assert (describe_not_found(INFO, class_set(("piano",)), np.array([highest], np.uint8)) == []) is found


def test_one_familiar_word_is_enough_for_a_class():
    assert describe_not_found(INFO, class_set(("harbour", "lagoon")), np.zeros(1, np.uint8)) == []


def test_a_run_says_of_what_nothing_was_found_and_keeps_it(make_scene, settings_for):
    settings = settings_for(make_scene(), classes=("road", "piano", "water"), model=f"{MODEL}faint")
    first, second = Listener(), Listener()
    summary = run(settings, first)
    with rasterio.open(Path(summary["out"]) / "scores.tif") as file:
        scores = file.read(2)
    highest = scores[scores != 255].max() / 254
    assert 0 < highest < 0.5
    planned, found = f"'piano': {_TRAINED}", f"nothing of 'piano' was found (highest score {highest:.2f}): {_TRAINED}"
    said = [note for note in first.notes if "piano" in note]
    assert [note.split(", and what")[0].split(";")[0] for note in said] == [planned, found]
    assert [note for note in summary["notes"] if "piano" in note] == said
    assert json.loads((Path(summary["out"]) / "run.json").read_text())["notes"] == summary["notes"]
    assert "nothing of &#x27;piano&#x27; was found" in (Path(summary["out"]) / "report.html").read_text()
    run(settings, second)
    assert [note for note in second.notes if "piano" in note] == said


def test_a_run_that_finds_an_unfamiliar_word_says_no_more_than_its_plan_did(make_scene, settings_for):
    listener = Listener()
    summary = run(settings_for(make_scene(), classes=("road", "piano"), model=f"{MODEL}clear"), listener)
    assert summary["classes"][1]["pixels"] > 0
    assert [note for note in summary["notes"] if "piano" in note] == [note for note in listener.notes if "piano" in note]
    assert sum("piano" in note for note in summary["notes"]) == 1


def test_only_what_lies_in_the_area_counts(make_scene, settings_for, tmp_path):
    pixels = np.full((3, 128, 128), 20, np.uint8)
    pixels[:, 64:, 64:] = random_pixels(64, 64) // 4 + 200
    scene = make_scene(pixels=pixels)
    where = shapely.box(500_000, 5_300_000 - 30, 500_030, 5_300_000)
    gpd.GeoDataFrame(geometry=[where], crs=32632).to_file(tmp_path / "aoi.gpkg")
    summary = run(settings_for(scene, classes=("piano",), model=f"{MODEL}clear", aoi=str(tmp_path / "aoi.gpkg")))
    assert any("nothing of 'piano' was found" in note for note in summary["notes"])
    whole = run(settings_for(scene, classes=("piano",), model=f"{MODEL}clear", out=str(tmp_path / "outputs" / "whole")))
    assert not any("nothing of" in note for note in whole["notes"])


def test_an_area_where_nothing_was_observed_is_not_said_to_lack_anything(make_scene, settings_for, tmp_path):
    pixels = random_pixels()
    pixels[:, :, :100] = 0
    gpd.GeoDataFrame(geometry=[shapely.box(500_005, 5_299_950, 500_010, 5_299_990)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    scene = make_scene(pixels=pixels, nodata=0)
    flags = {"aoi": str(tmp_path / "aoi.gpkg"), "tile_px": 32, "overlap_px": 0}
    summary = run(settings_for(scene, classes=("piano",), model=f"{MODEL}faint", **flags))
    assert summary["pixels"]["observed"] == 0
    assert not any("nothing of" in note for note in summary["notes"])


def test_a_plan_and_a_dry_run_say_which_words_training_did_not_have(make_scene, settings_for, tmp_path):
    scene = make_scene()
    planned = plan_run(settings_for(scene, classes=("piano",), model=f"{MODEL}faint"))
    assert any(note.startswith("'piano': fake was trained on") for note in planned.notes)
    flags = ["--source", str(scene), "--classes", "road,piano", "--model", f"{MODEL}faint", "--out", str(tmp_path / "o" / "run")]
    done = CliRunner().invoke(app, ["run", *flags, "--dry-run"])
    assert done.exit_code == 0
    said = [line for line in done.output.splitlines() if "piano" in line]
    assert len(said) == 1
    assert said[0].startswith("note: 'piano': ")
