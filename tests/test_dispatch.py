"""The window of tasks over Dask's workers, with work that only takes time, and workers that die of theirs."""

import time
from pathlib import Path

import pytest
from conftest import random_pixels
from test_workers import free_port, running, wait_for_workers

from rs_pipeline import dispatch
from rs_pipeline.config import load_settings
from rs_pipeline.dispatch import infer
from rs_pipeline.errors import ClusterError
from rs_pipeline.inference import BatchResult
from rs_pipeline.run import run
from rs_pipeline.tasks import Task

AHEAD = 3


def nap(job_path, task, retries):
    time.sleep(0.05)
    return BatchResult(task.indices, (), ())


def settings(**workers):
    return load_settings(flags={f"workers.{key}": value for key, value in ({"ahead": AHEAD, "batch_size": 1} | workers).items()}).workers


@pytest.fixture
def cluster():
    from distributed import LocalCluster

    local = {"processes": False, "threads_per_worker": 2, "dashboard_address": None, "protocol": "tcp", "host": "127.0.0.1"}
    with LocalCluster(n_workers=1, **local) as started:
        yield started


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as started:
        yield started


def test_every_tile_comes_back_once_in_tasks_of_several_batches(client, tmp_path):
    results = []
    assert infer(client, tmp_path / "job.json", range(300), settings(), results.append, nap) == []
    assert sorted(index for result in results for index in result.done) == list(range(300))
    assert max(len(result.done) for result in results) == 32
    assert len(results[-1].done) == 1


def test_the_window_follows_workers_that_join_and_leave(client, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "ROLL_CALL_S", 0.05)
    seen = []

    def watch(result):
        seen.append((len(client.nthreads()), len(client.futures)))
        if len(seen) == 20:
            cluster.scale(3)
            client.wait_for_workers(3, timeout=30)
        if len(seen) == 80:
            cluster.scale(1)
            while len(client.nthreads()) > 1:
                time.sleep(0.01)

    infer(client, tmp_path / "job.json", range(150), settings(task_tiles=1), watch, nap)
    assert max(window for _, window in seen[:20]) <= AHEAD
    assert max(window for _, window in seen[25:80]) >= 3 * AHEAD - 1
    assert max(window for _, window in seen[100:]) <= AHEAD
    assert {workers for workers, _ in seen[100:]} == {1}


@pytest.fixture
def deserted(client, cluster, monkeypatch):
    """A client of a scheduler whose workers have all gone, and which is given up soon."""
    monkeypatch.setattr(dispatch, "DESERTED_S", 0.5)
    monkeypatch.setattr(dispatch, "ROLL_CALL_S", 0.1)
    cluster.scale(0)
    while client.nthreads():
        time.sleep(0.01)
    return client


def test_a_scheduler_that_nobody_works_for_is_given_up(deserted, tmp_path):
    with pytest.raises(ClusterError, match="a scheduler with workers; got none for"):
        infer(deserted, tmp_path / "job.json", range(10), settings(), lambda result: None, nap)


def test_nobody_waits_for_ever_for_the_workers_that_a_tile_has_killed(deserted, tmp_path):
    suspects = [Task((1, 2), 2)]
    with pytest.raises(ClusterError, match="a scheduler with workers; got none for"):
        list(dispatch._each_alone(deserted, tmp_path / "job.json", suspects, settings(), nap))


def test_a_scheduler_that_goes_away_ends_the_run_with_an_error_of_ours(tmp_path):
    from distributed import Client

    address = f"tcp://127.0.0.1:{free_port()}"
    options = ("--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--no-dashboard")
    worker = ("distributed.cli.dask_worker", address, "--nthreads", "2", "--no-dashboard", "--no-nanny", "--local-directory", str(tmp_path))
    with running("distributed.cli.dask_scheduler", *options) as scheduler, running(*worker):
        wait_for_workers(address, 1)
        client = Client(address, timeout=5, set_as_default=False)
        with pytest.raises(ClusterError, match="the connection was lost"):
            infer(client, tmp_path / "job.json", range(400), settings(task_tiles=1), lambda result: scheduler.kill(), slow_nap)
        client.close(timeout=1)


def slow_nap(job_path, task, retries):
    time.sleep(0.3)
    return BatchResult(task.indices, (), ())


def test_a_batch_that_is_too_much_for_a_worker_is_halved_until_it_fits(make_scene, settings_for):
    flags = {"workers.cluster": "local", "workers.count": 1, "workers.batch_size": 4}
    summary = run(settings_for(make_scene(pixels=random_pixels(64, 256)), model="fake_segmenter:greedy", sets=["overlap_px=0"], **flags))
    assert summary["tiles"]["planned"] == summary["tiles"]["computed"] == 4
    assert summary["status"] == "complete"


def test_tiles_that_a_dead_worker_kept_are_not_computed_again(make_scene, settings_for, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(log))
    pixels = random_pixels(256, 256)
    pixels[0, 70:75, 200:205] = 250
    sets = ["radiometry.high_percent=100", "tile_px=32", "overlap_px=0"]
    flags = {"workers.cluster": "local", "workers.count": 1, "workers.batch_size": 1}
    summary = run(settings_for(make_scene(pixels=pixels), model="fake_segmenter:counting_killing", sets=sets, **flags))
    assert [f["index"] for f in summary["tiles"]["failed"]] == [2 * 8 + 6]
    assert summary["tiles"]["computed"] == 63
    assert 63 <= len(log.read_text().splitlines()) <= 63 + 2 * 6, "at most what was in hand at each of the deaths"
    assert not list(Path(summary["out"]).parent.glob(".tiles/*/r*/.t*"))
