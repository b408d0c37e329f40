"""Real Dask workers: local processes, a scheduler of somebody else's, and workers that die."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import random_pixels

from rs_pipeline.config import load_settings
from rs_pipeline.errors import ClusterError
from rs_pipeline.run import run
from rs_pipeline.workers import choose_crew


def labels_of(summary):
    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        return file.read(1)


@contextmanager
def running(*command):
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_workers(address, count):
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


def test_the_crew_fits_the_job():
    def crew(tiles, **flags):
        return choose_crew(load_settings(flags={f"workers.{k}": v for k, v in flags.items()}).workers, tiles)

    assert crew(10).kind == "in-process"
    assert crew(10, count=2).kind == "in-process"
    assert (crew(1000, count=2).kind, crew(1000, count=2).count) == ("local", 2)
    assert crew(10, cluster="local", count=3).count == 3
    assert crew(10, cluster="tcp://127.0.0.1:9").kind == "tcp://127.0.0.1:9"
    with pytest.raises(ClusterError, match="in-process, local, cuda or tcp"):
        crew(10, cluster="slurm")


def test_workers_that_are_started_here_do_not_measure_themselves():
    import dask.config

    from rs_pipeline.workers import Crew, open_client

    keys = ("distributed.worker.profile.enabled", "distributed.admin.tick.interval", "distributed.admin.system-monitor.interval")
    with open_client(Crew("local", 1, 1), load_settings().workers) as client:
        assert list(client.run(lambda: [dask.config.get(key) for key in keys]).values()) == [[False, "1s", "10s"]]


def test_a_running_scheduler_with_two_workers_gives_what_one_process_gives(make_scene, settings_for, tmp_path):
    scene = make_scene()
    expected = labels_of(run(settings_for(scene, out=str(tmp_path / "alone" / "run"))))
    address = f"tcp://127.0.0.1:{free_port()}"
    worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
    with running("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--no-dashboard"):
        with running(*worker), running(*worker):
            wait_for_workers(address, 2)
            summary = run(settings_for(scene, **{"workers.cluster": address, "workers.batch_size": 2}))
        assert np.array_equal(labels_of(summary), expected)
        with pytest.raises(ClusterError, match="a scheduler with workers"):
            run(settings_for(scene, out=str(tmp_path / "none" / "run"), **{"workers.cluster": address}))


def test_a_worker_with_many_threads_gives_what_one_thread_gives(make_scene, settings_for, tmp_path):
    from distributed import LocalCluster

    scene = make_scene(pixels=random_pixels(600, 600))
    expected = labels_of(run(settings_for(scene, out=str(tmp_path / "alone" / "run"))))
    one = {"n_workers": 1, "threads_per_worker": 8, "processes": False, "dashboard_address": None, "protocol": "tcp"}
    with LocalCluster(**one, host="127.0.0.1") as cluster:
        flags = {"workers.cluster": cluster.scheduler_address, "workers.batch_size": 1, "workers.ahead": 16}
        summary = run(settings_for(scene, **flags))
    assert summary["tiles"]["computed"] > 100
    assert np.array_equal(labels_of(summary), expected)


def test_a_scheduler_that_does_not_answer_is_told_at_once(make_scene, settings_for):
    started = time.monotonic()
    settings = settings_for(make_scene(), sets=["workers.connect_timeout_s=0.5"], **{"workers.cluster": f"tcp://127.0.0.1:{free_port()}"})
    with pytest.raises(ClusterError, match="a running Dask scheduler"):
        run(settings)
    assert time.monotonic() - started < 30
    assert not Path(settings.out).parent.exists()


def test_a_worker_with_other_weights_is_refused(make_scene, settings_for):
    from dataclasses import replace

    from rs_pipeline.errors import SegmenterError
    from rs_pipeline.plan import plan_run
    from rs_pipeline.reporting import Silent
    from rs_pipeline.run import execute

    plan = plan_run(settings_for(make_scene()))
    older = replace(plan, job=replace(plan.job, weights_sha256="1" * 64))
    with pytest.raises(SegmenterError, match="as the run was planned with"):
        execute(older, Silent())
    assert not plan.out.exists()


def test_a_run_in_this_process_needs_no_scheduler(make_scene, tmp_path):
    code = (
        "import sys; from rs_pipeline.config import load_settings; from rs_pipeline.run import run\n"
        f"flags = {{'source': ({str(make_scene())!r},), 'out': {str(tmp_path / 'run')!r}, 'classes': ('road',)}}\n"
        "run(load_settings(None, flags | {'model': 'fake_segmenter:pointwise'}))\n"
        "sys.exit('distributed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_next_batch_is_read_while_the_model_computes_and_each_has_one_thread(make_scene, settings_for, monkeypatch):
    import fake_segmenter

    from rs_pipeline.inference import OpenJob

    planned, threads = 12, {"read": [], "segment": []}
    read_tile, segment = OpenJob.read_tile, fake_segmenter.Pointwise.segment

    def read(opened, tile):
        threads["read"].append(threading.get_ident())
        return read_tile(opened, tile)

    def compute(segmenter, *batch):
        threads["segment"].append(threading.get_ident())
        deadline = time.monotonic() + 20
        while len(threads["read"]) < min(len(threads["segment"]) + 1, planned):
            assert time.monotonic() < deadline, "nothing was read ahead"
            time.sleep(0.001)
        return segment(segmenter, *batch)

    monkeypatch.setattr(OpenJob, "read_tile", read)
    monkeypatch.setattr(fake_segmenter.Pointwise, "segment", compute)
    summary = run(settings_for(make_scene(), report=False, **{"workers.batch_size": 1}))
    assert summary["status"] == "complete"
    assert len(threads["segment"]) == len(threads["read"]) == summary["tiles"]["planned"] == planned
    assert len(set(threads["read"])) == len(set(threads["segment"])) == 1


def test_a_worker_s_own_trouble_is_told_and_nothing_is_left(make_scene, settings_for, monkeypatch):
    def broken(*args):
        raise ImportError("no such library")

    monkeypatch.setattr("rs_pipeline.inference.load_segmenter", broken)
    settings = settings_for(make_scene())
    with pytest.raises(ClusterError, match="workers that can run a task of this run; got ImportError: no such library"):
        run(settings)
    assert not Path(settings.out).exists()


def test_nothing_is_kept_open_after_a_run_in_this_process(make_scene, settings_for):
    from rs_pipeline.inference import open_job

    run(settings_for(make_scene()))
    assert open_job.cache_info().currsize == 0


def test_a_tile_that_kills_its_worker_is_failed_and_the_others_are_done(make_scene, settings_for):
    pixels = random_pixels(60, 120)
    pixels[0, 20:25, 100:105] = 250
    settings = settings_for(
        make_scene(pixels=pixels),
        model="fake_segmenter:killing",
        sets=["radiometry.high_percent=100", "tile_px=40", "overlap_px=0"],
        **{"workers.cluster": "local", "workers.count": 1, "workers.batch_size": 2},
    )
    summary = run(settings)
    failed = {f["index"] for f in summary["tiles"]["failed"]}
    labels = labels_of(summary)
    assert failed == {2, 5}
    assert "KilledWorker" in summary["tiles"]["failed"][0]["error"]
    assert (labels[:40, 80:] == 255).all()
    assert (labels[:, :80] != 255).all()
