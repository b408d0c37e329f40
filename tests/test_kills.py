"""Law 4 the hard way: SIGKILL at random moments, and the same command makes the same bytes."""

import random
import shutil
import time
from contextlib import suppress

import psutil
import pytest
from conftest import random_pixels
from forked_runs import nursery
from run_folder import everything, finished_tiles

SERIES = (1, 1, 1, 1, 1, 1, 2, 3, 4, 5)
"""So many kills in a row, each of a run that goes on from what the one before left; then the run may end, and all starts over."""


@pytest.fixture
def flags_for(make_scene, tmp_path):
    scene = make_scene(pixels=random_pixels(200, 220))

    def flags(name, **more):
        base = {"source": [str(scene)], "classes": ["road", "water", "building"], "model": "fake_segmenter:pausing"}
        return base | {"out": str(tmp_path / name / "run"), "workers.cluster": "in-process", "workers.batch_size": 1} | more

    return flags


def what_is_visible(outputs):
    """Names beside the tile store, without what half-written run folders are called."""
    return {path.name for path in outputs.iterdir() if not path.name.startswith(".run.part-")} if outputs.exists() else set()


def test_law_4_twenty_kills_at_any_moment_change_no_byte(flags_for, tmp_path):
    moments, outputs, tiles_at_death, kills = random.Random(4), tmp_path / "killed", [], 0
    with nursery() as start:
        began = time.monotonic()
        planned = start(flags_for("fresh")).end()["summary"]["tiles"]["planned"]
        seconds, fresh = time.monotonic() - began, everything(tmp_path / "fresh" / "run")
        for in_a_row in SERIES:
            left = in_a_row
            while left:
                child = start(flags_for("killed"))
                if not kills:  # however slow the first run was, by which the other moments are chosen: one dies over its tiles
                    wait_for(lambda: finished_tiles(outputs / "run"))
                ending = child.kill_after(moments.uniform(0, seconds) if kills else 0)
                assert what_is_visible(outputs) <= {".tiles", "run"}
                if (outputs / "run").exists():
                    assert everything(outputs / "run") == fresh, "a run folder under its name is complete"
                    shutil.rmtree(outputs / "run")  # or the next run has nothing to do
                if ending.get("error") == "killed":
                    tiles_at_death.append(len(finished_tiles(outputs / "run")))
                    left, kills = left - 1, kills + 1
            summary = start(flags_for("killed")).end()["summary"]
            assert summary["status"] == "complete"
            assert everything(outputs / "run") == fresh
            assert sorted(p.name for p in outputs.iterdir()) == [".tiles", "run"]
            assert list((outputs / ".tiles").rglob(".*")) == []
            shutil.rmtree(outputs)
    assert kills == sum(SERIES) == 20
    assert any(0 < tiles < planned for tiles in tiles_at_death), "some died over their tiles"
    assert any(tiles == planned for tiles in tiles_at_death), "some after them"


def workers_of(child):
    found = psutil.Process(child.pid).children(recursive=True)
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]


def wait_for(done, seconds=60):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


def test_law_4_dead_workers_and_a_dead_run_of_a_local_cluster_change_no_byte(flags_for, tmp_path, monkeypatch):
    monkeypatch.setenv("RS_SEG_TEST_PAUSE_S", "0.1")
    moments, out = random.Random(5), tmp_path / "killed" / "run"
    local = {"workers.cluster": "local", "workers.count": 2}
    with nursery() as start:
        start(flags_for("fresh")).end()
        fresh = everything(tmp_path / "fresh" / "run")[1:]
        # The run dies; its workers notice and go.
        child = start(flags_for("killed", **local))
        wait_for(lambda: len(finished_tiles(out)) >= 2)
        orphans = workers_of(child)
        assert child.kill_after(0)["error"] == "killed"
        done = len(finished_tiles(out))
        assert 2 <= done < 20
        wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in orphans))
        # The same command; its workers die one after another.
        child = start(flags_for("killed", **local))
        for more in (1, 3):
            wait_for(lambda wanted=done + more: len(finished_tiles(out)) >= wanted)
            time.sleep(moments.uniform(0, 0.1))
            moments.choice(workers_of(child)).kill()
        summary = child.end()["summary"]
        assert summary["tiles"]["reused"] >= done
        if summary["status"] == "partial":  # it was killed over a tile that was tried alone: the tile is blamed, and tried again
            summary = start(flags_for("killed", **local)).end()["summary"]
    assert summary["status"] == "complete"
    assert everything(out)[1:] == fresh


def test_cleaning_while_runs_begin_and_end_spoils_none(flags_for, tmp_path):
    from rs_pipeline.clean import clean
    from rs_pipeline.errors import RsSegError

    outputs, moments, done, freed = tmp_path / "cleaned", random.Random(6), 0, 0
    with nursery() as start:
        start(flags_for("fresh")).end()
        fresh = everything(tmp_path / "fresh" / "run")
        for _ in range(12):
            child = start(flags_for("cleaned"))
            until = moments.uniform(0.05, 0.4)
            while child.elapsed() < until:
                with suppress(RsSegError):  # nothing there yet
                    freed += clean(outputs, abandoned=True).freed_bytes
            ending = child.end()
            if "summary" in ending:
                assert everything(outputs / "run") == fresh
                done += 1
                shutil.rmtree(outputs / "run")
            else:
                assert ending["error"] in {"StoreError", "OutputError"}, ending
                assert not (outputs / "run").exists()
    assert done > 0
    assert freed > 0
