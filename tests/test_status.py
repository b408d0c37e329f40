"""`rs-seg status` and `rs-seg clean`: what there is, and what goes."""

import json
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import random_pixels
from run_folder import everything, finished_tiles

from rs_pipeline.clean import clean
from rs_pipeline.cli import main
from rs_pipeline.errors import OutputError, SegmenterError
from rs_pipeline.groups import held
from rs_pipeline.plan import plan_run
from rs_pipeline.products import staged
from rs_pipeline.run import run
from rs_pipeline.survey import survey, survey_store
from rs_pipeline.two_dates import settings_of_dates


def rs_seg(capsys, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rs-seg", *(str(a) for a in args)])
        with pytest.raises(SystemExit) as left:
            main()
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.fixture
def break_off(monkeypatch):
    """Runs until the tiles are there, and no further."""

    def broken(settings, tiles=None):
        with monkeypatch.context() as patch:
            patch.setattr("rs_pipeline.run.stitch", lambda *args: (_ for _ in ()).throw(SegmenterError("a", "b", "c")))
            with pytest.raises(SegmenterError):
                run(settings)
        store = Path(plan_run(settings).job.store.where)
        for path in sorted(store.rglob("t*.npy"))[tiles:] if tiles is not None else ():
            path.unlink()
            (store / "complete").unlink(missing_ok=True)

    return broken


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


@contextmanager
def at_work(settings):
    """A run in the middle of its tiles, as another process would see it."""
    plan = plan_run(settings)
    with suppress(KeyboardInterrupt), held(plan.work), staged(plan.out, replace=False):
        yield
        raise KeyboardInterrupt


def test_a_finished_run_is_told_with_its_tiles_and_its_store(make_scene, settings_for, outputs):
    planned = run(settings_for(make_scene()))["tiles"]["planned"]
    [status] = survey(outputs)
    assert (status.out, status.state, status.classes) == (str(outputs / "run"), "finished", ("road", "water", "building"))
    assert (status.planned, status.done, status.empty, status.left, status.failed) == (planned, planned, 0, 0, ())
    tiles = sum(path.stat().st_size for path in finished_tiles(outputs / "run"))
    assert tiles < status.store_bytes < tiles + 10_000
    assert status.store.startswith(str(outputs / ".tiles"))
    assert not status.held
    assert survey(outputs / "run") == [status]


def test_a_killed_run_is_told_with_what_it_was_for_and_goes_on(make_scene, settings_for, outputs, break_off, capsys):
    settings = settings_for(make_scene())
    break_off(settings, tiles=5)
    for where in (outputs, outputs / "run"):
        [status] = survey(where)
        assert (status.out, status.state, status.classes) == (str(outputs / "run"), "unfinished", ("road", "water", "building"))
        assert (status.planned, status.done, status.left) == (12, 5, 7)
    code, out, _ = rs_seg(capsys, "status", outputs)
    assert code == 0
    assert "road, water, building): give the same command again, it goes on from there" in out
    assert run(settings)["tiles"]["reused"] == 5
    assert [s.state for s in survey(outputs)] == ["finished"]


def test_empty_tiles_are_counted_apart(make_scene, settings_for, outputs, break_off):
    pixels = random_pixels()
    pixels[:, :60, :60] = 0
    settings = settings_for(make_scene(pixels=pixels, nodata=0))
    break_off(settings)
    [status] = survey(outputs)
    assert (status.planned, status.done, status.empty, status.left) == (12, 11, 1, 0)
    run(settings)
    [status] = survey(outputs)
    assert (status.planned, status.done, status.empty, status.left) == (12, 11, 1, 0)


def test_a_partial_run_is_told_with_the_errors_of_its_tiles(make_scene, settings_for, outputs, capsys):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    summary = run(settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"]))
    code, out, _ = rs_seg(capsys, "status", outputs, "--json")
    [status] = json.loads(out)
    assert (code, status["state"], status["failed"]) == (0, "partial", summary["tiles"]["failed"])
    assert status["left"] == len(summary["tiles"]["failed"])
    assert "RuntimeError: red is too much" in rs_seg(capsys, "status", outputs)[1]


def test_who_is_at_work_is_told_and_nothing_of_his_is_cleaned(make_scene, settings_for, outputs, break_off):
    settings = settings_for(make_scene())
    break_off(settings)
    with at_work(settings):
        assert [s.held for s in survey(outputs)] == [True]
        for dry_run in (True, False):
            cleaned = clean(outputs, abandoned=True, dry_run=dry_run)
            assert cleaned.removed == []
            assert {kept.why for kept in cleaned.kept} == {"a process is at work on it"}
            assert len(cleaned.kept) == 2
    assert [s.held for s in survey(outputs)] == [False]
    assert run(settings)["tiles"]["computed"] == 0


def test_looking_refuses_nobody(make_scene, settings_for, outputs):
    import threading

    settings = settings_for(make_scene(), model="fake_segmenter:slow")
    stop, looks = threading.Event(), []

    def look():
        while not stop.is_set():
            with suppress(OutputError):  # nothing there yet
                looks.extend(survey(outputs))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        assert run(settings)["status"] == "complete"
    finally:
        stop.set()
        watcher.join()
    assert {look.state for look in looks} == {"unfinished", "finished"}
    assert any(look.held for look in looks)


def test_a_run_that_was_moved_away_is_not_unfinished(make_scene, settings_for, outputs, tmp_path):
    run(settings_for(make_scene()))
    (outputs / "run").rename(tmp_path / "mine")
    assert [s.state for s in survey(outputs)] == ["moved"]
    (tmp_path / "mine").rename(outputs / "renamed")
    assert [(s.state, s.out) for s in survey(outputs)] == [("finished", str(outputs / "renamed"))]
    assert len(clean(outputs).removed) == 1


def test_a_run_that_was_replaced_is_told_of_no_more_and_its_tiles_go(make_scene, settings_for, outputs):
    run(settings_for(make_scene()))
    run(settings_for(make_scene("other.tif", random_pixels(seed=1)), overwrite=True))
    assert [s.state for s in survey(outputs)] == ["finished"]
    assert len(clean(outputs).removed) == 2


def test_clean_removes_the_tiles_of_finished_runs_and_the_run_stays_done(make_scene, settings_for, outputs, break_off, capsys):
    settings = settings_for(make_scene())
    before = everything(run(settings)["out"])
    other = settings_for(make_scene("other.tif", random_pixels(seed=1)), out=str(outputs / "other"))
    break_off(other)
    size = survey(outputs / "run")[0].store_bytes
    assert [r.bytes for r in clean(outputs, dry_run=True).removed] == [size]
    code, out, _ = rs_seg(capsys, "clean", outputs, "--json")
    report = json.loads(out)
    assert (code, report["freed_bytes"]) == (0, size)
    assert [(kept["run"], kept["why"]) for kept in report["kept"]] == [(str(outputs / "other"), "is unfinished; --all removes it")]
    assert everything(outputs / "run") == before
    assert [(s.state, s.store_bytes > 0) for s in survey(outputs)] == [("finished", False), ("unfinished", True)]
    assert run(settings)["finished"] == json.loads((outputs / "run" / "run.json").read_text())["finished"]
    assert run(other)["tiles"]["computed"] == 0


def test_clean_all_removes_abandoned_stores_and_half_written_folders(make_scene, settings_for, outputs, break_off):
    settings = settings_for(make_scene())
    break_off(settings)
    left = outputs / ".run.part-a1b2c3d4"
    left.mkdir()
    (left / "labels.part.tif").write_bytes(b"half" * 1000)
    assert clean(outputs, dry_run=True).freed_bytes == 4000
    assert clean(outputs).freed_bytes == 4000
    assert [p.name for p in outputs.iterdir()] == [".tiles"]
    assert clean(outputs, abandoned=True).freed_bytes > 4000
    assert list(outputs.iterdir()) == []
    assert run(settings)["tiles"]["reused"] == 0


def test_a_partial_run_keeps_its_tiles_unless_all_is_said(make_scene, settings_for, outputs):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    run(settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"]))
    assert clean(outputs).removed == []
    assert len(clean(outputs, abandoned=True).removed) == 1
    assert not (outputs / ".tiles").exists()


def test_only_the_run_that_is_named_is_cleaned(make_scene, settings_for, outputs):
    run(settings_for(make_scene()))
    run(settings_for(make_scene("other.tif", random_pixels(seed=1)), out=str(outputs / "other")))
    assert len(clean(outputs / "other").removed) == 1
    assert {Path(s.out).name: s.store_bytes > 0 for s in survey(outputs)} == {"run": True, "other": False}


def test_of_two_runs_over_one_place_only_the_tiles_of_the_named_one_go(make_scene, settings_for, outputs):
    scene = make_scene()
    run(settings_for(scene, classes=("road",), model="fake_segmenter:by_word"))
    run(settings_for(scene, classes=("water",), model="fake_segmenter:by_word", out=str(outputs / "other")))
    assert len({s.store for s in survey(outputs)}) == 1
    assert len(clean(outputs / "other").removed) == 1
    assert {Path(s.out).name: s.store_bytes > 0 for s in survey(outputs)} == {"run": True, "other": False}


def test_a_store_of_an_older_version_goes_with_all(make_scene, settings_for, outputs):
    run(settings_for(make_scene()))
    old = outputs / ".tiles" / "0123456789abcdef" / "r00000"
    old.mkdir(parents=True)
    (old / "t00000000.npy").write_bytes(b"x" * 100)
    assert [kept.why for kept in clean(outputs).kept] == ["no run says that it is its own; --all removes it"]
    assert clean(outputs, abandoned=True).freed_bytes == 100
    assert not (outputs / ".tiles").exists()


def test_a_store_behind_a_link_is_emptied_and_the_link_stays(make_scene, settings_for, outputs, tmp_path):
    (tmp_path / "fast").mkdir()
    outputs.mkdir()
    (outputs / ".tiles").symlink_to(tmp_path / "fast")
    run(settings_for(make_scene()))
    assert len(clean(outputs).removed) == 1
    assert list((tmp_path / "fast").iterdir()) == []
    assert (outputs / ".tiles").is_symlink()


def test_what_is_not_ours_is_an_error_and_stays(tmp_path, capsys):
    mine = tmp_path / "mine" / ".tiles" / "thesis"
    mine.mkdir(parents=True)
    (mine / "lock").write_text("years of work")
    (tmp_path / "mine" / ".photos.part-1").write_text("a file")
    for command in (["status"], ["clean"], ["clean", "--all"]):
        for folder in (tmp_path / "mine", tmp_path / "none", tmp_path):
            code, out, err = rs_seg(capsys, *command, folder)
            assert (code, out) == (1, "")
            assert "nothing of the kind" in err
            assert len(err.strip().splitlines()) == 1
    with pytest.raises(OutputError, match="nothing of the kind"):
        clean(None, str(tmp_path / "mine"), abandoned=True)
    assert (mine / "lock").read_text() == "years of work"


def test_a_store_that_is_elsewhere_is_named(make_scene, settings_for, outputs, tmp_path, capsys):
    settings = settings_for(make_scene(), store=str(tmp_path / "fast"))
    run(settings)
    assert not (outputs / ".tiles").exists()
    assert [s.store_bytes > 0 for s in survey(outputs)] == [False]
    assert [s.store_bytes > 0 for s in survey(outputs, str(tmp_path / "fast"))] == [True]
    assert survey_store(str(tmp_path / "fast"))[0].out == str(outputs / "run")
    assert rs_seg(capsys, "clean", "--store", tmp_path / "fast")[0] == 0
    assert not (tmp_path / "fast").exists()
    shutil.rmtree(outputs / "run")
    assert run(settings)["tiles"]["reused"] == 0


@pytest.fixture
def compared(make_scene, settings_for, outputs):
    """Settings of two runs in one folder, as a comparison of two dates makes them."""
    before, _ = settings_of_dates(settings_for(make_scene(), out=str(outputs / "two"), datetime="2020-01-01"), "2024-01-01")
    after = settings_for(make_scene("other.tif", random_pixels(seed=1)), out=str(outputs / "two" / "b"), store=before.store)
    return before.model_copy(update={"datetime": None}), after


def test_runs_that_are_compared_are_told_and_cleaned_with_their_folder_and_with_the_one_above(compared, settings_for, outputs, make_scene):
    for settings in compared:
        run(settings)
    run(settings_for(make_scene("third.tif", random_pixels(seed=2)), out=str(outputs / "alone")))
    (outputs / "two" / "changes").mkdir()
    (outputs / "two" / "changes" / "changes.json").write_text("{}")
    both = [str(outputs / "two" / name) for name in "ab"]
    for folder, expected in ((outputs, [str(outputs / "alone"), *both]), (outputs / "two", both), (outputs / "two" / "a", both[:1])):
        found = survey(folder)
        assert [(s.out, s.state, s.store_bytes > 0) for s in found] == [(out, "finished", True) for out in expected]
    assert len(clean(outputs / "two" / "a").removed) == 1
    assert [s.store_bytes > 0 for s in survey(outputs)] == [True, False, True]
    assert len(clean(outputs / "two").removed) == 1
    assert [s.store_bytes > 0 for s in survey(outputs)] == [True, False, False]
    assert len(clean(outputs).removed) == 1
    assert not (outputs / ".tiles").exists()
    assert [s.state for s in survey(outputs)] == ["finished"] * 3


def test_a_killed_run_of_a_comparison_is_found_from_the_folder_above(compared, outputs, break_off, capsys):
    before, after = compared
    run(before)
    break_off(after, tiles=3)
    left = outputs / "two" / ".b.part-a1b2c3d4"
    left.mkdir()
    (left / "labels.part.tif").write_bytes(b"half" * 1000)
    for folder in (outputs, outputs / "two"):
        assert [(s.out, s.state) for s in survey(folder)] == [(before.out, "finished"), (after.out, "unfinished")]
    assert [(s.state, s.done) for s in survey(outputs / "two" / "b")] == [("unfinished", 3)]
    code, out, _ = rs_seg(capsys, "status", outputs)
    assert code == 0
    assert any(line.split()[:2] == [after.out, "unfinished"] for line in out.splitlines())  # whole, however long the path
    assert "two/b (road, water, building): give the same command again" in out
    cleaned = clean(outputs)
    assert str(left) in [removed.path for removed in cleaned.removed]
    assert [kept.run for kept in cleaned.kept] == [after.out]
    assert not left.exists()
    assert run(after)["tiles"]["reused"] == 3


def test_who_is_at_work_in_a_folder_below_is_told_and_left_alone(compared, outputs, break_off):
    _, after = compared
    break_off(after)
    with at_work(after):
        for folder in (outputs, outputs / "two"):
            assert [(s.state, s.held) for s in survey(folder)] == [("unfinished", True)]
            assert clean(folder, abandoned=True).removed == []
    assert run(after)["tiles"]["computed"] == 0


def test_tiles_beside_the_runs_of_single_scenes_are_found_from_the_folder_above(make_scene, settings_for, outputs):
    run(settings_for(make_scene(), out=str(outputs / "apart" / "scene")))
    assert (outputs / "apart" / ".tiles").is_dir()
    assert [(s.out, s.store_bytes > 0) for s in survey(outputs)] == [(str(outputs / "apart" / "scene"), True)]
    assert len(clean(outputs).removed) == 1
    assert not (outputs / "apart" / ".tiles").exists()


def test_runs_beside_a_folder_are_none_of_its_own(make_scene, settings_for, outputs, tmp_path):
    run(settings_for(make_scene()))
    (outputs / "mine").mkdir()
    for look in (survey, clean):
        with pytest.raises(OutputError, match="nothing of the kind"):
            look(outputs / "mine")
    (outputs / "mine" / "run.json").write_text('{"product": "rs-seg"}')
    assert [s.out for s in survey(outputs)] == [str(outputs / "run")]
