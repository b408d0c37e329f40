"""A run in the browser: its own machine's, with tiles of its rasters, and nothing but the run."""

import http.client
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page
from PIL import Image
from pyproj import Transformer
from test_cli import rs_seg
from test_report import square_pixels

from rs_pipeline import view
from rs_pipeline.errors import OutputError
from rs_pipeline.run import run


@pytest.fixture
def summary(make_scene, settings_for):
    return run(settings_for(make_scene(pixels=square_pixels()), classes=("road", "water")))


@pytest.fixture
def server(summary):
    with view.RunServer(Path(summary["out"]), 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def get(server, path, host=None):
    """(status, body) of an address, asked for as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def tile_at(summary, x_m, y_m, zoom):
    """Column, row, and the pixel in the tile, of a place in the run's CRS."""
    x, y = Transformer.from_crs(summary["plan"]["grid"]["crs"], 3857, always_xy=True).transform(x_m, y_m)
    half = 20037508.342789244
    column, row = ((half + x) / (2 * half) * 2**zoom, (half - y) / (2 * half) * 2**zoom)
    return int(column), int(row), int(row % 1 * 256), int(column % 1 * 256)


def test_tiles_show_labels_in_their_colours_and_scenes_as_the_model_saw_them(summary, server):
    road = summary["classes"][0]["colour"]
    for x, y, label, scene in [(500_040, 5_299_960, (*road, 255), (255, 0, 0, 255)), (500_010, 5_299_960, (0, 0, 0, 0), (0, 0, 0, 255))]:
        column, row, down, right = tile_at(summary, x, y, 20)
        for kind, expected in (("labels", label), ("scenes", scene)):
            status, body = get(server, f"/tiles/{kind}/20/{column}/{row}.png")
            assert status == 200
            pixel = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))[down, right]
            assert tuple(pixel[3:]) == expected[3:]
            if expected[3]:
                np.testing.assert_allclose(pixel, expected, atol=6)


def test_where_there_is_nothing_there_is_no_tile(server):
    assert get(server, "/tiles/labels/5/0/0.png") == (204, b"")
    assert get(server, "/tiles/scenes/5/0/0.png") == (204, b"")
    for path in ("/tiles/labels/1/2/0.png", "/tiles/labels/25/0/0.png", "/tiles/secrets/1/0/0.png", "/tiles/labels/1/-1/0.png"):
        assert get(server, path)[0] == 404


def test_it_opens_the_report_and_the_files_of_the_run(summary, server):
    status, page = get(server, "/")
    assert status == 200
    assert b"/tiles/labels/{z}/{x}/{y}.png" in page
    assert json.loads(get(server, "/run.json")[1])["run_key"] == summary["run_key"]
    assert get(server, "/labels.tif")[1] == (Path(summary["out"]) / "labels.tif").read_bytes()


def test_nothing_outside_the_folder_is_given(summary, server):
    folder = Path(summary["out"])
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "below").mkdir()
    (folder / "below" / "file.txt").write_text("not of a run")
    absolute = str(folder.parent / "secret.txt")
    outside = ("/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", f"/{absolute}", f"//{absolute}")
    for path in (*outside, "/link.txt", "/below/file.txt", "/.", "/.."):
        status, body = get(server, path)
        assert status == 404, path
        assert body != b"secret"


def test_it_listens_to_this_machine_alone_under_its_own_names(server):
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_address[1]
    assert get(server, "/", f"localhost:{port}")[0] == 200
    assert get(server, "/", f"somewhere.example:{port}")[0] == 403


def test_a_run_without_a_report_gets_one(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=square_pixels()), classes=("road",), sets=["report=false"]))
    with view.RunServer(Path(summary["out"]), 0) as serving:
        assert b'<div id="map"' in serving.page


def test_what_is_wrong_is_said_in_one_line(summary, tmp_path, capsys, monkeypatch):
    with pytest.raises(OutputError, match="the folder of a finished run"):
        view.RunServer(tmp_path, 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = rs_seg(capsys, "view", summary["out"], "--port", port, "--no-browser")
    assert code == 2
    assert re.fullmatch(rf"rs-seg: expected a port that is free; got {port} .*--port.*\n", err)
    for module in ("rs_pipeline.view", "rs_pipeline.view_tiles"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rio_tiler.errors", None)
    code, _, err = rs_seg(capsys, "view", summary["out"], "--no-browser")
    assert code == 2
    assert "pip install 'rs-seg[view]'" in err
    assert len(err.strip().splitlines()) == 1


def test_it_says_its_address_and_an_interruption_is_its_end(summary):
    command = [sys.executable, "-m", "rs_pipeline", "view", summary["out"], "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", process.stdout.readline())
            process.send_signal(signal.SIGTERM)  # which the command takes as Ctrl-C; a shell's background jobs do not hear that
            assert process.communicate(timeout=30) == ("", "")
        finally:
            process.kill()
    assert process.returncode == 0


def test_a_browser_shows_tiles_of_scenes_and_labels(server, tmp_path):
    with browser_page(tmp_path / "browser") as shown:
        shown.open(server.url)
        loaded = "document.querySelectorAll('.leaflet-tile-pane .leaflet-layer:nth-child({}) .leaflet-tile-loaded').length > 0"
        shown.wait_for(loaded.format(1))
        shown.js("document.querySelectorAll('#layers input[type=checkbox]')[2].click()")
        shown.wait_for(loaded.format(2))
        assert shown.complaints == []
        assert all(url.startswith((server.url, "data:")) for url in shown.requests)


def test_a_browser_that_drops_its_request_is_not_talked_about(server, capfd):
    path = server.folder / "large.bin"
    path.write_bytes(bytes(30_000_000))
    for _ in range(3):
        with socket.create_connection(server.server_address[:2]) as client:
            client.sendall(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(100)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any("process_request_thread" in thread.name for thread in threading.enumerate()):
        time.sleep(0.02)
    assert get(server, "/run.json")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_what_goes_wrong_in_the_server_itself_is_told(server, capfd, monkeypatch):
    monkeypatch.setattr(view._Handler, "_send_file", lambda *_: 1 / 0)
    with pytest.raises(http.client.RemoteDisconnected):
        get(server, "/run.json")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_report_that_is_a_link_is_not_followed(summary, tmp_path):
    (tmp_path / "secret.html").write_text('<html lang="en">secret')
    report = Path(summary["out"]) / "report.html"
    report.unlink()
    report.symlink_to(tmp_path / "secret.html")
    with view.RunServer(Path(summary["out"]), 0) as serving:
        assert b"secret" not in serving.page
        assert b'<div id="map"' in serving.page


def test_a_run_json_without_one_of_its_keys_is_shown_or_refused_in_words(summary):
    folder = Path(summary["out"])
    whole = json.loads((folder / "run.json").read_text())
    refused = {}
    for has_report in (True, False):
        if not has_report:
            (folder / "report.html").unlink()
        for key in whole:
            (folder / "run.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
            try:
                view.RunServer(folder, 0).server_close()
            except OutputError as error:
                refused[key, has_report] = str(error)
    assert [text for text in refused.values() if not re.search(r"a run\.json as a run leaves it; got .*run\.json", text)] == []
    assert {"classes", "plan", "scenes", "settings", "run_key", "finished", "status"} <= {key for key, _ in refused}
