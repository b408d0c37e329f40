"""Disks that fill up, permissions that go, scenes that are cut short: one line, nothing published, and the run goes on later."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pixels
from forked_runs import nursery
from run_folder import everything, finished_tiles

from rs_pipeline.errors import OutputError, RasterError, StoreError
from rs_pipeline.inference import OpenJob
from rs_pipeline.places import LocalPlace
from rs_pipeline.run import run

NOISY = ["scoring.threshold=0.999", "vectors.min_area_m2=2", "vectors.block_px=128"]
"""Rasters that do not compress, and layers that are smaller than they."""


@pytest.fixture(scope="module")
def start():
    with nursery() as start:
        yield start


@pytest.fixture
def flags_for(make_scene, tmp_path):
    scene = make_scene(pixels=np.random.default_rng(0).integers(1, 255, (3, 400, 400), dtype=np.uint8))

    def flags(outputs, **more):
        base = {"source": [str(scene)], "classes": ["road", "water", "building"], "model": "fake_segmenter:pointwise"}
        return base | {"out": str(outputs / "run"), "workers.cluster": "in-process", "workers.batch_size": 1} | more

    return flags


def published(outputs):
    return sorted(path.name for path in outputs.iterdir() if path.name != ".tiles")


def is_told(ending):
    """An error of ours, in one line."""
    return ending.get("error") in {"StoreError", "OutputError"} and "\n" not in ending["message"]


@pytest.mark.parametrize(
    ("file_bytes", "what"), [(10_000, "t00000000.npy"), (100_000, "layers.gpkg"), (250_000, "scores"), (300_000, "scores")]
)
def test_files_that_may_not_grow_are_told_of_and_the_run_goes_on_when_they_may(start, flags_for, tmp_path, file_bytes, what):
    fresh, outputs = start(flags_for(tmp_path / "fresh"), NOISY).end()["summary"], tmp_path / "outputs"
    ending = start(flags_for(outputs), NOISY, file_bytes=file_bytes).end()
    assert is_told(ending), ending
    assert what in ending["message"]
    assert published(outputs) == []
    done = len(finished_tiles(outputs / "run"))
    summary = start(flags_for(outputs), NOISY).end()["summary"]
    assert summary["tiles"]["reused"] == done
    assert everything(summary["out"]) == everything(fresh["out"])


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of so many kilobytes, until it is told to be of others."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(kilobytes, how="remount,"):
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here")
        return folder

    resize(400, "")
    yield resize
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_at_any_stage_publishes_nothing_that_differs(start, flags_for, tmp_path, small_disk):
    start(flags_for(tmp_path / "fresh"), NOISY).end()
    fresh, told = everything(tmp_path / "fresh" / "run"), []
    for kilobytes in range(400, 4000, 150):
        outputs = small_disk(kilobytes)
        ending = start(flags_for(outputs), NOISY).end()
        if "summary" in ending:
            assert everything(outputs / "run") == fresh
            break
        assert is_told(ending), ending
        assert published(outputs) == []
        told.append(ending["message"])
    else:
        pytest.fail("no disk was large enough")
    for stage in (".npy", "layers.gpkg", "scores.tif"):
        assert any(stage in message for message in told), stage


@pytest.mark.parametrize("name", ["run.json", "complete", "runs"])
def test_a_disk_that_is_full_for_the_last_small_files_is_told_of(make_scene, settings_for, monkeypatch, name):
    settings, full = settings_for(make_scene()), OSError(errno.ENOSPC, "No space left on device")
    write, write_text = LocalPlace.write, Path.write_text

    def place_write(place, file, *parts):
        if name in {file, place.name}:
            raise StoreError("room", str(full), "Free some.")
        write(place, file, *parts)

    def path_write(path, *args, **kwargs):
        if name in path.name:
            raise full
        return write_text(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "write", place_write)
        patch.setattr(Path, "write_text", path_write)
        with pytest.raises((StoreError, OutputError), match="No space left"):
            run(settings)
    assert published(Path(settings.out).parent) == []
    assert run(settings)["status"] == "complete"


def test_a_store_that_cannot_be_told_of_the_end_keeps_no_run_from_ending(make_scene, settings_for, monkeypatch):
    from rs_pipeline.records import RunRecord
    from rs_pipeline.survey import survey

    def full(record):
        raise StoreError("room", "No space left on device", "Free some.")

    monkeypatch.setattr(RunRecord, "ended", full)
    settings = settings_for(make_scene())
    assert run(settings)["status"] == "complete"
    assert [s.state for s in survey(Path(settings.out))] == ["finished"]


@pytest.mark.parametrize("lost", ["store", "outputs"])
def test_permissions_that_go_during_the_run_are_told_of_and_the_run_goes_on_when_they_are_back(
    start, flags_for, tmp_path, monkeypatch, lost
):
    outputs = tmp_path / "outputs"
    child = start(flags_for(outputs, model="fake_segmenter:pausing"), NOISY, mortal=True)
    while len(finished_tiles(outputs / "run")) < 5:
        assert child.elapsed() < 60
    folders = [outputs] if lost == "outputs" else [p for p in (outputs / ".tiles").rglob("*") if p.is_dir()]
    for folder in folders:
        folder.chmod(0o500)
    ending = child.end()
    for folder in folders:
        folder.chmod(0o700)
    assert is_told(ending), ending
    assert "Permission denied" in ending["message"]
    assert "run" not in published(outputs)
    done = len(finished_tiles(outputs / "run"))
    summary = start(flags_for(outputs, model="fake_segmenter:pausing"), NOISY, mortal=True).end()["summary"]
    assert summary["status"] == "complete"
    assert summary["tiles"]["reused"] == done >= 5
    assert published(outputs) == ["run"]


@pytest.mark.parametrize("same_time", [True, False])
def test_a_scene_that_is_cut_short_during_the_run_publishes_nothing_and_the_run_goes_on_with_the_whole_one(
    make_scene, settings_for, monkeypatch, tmp_path, same_time
):
    import fake_segmenter

    scene = make_scene(pixels=random_pixels(300, 300))
    fresh = run(settings_for(scene, out=str(tmp_path / "fresh" / "run")))
    settings = settings_for(scene, **{"workers.batch_size": 1, "workers.ahead": 1})
    content, times, segment, tiles = scene.read_bytes(), scene.stat(), fake_segmenter.Pointwise.segment, []

    def cutting(*batch):
        tiles.append(batch)
        if len(tiles) == 5:
            scene.write_bytes(content[: len(content) // 2])
        return segment(*batch)

    with monkeypatch.context() as patch:
        patch.setattr(fake_segmenter.Pointwise, "segment", cutting)
        with pytest.raises(RasterError, match=r"sources that stay as they are.*scene\.tif, which changed"):
            run(settings)
    assert published(Path(settings.out).parent) == []
    with pytest.raises(RasterError, match="a whole file"):
        run(settings)
    scene.write_bytes(content)
    if same_time:
        os.utime(scene, ns=(times.st_atime_ns, times.st_mtime_ns))
    summary = run(settings)
    assert summary["tiles"]["reused"] == (5 if same_time else 0)
    assert everything(summary["out"])[1:] == everything(fresh["out"])[1:]


def test_of_a_scene_that_is_exchanged_for_a_moment_no_tile_stays(make_scene, settings_for, monkeypatch):
    scene = make_scene()
    settings = settings_for(scene, **{"workers.batch_size": 1, "workers.ahead": 1})
    read_tile, times = OpenJob.read_tile, scene.stat()

    def exchanged(opened, tile):
        image = read_tile(opened, tile)
        if tile.index == 7:
            os.utime(scene, ns=(1, 1))
        return image

    with monkeypatch.context() as patch:
        patch.setattr(OpenJob, "read_tile", exchanged)
        with pytest.raises(RasterError, match="which changed"):
            run(settings)
    assert len(finished_tiles(settings.out)) == 7
    os.utime(scene, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(settings)["tiles"]["reused"] == 7
