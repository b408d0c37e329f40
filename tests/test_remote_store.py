"""Tiles on an object store: the same bytes as on a disk, whoever writes them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pixels
from run_folder import everything, finished_tiles

from rs_pipeline import remote_place
from rs_pipeline.clean import clean
from rs_pipeline.errors import OutputError, SegmenterError, StoreError
from rs_pipeline.grid import Window
from rs_pipeline.job import load_job
from rs_pipeline.places import LocalPlace, open_place
from rs_pipeline.plan import plan_run
from rs_pipeline.run import run
from rs_pipeline.store import TileStore
from rs_pipeline.survey import survey, survey_store


@pytest.fixture(scope="module")
def bucket():
    """A URL below which an S3 keeps what it is sent; worker processes see it too."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}".replace("0.0.0.0", "127.0.0.1")),  # noqa: S104 - where it listens
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("no_proxy", "127.0.0.1"),
        ):
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("tiles")
        yield "s3://tiles"
    server.stop()


@pytest.fixture
def memory():
    """A URL of a store in this process's memory."""
    place = open_place("memory://store")
    yield place.where
    place.remove()


def test_two_workers_with_an_object_store_make_what_one_process_makes_with_a_folder(make_scene, settings_for, tmp_path, bucket):
    pixels = random_pixels(300, 340)
    pixels[:, :60, :60] = 0
    scene = make_scene(pixels=pixels, nodata=0)
    expected = everything(run(settings_for(scene, out=str(tmp_path / "local" / "run")))["out"])[1:]
    remote = settings_for(scene, store=f"{bucket}/a", **{"workers.cluster": "local", "workers.count": 2, "workers.batch_size": 2})
    summary = run(remote)
    assert everything(summary["out"])[1:] == expected
    assert summary["tiles"]["store"].startswith("s3://tiles/a/")
    assert finished_tiles(summary["out"]) == []
    again = run(remote.model_copy(update={"out": str(tmp_path / "again" / "run")}))
    assert (again["tiles"]["computed"], again["tiles"]["reused"]) == (0, summary["tiles"]["computed"])
    assert everything(again["out"])[1:] == expected


def test_a_run_that_broke_off_goes_on_and_is_told_until_it_is_cleaned(make_scene, settings_for, bucket, monkeypatch):
    settings = settings_for(make_scene(), store=f"{bucket}/b")
    with monkeypatch.context() as patch:
        patch.setattr("rs_pipeline.run.stitch", lambda *args: (_ for _ in ()).throw(SegmenterError("a", "b", "c")))
        with pytest.raises(SegmenterError):
            run(settings)
    store = plan_run(settings).job.store
    for name in [name for name in store.names() if name.endswith("5.npy") or name == "complete"]:
        store.remove(name)
    [status] = survey_store(f"{bucket}/b")
    assert (status.out, status.state, status.planned, status.done) == (settings.out, "unfinished", 12, 11)
    with pytest.raises(StoreError, match="a local tile store for --all"):
        clean(None, f"{bucket}/b", abandoned=True)
    assert [kept.run for kept in clean(None, f"{bucket}/b").kept] == [settings.out]
    assert run(settings)["tiles"]["computed"] == 1
    assert [s.state for s in survey(Path(settings.out), f"{bucket}/b")] == ["finished"]
    assert clean(None, f"{bucket}/b").freed_bytes > 150 * 170 * 4
    with pytest.raises(OutputError, match="nothing of the kind"):
        survey_store(f"{bucket}/b")
    assert run(settings)["status"] == "complete"


def test_a_tile_comes_back_as_written_and_done_is_one_listing(make_scene, settings_for, memory, monkeypatch):
    plan = plan_run(settings_for(make_scene(), store=memory))
    store, tile = TileStore(plan.job.store), plan.job.plan.tile(5)
    scores = np.random.default_rng(0).integers(0, 255, (4, *tile.halo.shape), np.uint8)
    store.write(tile, scores)
    store.write_empty(plan.job.plan.tile(0))
    part = Window(tile.halo.row_off + 3, tile.halo.col_off + 5, 7, 9)
    assert np.array_equal(store.read(tile, part), scores[:, 3:10, 5:14])
    assert store.read(plan.job.plan.tile(0), plan.job.plan.tile(0).halo) is None
    asked, find = [], type(store.place.files).find
    monkeypatch.setattr(type(store.place.files), "find", lambda files, path, **k: asked.append(path) or find(files, path, **k))
    assert store.done() == {5: True, 0: False}
    assert len(asked) == 1


def test_a_written_tile_is_read_anew_and_no_more_are_kept_than_there_is_room_for(make_scene, settings_for, memory, monkeypatch):
    plan = plan_run(settings_for(make_scene(), store=memory)).job.plan
    store = TileStore(f"{memory}/x")
    recent = remote_place._Recent(50_000)
    monkeypatch.setattr(remote_place, "_RECENT", recent)
    for value in (1, 2):
        for index in range(6):
            tile = plan.tile(index)
            store.write(tile, np.full((4, *tile.halo.shape), value, np.uint8))
            assert (store.read(tile, tile.halo) == value).all()
            assert recent._bytes == sum(array.nbytes for array in recent._arrays.values()) <= 50_000
    assert len(recent._arrays) > 1


def test_a_network_that_fails_stops_the_run_and_what_is_done_stays(make_scene, settings_for, memory, monkeypatch):
    settings = settings_for(make_scene(), store=memory, **{"workers.batch_size": 1})
    files = type(open_place(memory).files)
    write, written = files.pipe_file, []

    def failing(self, path, value, **kwargs):
        if path.endswith(".npy"):
            written.append(path)
            if len(written) > 5:
                raise ConnectionResetError("the cable\nwas pulled")
        write(self, path, value, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "pipe_file", failing)
        with pytest.raises(StoreError, match=r"a tile store that answers.*the cable was pulled.*run again"):
            run(settings)
    assert not Path(settings.out).exists()
    assert run(settings)["tiles"]["reused"] == 5


def test_two_runs_share_a_remote_store(make_scene, settings_for, memory):
    from rs_pipeline.groups import held

    settings = settings_for(make_scene(), store=memory)
    with held(plan_run(settings).work):
        assert run(settings)["status"] == "complete"


def test_a_damaged_remote_tile_is_an_error_not_a_picture(make_scene, settings_for, memory):
    plan = plan_run(settings_for(make_scene(), store=memory))
    plan.job.store.write("r00000/t00000000.npy", b"half")
    with pytest.raises(StoreError, match=r"memory://.*Delete it"):
        TileStore(plan.job.store).read(plan.job.plan.tile(0), plan.job.plan.tile(0).halo)


@pytest.mark.parametrize(
    ("store", "message"), [("gs://bucket/prefix", "gcsfs.*Install it"), ("nonsense://bucket", "a path, or a URL such as s3://")]
)
def test_a_scheme_that_nothing_reads_is_refused_before_the_first_tile(make_scene, settings_for, store, message):
    with pytest.raises(StoreError, match=message):
        run(settings_for(make_scene(), store=store))


def test_a_file_url_is_a_folder(tmp_path):
    assert open_place(f"file://{tmp_path}") == LocalPlace(tmp_path)


def test_a_job_that_this_worker_cannot_see_is_an_error(memory, tmp_path):
    for where in (memory, str(tmp_path)):
        with pytest.raises(StoreError, match="every worker reaches"):
            load_job(f"{where}/base/group/job-1.json")
