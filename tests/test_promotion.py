"""An archive's adapters: the newest items teach, the same ones always judge, and only the better one is promoted."""

import json
from pathlib import Path

import pytest
from conftest import random_pixels
from typer.testing import CliRunner

from rs_pipeline.archive import find_agenda, open_archive, run_archive
from rs_pipeline.archive_books import AdapterBooks, current_adapter
from rs_pipeline.archive_config import load_archive
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.cli import app
from rs_pipeline.errors import ConfigError, NoSceneError, OutputError, SegmenterError
from rs_pipeline.locks import hold
from rs_pipeline.plan import plan_run
from rs_pipeline.promotion import adapt_archive, open_for_trial
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute


@pytest.fixture
def archive(dated_archive, monkeypatch):
    dated_archive["run"]["model"] = "fake_segmenter:adapting"
    dated_archive["adapt"] = {"held_out": 1, "newest": 1}
    monkeypatch.setenv("RS_SEG_TEST_PLAIN", "0.5")
    return dated_archive


@pytest.fixture
def attempt(archive, monkeypatch):
    def make(good, **changes):
        monkeypatch.setenv("RS_SEG_TEST_GOOD", str(good))
        return adapt_archive(open_for_trial(load_archive(archive | changes)), Silent())

    return make


def books_of(archive):
    return AdapterBooks(open_archive(archive).outputs)


def test_only_what_is_better_than_the_current_and_the_plain_model_is_promoted(archive, attempt):
    kept = [attempt(good)["promoted"] for good in (0.4, 0.5, 0.6, 0.55, 0.6, 0.7)]
    assert kept == [False, False, True, False, False, True]
    history = books_of(archive).history()
    assert [trial["number"] for trial in history] == [1, 2, 3, 4, 5, 6]
    assert [trial["consistency"]["current"] for trial in history] == [None, None, None, 0.6, 0.6, 0.6]
    assert current_adapter(open_archive(archive).outputs) == history[-1]["adapter"]


def test_an_adapter_that_failed_is_entered_and_changes_nothing(archive, attempt):
    attempt(0.7)
    before = current_adapter(open_archive(archive).outputs)
    trial = attempt(-1)
    assert "does not get worse" in trial["error"]
    assert not trial["promoted"]
    assert current_adapter(open_archive(archive).outputs) == before
    assert len(books_of(archive).history()) == 2


