"""Nothing lost, nothing twice, nothing half-written: failures, kills, resumes, and two runs at once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from conftest import random_pixels
from run_folder import UNSEEN, everything, finished_tiles, labels_of

from rs_pipeline.errors import OutputError, RasterError, SegmenterError, StoreError
from rs_pipeline.run import run


def test_law_5_a_failed_tile_is_not_observed_and_is_listed(make_scene, settings_for):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    summary = run(settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"]))
    failed = {f["index"] for f in summary["tiles"]["failed"]}
    # 150 x 170 px in cores of 56: the bright spot is in the core of tile (1, 1) and in the context of those below and right of it.
    assert 1 * 4 + 1 in failed
    assert all(f["error"] == "RuntimeError: red is too much" for f in summary["tiles"]["failed"])
    labels = labels_of(summary["out"])
    for index in range(12):
        row, col = divmod(index, 4)
        core = labels[row * 56 : row * 56 + 56, col * 56 : col * 56 + 56]
        assert (core == UNSEEN).all() if index in failed else (core != UNSEEN).all()
    assert summary["status"] == "partial"
    assert summary["tiles"]["computed"] == 12 - len(failed)


def test_a_tile_that_cannot_be_read_does_not_take_its_batch_with_it(make_scene, settings_for, monkeypatch):
    from rs_pipeline.inference import OpenJob

    read_tile, tries = OpenJob.read_tile, []

    def read(opened, tile):
        if tile.index == 5:
            tries.append(tile.index)
            raise RasterError("readable pixels", "a damaged block", "Copy it again.")
        return read_tile(opened, tile)

    monkeypatch.setattr(OpenJob, "read_tile", read)
    summary = run(settings_for(make_scene(), **{"workers.batch_size": 4, "workers.retries": 2}))
    assert [f["index"] for f in summary["tiles"]["failed"]] == [5]
    assert summary["tiles"]["computed"] == summary["tiles"]["planned"] - 1
    assert len(tries) == 1 + 2


def test_a_partial_run_done_again_tries_only_what_failed(make_scene, settings_for, monkeypatch):
    import fake_segmenter

    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    settings = settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"])
    first = run(settings)
    monkeypatch.setattr(fake_segmenter.Failing, "segment", fake_segmenter.Pointwise.segment)
    second = run(settings)
    assert second["status"] == "complete"
    assert second["tiles"]["computed"] == len(first["tiles"]["failed"])
    assert second["tiles"]["reused"] == first["tiles"]["computed"]
    assert (labels_of(second["out"]) != UNSEEN).all()


@pytest.mark.parametrize(
    ("model", "message"), [("unloadable", "weights"), ("nonsense", "finite scores in"), ("absent", "package.module:callable")]
)
def test_a_model_that_never_works_is_an_error_and_leaves_no_run_folder(make_scene, settings_for, model, message):
    settings = settings_for(make_scene(), model=f"fake_segmenter:{model}")
    with pytest.raises(SegmenterError, match=message):
        run(settings)
    assert not Path(settings.out).exists()
    assert not list(Path(settings.out).parent.glob(".run.part-*"))


def test_the_same_run_again_computes_nothing(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(tmp_path / "log"))
    scene = make_scene()
    first = run(settings_for(scene, model="fake_segmenter:counting"))
    made = everything(first["out"])
    shutil.rmtree(first["out"])
    second = run(settings_for(scene, model="fake_segmenter:counting"))
    assert len((tmp_path / "log").read_text().split()) == first["tiles"]["planned"] == second["tiles"]["reused"]
    assert everything(second["out"]) == made
    third = run(settings_for(scene, model="fake_segmenter:counting"))
    assert third["finished"] == second["finished"]


def test_a_new_colour_computes_nothing_a_new_prompt_everything(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(tmp_path / "log"))
    scene = make_scene()
    vocabulary = tmp_path / "mine.yaml"
    planned = 0
    for number, (colour, prompt, tiles) in enumerate([("#ff0000", "road", 1), ("#00ff00", "road", 1), ("#00ff00", "street", 2)]):
        vocabulary.write_text(f'road: {{prompts: [{prompt}], colour: "{colour}"}}\n')
        flags = {"model": "fake_segmenter:counting", "vocabulary": str(vocabulary), "classes": ("road",)}
        summary = run(settings_for(scene, out=str(tmp_path / "outputs" / str(number)), **flags))
        planned = summary["tiles"]["planned"]
        assert len((tmp_path / "log").read_text().split()) == tiles * planned
    assert planned > 1


def test_law_4_after_a_kill_the_same_command_makes_the_same_bytes(make_scene, settings_for, tmp_path):
    scene = make_scene()
    fresh = everything(run(settings_for(scene, out=str(tmp_path / "fresh" / "run")))["out"])
    out = tmp_path / "killed" / "run"
    command = [
        sys.executable, "-m", "rs_pipeline", "run", "--source", str(scene), "--classes", "road,water,building", "--model",
        "fake_segmenter:pointwise", "--out", str(out), "--cluster", "in-process", "--batch-size", "1",
    ]  # fmt: skip
    seen = set()
    for wanted in (1, 5, 11):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(finished_tiles(out)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.wait()
        seen.add(len(finished_tiles(out)))
        assert not out.exists() or (out / "run.json").is_file()
    assert max(seen) >= 5
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert everything(out) == fresh
    assert [p.name for p in out.parent.glob(".run.*")] == []


@pytest.mark.parametrize("stage", ["rs_pipeline.run.stitch", "rs_pipeline.run.vectorize", "rs_pipeline.run.write_manifest"])
def test_law_8_a_run_that_breaks_at_any_stage_leaves_no_folder(make_scene, settings_for, monkeypatch, stage):
    def broken(*args, **kwargs):
        raise OutputError("room", "No space left on device", "Free some.")

    monkeypatch.setattr(stage, broken)
    settings = settings_for(make_scene())
    with pytest.raises(OutputError, match="No space left"):
        run(settings)
    assert sorted(p.name for p in Path(settings.out).parent.iterdir()) == [".tiles"]
    monkeypatch.undo()
    assert run(settings)["tiles"]["reused"] > 0


@pytest.mark.parametrize("cluster", ["in-process", "local"])
def test_a_store_that_cannot_be_written_stops_the_run_and_keeps_what_is_done(make_scene, settings_for, monkeypatch, cluster):
    settings = settings_for(make_scene(), **{"workers.batch_size": 1, "workers.cluster": cluster, "workers.count": 1})
    from rs_pipeline.plan import plan_run

    store = Path(plan_run(settings).job.store.where)
    store.mkdir(parents=True)
    (store / "r00001").write_text("a file where the second row of tiles should go, whoever writes it")
    with pytest.raises(StoreError, match="what is done stays"):
        run(settings)
    assert not Path(settings.out).exists()
    done = len(list(store.rglob("*.npy")))
    (store / "r00001").unlink()
    summary = run(settings)
    assert summary["tiles"]["reused"] >= done > 0
    assert summary["status"] == "complete"


def test_what_was_under_the_name_stays_until_the_new_is_whole(make_scene, settings_for, monkeypatch):
    settings = settings_for(make_scene())
    before = everything(run(settings)["out"])
    other = settings_for(make_scene("other.tif", random_pixels(seed=1)))
    with pytest.raises(OutputError, match="overwrite=true"):
        run(other)
    replacing = other.model_copy(update={"overwrite": True})
    with monkeypatch.context() as broken:
        broken.setattr("rs_pipeline.run.vectorize", lambda *a: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            run(replacing)
    assert everything(settings.out) == before
    run(replacing)
    assert everything(settings.out) != before


def test_a_folder_of_something_else_is_never_touched(make_scene, settings_for):
    settings = settings_for(make_scene())
    Path(settings.out).mkdir(parents=True)
    (Path(settings.out) / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="something else"):
            run(settings.model_copy(update={"overwrite": overwrite}))
    assert (Path(settings.out) / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_refused_before_the_first_tile(make_scene, settings_for, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs").chmod(0o500)
    with pytest.raises(OutputError, match="a place that can be written"):
        run(settings_for(make_scene()))


def test_an_output_below_a_file_is_refused_before_the_first_tile(make_scene, settings_for, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a place that can be written"):
        run(settings_for(make_scene(), out=str(tmp_path / "file" / "run")))


def test_too_little_disk_is_refused_before_the_first_tile(make_scene, settings_for, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OutputError, match="GB of free disk"):
        run(settings_for(make_scene()))


def test_too_little_disk_for_tiles_that_go_elsewhere_is_told_of_that_disk(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setattr("rs_pipeline.plan.on_one_disk", lambda *paths: False)
    (tmp_path / "fast").mkdir()
    free = {str(tmp_path / "fast"): 1000}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free.get(str(path), 10**12)))
    with pytest.raises(OutputError, match=r"GB of free disk for the tiles of .*fast"):
        run(settings_for(make_scene(), store=str(tmp_path / "fast")))


def test_a_source_that_changes_during_the_run_publishes_nothing(make_scene, settings_for, monkeypatch):
    scene = make_scene()
    settings = settings_for(scene)
    from rs_pipeline import run as pipeline

    original = pipeline.vectorize

    def touching(*args):
        result = original(*args)
        os.utime(scene, ns=(1, 1))
        return result

    monkeypatch.setattr(pipeline, "vectorize", touching)
    with pytest.raises(RasterError, match="which changed"):
        run(settings)
    assert not Path(settings.out).exists()


def test_two_runs_of_the_same_at_once_are_refused(make_scene, settings_for):
    from rs_pipeline.plan import plan_run
    from rs_pipeline.store import TileStore

    settings = settings_for(make_scene())
    with TileStore(plan_run(settings).job.store).lock(), pytest.raises(StoreError, match="one run at a time"):
        run(settings)


def test_a_new_sidecar_is_another_run(make_scene, settings_for, tmp_path):
    scene = make_scene()
    gpd.GeoDataFrame(geometry=[shapely.box(500_020, 5_299_950, 500_050, 5_299_980)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    aoi = {"aoi": str(tmp_path / "aoi.gpkg"), "gsd_m": 0.5}
    first = run(settings_for(scene, **aoi))
    shifted = "<PAMDataset><GeoTransform>500010, 0.5, 0, 5300000, 0, -0.5</GeoTransform></PAMDataset>"
    scene.with_name(scene.name + ".aux.xml").write_text(shifted)
    second = run(settings_for(scene, out=str(tmp_path / "outputs" / "shifted"), **aoi))
    assert second["tiles"]["reused"] == 0
    assert first["run_key"] != second["run_key"]


def test_a_run_killed_while_it_replaced_another_loses_neither(make_scene, settings_for):
    settings = settings_for(make_scene())
    before = everything(run(settings)["out"])
    out = Path(settings.out)
    out.rename(out.parent / ".run.old")
    (out.parent / ".run.part-dead_run").mkdir()
    again = run(settings)
    assert everything(again["out"]) == before
    assert sorted(p.name for p in out.parent.iterdir()) == [".tiles", "run"]


def test_two_runs_into_one_folder_at_once_are_refused_at_the_start(make_scene, settings_for):
    from rs_pipeline.products import staged

    settings = settings_for(make_scene())
    with staged(Path(settings.out), replace=False) as live:
        with pytest.raises(OutputError, match="no other run writes"):
            run(settings)
        assert live.is_dir()


def test_an_interrupt_is_told_in_one_line_and_kept_work_goes_on(make_scene, settings_for, tmp_path):
    command = [
        sys.executable, "-m", "rs_pipeline", "run", "--source", str(make_scene(pixels=random_pixels(700, 700))), "--classes", "road",
        "--model", "fake_segmenter:slow", "--out", str(tmp_path / "o" / "run"), "--cluster", "in-process", "--batch-size", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not finished_tiles(tmp_path / "o" / "run") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("rs-seg: interrupted; what is finished is kept")
    assert [p.name for p in (tmp_path / "o").iterdir()] == [".tiles"]
