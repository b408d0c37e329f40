"""A scene that changes is another scene, on a disk or behind a web server."""

import json
import os
import socket
from pathlib import Path

import pytest

from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import RasterError
from rs_pipeline.fingerprints import fingerprint, has_changed
from rs_pipeline.inference import check_unchanged
from rs_pipeline.plan import plan_run
from rs_pipeline.run import run


@pytest.fixture
def remote(server, make_scene, tmp_path):
    """A catalog whose one scene is behind the server."""
    catalog = tmp_path / "catalog" / "catalog.json"
    add_scenes(catalog, [str(make_scene("web/scene.tif"))], None)
    [item] = [p for p in catalog.parent.rglob("*.json") if "assets" in json.loads(p.read_text())]
    facts = json.loads(item.read_text())
    for asset in facts["assets"].values():
        asset["href"] = f"{server.url}/scene.tif"
    item.write_text(json.dumps(facts))
    return catalog


def test_the_etag_tells_else_date_and_length(server, tmp_path):
    (tmp_path / "web" / "a.tif").write_bytes(b"one")
    url = f"{server.url}/a.tif"
    by_date = fingerprint(url)
    assert by_date.endswith(" GMT 3")
    server.tell(etag='"v1"')
    assert fingerprint(url) == fingerprint(f"/vsicurl/{url}") == '"v1"'
    assert {line.split()[0] for line in server.asked()} == {"HEAD"}


def test_a_server_that_says_nothing_or_is_not_there_is_no_error(server, tmp_path):
    (tmp_path / "web" / "a.tif").write_bytes(b"one")
    server.tell(dates=False)
    assert fingerprint(f"{server.url}/a.tif") == ""
    assert fingerprint(f"{server.url}/none.tif") == ""
    server.tell(broken=True)
    assert fingerprint(f"{server.url}/a.tif") == ""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert fingerprint(f"http://127.0.0.1:{closed.getsockname()[1]}/a.tif") == ""
    assert fingerprint("http://[nonsense/a.tif") == ""
    assert fingerprint("s3://bucket/a.tif") == ""


def test_a_server_that_does_not_answer_has_changed_nothing(server, tmp_path):
    (tmp_path / "web" / "a.tif").write_bytes(b"one")
    url = f"{server.url}/a.tif"
    server.tell(etag='"v1"')
    before = fingerprint(url)
    server.tell(broken=True)
    assert not has_changed(url, before)
    server.tell()
    assert not has_changed(url, "")
    server.tell(etag='"v2"')
    assert has_changed(url, before)


def test_an_answer_that_is_young_enough_will_do(server, tmp_path):
    (tmp_path / "web" / "a.tif").write_bytes(b"one")
    url = f"{server.url}/a.tif"
    server.tell(etag='"v1"')
    for _ in range(5):
        fingerprint(url, max_age_s=60)
    assert len(server.asked()) == 1
    server.tell(broken=True)
    fingerprint(url)
    for _ in range(5):
        assert fingerprint(url, max_age_s=60) == ""
    assert len(server.asked()) == 2


def test_a_local_file_that_goes_or_changes_has_changed(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"one")
    before = fingerprint(str(path))
    assert not has_changed(str(path), before)
    os.utime(path, ns=(1, 1))
    assert has_changed(str(path), before)
    path.unlink()
    assert has_changed(str(path), before)


def test_a_run_over_the_web_asks_the_server_once_while_planning_once_at_work_and_once_at_the_end(remote, server, settings_for):
    server.tell(etag='"v1"')
    settings = settings_for(remote, **{"workers.batch_size": 1})
    summary = run(settings)
    assert (summary["status"], summary["scenes"][0]["fingerprint"]) == ("complete", '"v1"')
    # GDAL asks for it too, before it opens the file.
    heads = server.asked().count("HEAD /scene.tif")
    assert 3 <= heads < summary["tiles"]["computed"] == 12


def test_a_remote_scene_that_changes_during_the_run_publishes_nothing(remote, server, settings_for, monkeypatch):
    from rs_pipeline import run as pipeline

    original = pipeline.vectorize
    server.tell(etag='"v1"')
    settings = settings_for(remote)

    def changing(*args):
        server.tell(etag='"v2"')
        return original(*args)

    monkeypatch.setattr(pipeline, "vectorize", changing)
    with pytest.raises(RasterError, match=r"scene\.tif, which changed"):
        run(settings)
    assert not Path(settings.out).exists()


def test_another_version_behind_the_same_url_shares_no_tiles(remote, server, settings_for):
    server.tell(etag='"v1"')
    first = plan_run(settings_for(remote))
    check_unchanged(first.job)
    server.tell(etag='"v2"')
    second = plan_run(settings_for(remote))
    assert first.job.base != second.job.base
    with pytest.raises(RasterError, match="which changed"):
        check_unchanged(first.job)