def test_the_newest_items_teach_and_the_held_out_ones_stay_the_same(archive, attempt, make_scene, tmp_path):
    first = attempt(0.6)
    assert (first["held_out"], first["items"]) == (["scenes/s_20240301"], ["scenes/s_20240201"])
    make_scene("images/new_20250101.tif", random_pixels(seed=11), nodata=0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    second = attempt(0.7)
    assert (second["held_out"], second["items"]) == (["scenes/s_20240301"], ["scenes/new_20250101"])


def test_the_book_takes_any_text(archive):
    books = books_of(archive)
    trials = [{"number": k, "promoted": k == 2, "error": "a\u2028b\u0085c\ud800 ü\nd"} for k in (1, 2)]
    for trial in trials:
        books.enter(trial)
    assert books.history() == trials
    assert books.current() == trials[1]


def test_too_few_items_and_a_held_out_one_that_is_gone_are_told(archive, attempt, tmp_path):
    with pytest.raises(NoSceneError, match="3, of which 3"):
        attempt(0.6, adapt={"held_out": 3})
    attempt(0.6)
    books_of(archive).keep_held_out(["scenes/elsewhere"])
    with pytest.raises(NoSceneError, match="without scenes/elsewhere"):
        attempt(0.6)


def test_an_adapter_for_other_classes_no_longer_counts(archive, attempt):
    attempt(0.9)
    trial = attempt(0.6, run=archive["run"] | {"classes": ["road", "building"]})
    assert trial["consistency"] == {"new": 0.6, "current": None, "plain": 0.5}
    assert trial["promoted"]


def test_one_trial_at_a_time(archive, attempt):
    books = books_of(archive)
    books.folder.mkdir(parents=True)
    with hold(books.folder / "trial.lock"), pytest.raises(OutputError, match="one trial at a time"):
        attempt(0.6)


def test_a_damaged_book_is_one_clear_line(archive, attempt):
    attempt(0.6)
    (books_of(archive).folder / "current.json").write_text("{")
    with pytest.raises(OutputError, match="book of adapters"):
        attempt(0.7)


def test_runs_wear_the_promoted_adapter_where_the_archive_says_so(archive, attempt):
    def work(changed):
        return run_archive(open_archive(changed), lambda settings: execute(plan_run(settings), Silent()), Silent())

    assert work(archive)["status"] == "complete"
    wearing = archive | {"adapt": archive["adapt"] | {"use": True}}
    assert find_agenda(open_archive(wearing)).todo == ()  # nothing is promoted yet
    trial = attempt(0.8)
    assert find_agenda(open_archive(archive)).todo == ()
    assert len(find_agenda(open_archive(wearing)).todo) == 3
    found = work(wearing)
    manifest = json.loads((open_archive(archive).outputs / found["items"][0]["item"] / "run.json").read_text())
    assert manifest["model"]["adapter"]["path"] == trial["adapter"]
    assert manifest["model"]["adapter"]["consistency"] == 0.8


def test_held_out_items_are_found_when_the_archive_no_longer_looks_back_to_them(archive, attempt, monkeypatch):
    attempt(0.6)
    archive["look_back_days"] = 36500
    books_of(archive).keep_held_out(["scenes/s_20240101"])
    assert attempt(0.7)["held_out"] == ["scenes/s_20240101"]
    archive["run"]["datetime"], archive["look_back_days"] = "2024-01-15/..", None
    trial = attempt(0.8)
    assert (trial["held_out"], trial["items"]) == (["scenes/s_20240101"], ["scenes/s_20240301"])


def test_an_adapter_that_no_longer_fits_stops_the_archive_and_not_a_trial(archive, attempt):
    wearing = archive | {"adapt": archive["adapt"] | {"use": True}}
    attempt(0.8)
    more = wearing | {"run": wearing["run"] | {"classes": ["road", "water", "building"]}}
    with pytest.raises(SegmenterError, match="building, which it was not made for"):
        open_archive(more)
    assert attempt(0.6, **more)["promoted"]
    open_archive(more)
    Path(current_adapter(open_archive(archive).outputs)).unlink()
    with pytest.raises(SegmenterError, match="an adapter file"):
        open_archive(more)
    assert attempt(0.6, **more)["promoted"]


def test_a_trial_over_blank_items_is_entered(archive, attempt, make_scene, tmp_path):
    attempt(0.6)
    make_scene("images/blank_20250101.tif", random_pixels() * 0, nodata=0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    trial = attempt(0.7)
    assert "valid pixel" in trial["error"]
    assert len(books_of(archive).history()) == 2


def test_unknown_keys_of_the_adaptation_are_refused(archive, attempt):
    with pytest.raises(ConfigError, match="a mapping under adapt"):
        open_archive(archive | {"adapt": 5})
    with pytest.raises(ConfigError, match="newst"):
        open_archive(archive | {"adapt": {"newst": 3}})
    with pytest.raises(ConfigError, match="stepz"):
        attempt(0.5, adapt={"settings": {"stepz": 3}})


def test_the_command_line_tells_what_became_of_it(archive, tmp_path, monkeypatch):
    path = tmp_path / "archive.yaml"
    path.write_text(json.dumps(archive))
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.8")
    result = CliRunner().invoke(app, ["archive", "adapt", str(path)])
    assert result.exit_code == 0, result.output
    assert "promoted" in result.stdout
    assert "new 0.8000, current -, plain 0.5000" in result.stdout
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "-1")
    result = CliRunner().invoke(app, ["archive", "adapt", str(path), "--json"])
    assert result.exit_code == 1
    assert "does not get worse" in json.loads(result.stdout)["error"]
