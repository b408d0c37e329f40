"""The report of a run: one file that needs nobody, shows what the run found, and believes no name."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import distribution
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from browser import browser_page
from conftest import random_pixels
from run_folder import scores_of

from rs_pipeline import report
from rs_pipeline.errors import OutputError, RasterError
from rs_pipeline.report import page, shapes
from rs_pipeline.report.histogram import count_scores
from rs_pipeline.run import run

NASTY = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&amp;"
# As leafletjs.com publishes them for 1.9.3.
LEAFLET = {"leaflet.js": "WBkoXOwTeyKclOHuWtc+i2uENFpDZ9YPdf5Hf+D7ewM=", "leaflet.css": "kLaT2GOSpHechhsozzB+flnD+zUyjE2LlfWPgU04xyI="}


def square_pixels():
    """Red in the middle, green in a corner."""
    pixels = np.full((3, 160, 160), 20, np.uint8)
    pixels[0, 40:120, 40:120] = 200
    pixels[1, :30, :30] = 200
    pixels[2, 130:, 130:] = 200
    return pixels


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def decoded(layer):
    """The polygons of a layer as the page's script reads them, in EPSG:4326."""

    def ring(steps):
        points = np.cumsum(np.reshape(steps, (-1, 2)), axis=0)
        return np.array(layer["origin"]) + points * layer["unit"]

    return [shapely.MultiPolygon([(ring(p[0]), [ring(hole) for hole in p[1:]]) for p in parts]) for parts in layer["shapes"]]


def test_leaflet_is_what_its_authors_published():
    for name, digest in LEAFLET.items():
        file = Path(str(distribution("XStatic-Leaflet").locate_file(f"xstatic/pkg/leaflet/data/{name}")))
        assert base64.b64encode(hashlib.sha256(file.read_bytes()).digest()).decode() == digest


def test_polygons_are_those_of_the_layers_but_for_what_no_screen_shows(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=random_pixels(300, 400)), tile_px=64))
    text = (Path(summary["out"]) / "report.html").read_text()
    for layer in data_of(text)["layers"]:
        frame = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer=layer["name"])
        frame = frame.sort_values(["area_m2", "id"], ascending=[False, True])
        assert layer["total"] == len(frame) == len(layer["shapes"])
        assert layer["id"] == frame["id"].to_list()
        shown = gpd.GeoSeries(decoded(layer), crs=4326).to_crs(frame.crs)
        assert shown.hausdorff_distance(frame.geometry.reset_index(drop=True)).max() < 2 * layer["tolerance_m"]
    assert "not on this map" not in text


def test_where_there_are_too_many_the_largest_are_shown_and_the_page_says_how_many_are_not(make_scene, settings_for, monkeypatch):
    monkeypatch.setattr(shapes, "MAX_POLYGONS", 30)
    summary = run(settings_for(make_scene(pixels=random_pixels(300, 400)), classes=("road", "water")))
    text = (Path(summary["out"]) / "report.html").read_text()
    for layer, facts in zip(data_of(text)["layers"], summary["classes"], strict=True):
        frame = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer=layer["name"])
        assert min(layer["area_m2"]) >= frame["area_m2"].nlargest(15).min() * 0.999
        assert len(layer["shapes"]) == 15
        assert f"{facts['polygons'] - 15:,} of {facts['polygons']:,} polygons of {layer['name']}, the smallest, are not" in text


def test_too_many_points_are_thinned_out_before_polygons_are_left_out(make_scene, settings_for, monkeypatch):
    scene = make_scene(pixels=random_pixels(300, 400))
    monkeypatch.setattr(shapes, "MAX_POINTS", 600)
    monkeypatch.setattr(shapes, "_COARSEST_PX", 64)
    text = (Path(run(settings_for(scene, classes=("road",)))["out"]) / "report.html").read_text()
    [layer] = data_of(text)["layers"]
    assert layer["tolerance_m"] >= 1
    assert 0 < sum(shapely.get_num_coordinates(decoded(layer))) <= 600


@pytest.mark.parametrize(
    ("budget", "needs", "shares"), [(10, [3, 3], [3, 3]), (10, [9, 1, 9], [4, 1, 5]), (4, [9, 9], [2, 2]), (5, [], []), (5, [0, 9], [0, 5])]
)
def test_layers_that_need_less_leave_the_rest_to_the_others(budget, needs, shares):
    assert shapes.share_out(budget, needs) == shares


def test_layers_in_another_crs_lie_where_they_were(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=square_pixels()), classes=("road",), sets=["vectors.crs=EPSG:4326"]))
    [layer] = data_of((Path(summary["out"]) / "report.html").read_text())["layers"]
    [square] = gpd.GeoSeries(decoded(layer), crs=4326).to_crs(summary["plan"]["grid"]["crs"])
    assert square.area == pytest.approx(1600, rel=0.01)


def test_scores_are_counted_pixel_by_pixel(make_scene, settings_for):
    out = Path(run(settings_for(make_scene(pixels=random_pixels(300, 700)), sets=["gsd_m=0.5"]))["out"])
    expected = [np.bincount(band.ravel(), minlength=256) for band in scores_of(out)]
    np.testing.assert_array_equal(count_scores(out / "scores.tif", 2**24), expected)
    assert 0 < count_scores(out / "scores.tif", 1).sum() < np.sum(expected)


def test_of_a_large_raster_blocks_with_data_stand_for_the_others(make_scene, settings_for, tmp_path):
    corner = shapely.box(500_000 + 2990, 5_300_000 - 2995, 500_000 + 2995, 5_300_000 - 2990)
    gpd.GeoDataFrame(geometry=[corner, shapely.box(500_001, 5_299_990, 500_006, 5_299_999)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    scene = make_scene(pixels=random_pixels(3000, 3000), gsd=1)
    out = Path(run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg"), sets=["gsd_m=1"]))["out"])
    seen = sum(int(np.sum(band != 255)) for band in scores_of(out)) // 3
    for most_px in (1, 3 * 512 * 512 * 2):
        counts = count_scores(out / "scores.tif", most_px)[0]
        assert 0 < counts[:255].sum() <= seen
    assert counts[:255].sum() == seen


@pytest.mark.parametrize("way", ["off", "failed", "thrown away"])
def test_a_report_that_is_missing_is_drawn_by_the_same_command_and_nothing_else_is_done_again(make_scene, settings_for, monkeypatch, way):
    scene = make_scene(pixels=square_pixels())
    with monkeypatch.context() as patched:
        if way == "failed":
            patched.setattr(page, "pack_layers", lambda *_: 1 / 0)
        first = run(settings_for(scene, report=way != "off"))
    out = Path(first["out"])
    (out / "report.html").unlink(missing_ok=True)
    written = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "run.json"}
    second = run(settings_for(scene))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name in written} == written
    assert len(data_of((out / "report.html").read_text())["layers"]) == 3
    assert second == json.loads((out / "run.json").read_text())
    assert (second["finished"], second["notes"], second["settings"]["report"]) == (first["finished"], [], True)
    assert set(second["files"]) == {*written, "report.html"}
    assert second["seconds"]["report"] > 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert run(settings_for(scene)) == second


def test_a_report_that_cannot_be_drawn_later_leaves_the_run_as_it_was(make_scene, settings_for, monkeypatch):
    scene = make_scene(pixels=square_pixels())
    first = run(settings_for(scene, report=False))
    before = (Path(first["out"]) / "run.json").read_bytes()
    monkeypatch.setattr(page, "pack_layers", lambda *_: 1 / 0)
    assert run(settings_for(scene))["files"] == first["files"]
    assert (Path(first["out"]) / "run.json").read_bytes() == before


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def nasty_run(make_scene, settings_for, tmp_path):
    """A run whose every name wants to be a script."""
    vocabulary = tmp_path / "nasty.yaml"
    name = f"road {NASTY}"
    vocabulary.write_text(json.dumps({name: {"prompts": [NASTY, "road"], "colour": "#e4572e", "threshold": 0.3}}))
    scene = make_scene(f"{NASTY.replace('/', '∕')}.tif", square_pixels())
    return run(settings_for(scene, classes=(name,), vocabulary=str(vocabulary)))


def test_names_are_text_and_nothing_else(nasty_run):
    text = (Path(nasty_run["out"]) / "report.html").read_text()
    elements = Elements()
    elements.feed(text)
    assert [attrs.get("type") for tag, attrs in elements.found if tag == "script"] == ["application/json", None, None]
    assert not [attrs for tag, attrs in elements.found if tag in {"img", "iframe", "object"} or any(a.startswith("on") for a in attrs)]
    assert data_of(text)["layers"][0]["name"] == nasty_run["classes"][0]["name"] == f"road {NASTY}"
    assert [v for _, attrs in elements.found for k, v in attrs.items() if k in {"src", "href"}] == ["data:,"]


def test_a_run_is_not_lost_for_want_of_its_report(make_scene, settings_for, monkeypatch):
    def fails(plan):
        raise RasterError("a scene", "none", "Look for it.")

    monkeypatch.setattr(report, "web_picture", fails)
    summary = run(settings_for(make_scene()))
    assert summary["notes"][-1] == "no report.html: expected a scene; got none. Look for it."
    assert json.loads((Path(summary["out"]) / "run.json").read_text())["notes"] == summary["notes"]
    assert not (Path(summary["out"]) / "report.html").exists()


def test_without_a_report_nothing_of_it_is_loaded(make_scene, tmp_path):
    code = (
        "import sys; from rs_pipeline.config import load_settings; from rs_pipeline.run import run;"
        f"s = load_settings(None, {{'source': ({str(make_scene())!r},), 'classes': ('road',), 'model': 'fake_segmenter:pointwise',"
        f"'out': {str(tmp_path / 'o' / 'run')!r}, 'workers.cluster': 'in-process'}}, ['report=false']);"
        "run(s); print('rs_pipeline.report' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1] == "False"
    assert not (tmp_path / "o" / "run" / "report.html").exists()


def test_a_report_without_a_picture_or_a_polygon_is_one_too(make_scene, settings_for):
    settings = settings_for(make_scene(pixels=square_pixels()), classes=("road",), sets=["scoring.threshold=1", "vectors.min_area_m2=1e6"])
    summary = run(settings)
    text = page.build_page(Path(summary["out"]), summary, None)
    assert data_of(text)["picture"] is None
    assert data_of(text)["layers"][0]["shapes"] == []


@pytest.fixture
def opened(tmp_path):
    """Opens the report of a run in a browser that finds no host."""
    with browser_page(tmp_path / "browser") as shown:

        def show(folder):
            shown.open(f"{(Path(folder) / 'report.html').as_uri()}")
            return shown

        yield show


def boxes(shown):
    return shown.js("[...document.querySelectorAll('#layers input[type=checkbox]')].map((b) => b.checked)")


def middle_of_map(shown):
    return shown.js("(() => { const r = map.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")


def colour_at(shown, x, y):
    """RGBA of what the layers draw at a point of the page."""
    return shown.js(
        f"(() => {{ const c = document.querySelector('.leaflet-overlay-pane canvas'), r = c.getBoundingClientRect();"
        f"const s = c.width / r.width; return [...c.getContext('2d').getImageData(({x} - r.x) * s, ({y} - r.y) * s, 1, 1).data]; }})()"
    )


def test_in_a_browser_without_a_network_layers_toggle_and_a_click_shows_what_lies_there(make_scene, settings_for, opened):
    summary = run(settings_for(make_scene(pixels=square_pixels()), classes=("road", "water")))
    shown = opened(summary["out"])
    x, y = middle_of_map(shown)
    road = summary["classes"][0]["colour"]
    shown.wait_for("document.querySelector('.leaflet-overlay-pane canvas') !== null")
    assert boxes(shown) == [True, True, True]
    assert colour_at(shown, x, y)[:3] == pytest.approx(road, abs=3)
    assert shown.js("document.querySelector('.leaflet-image-layer').naturalWidth") > 0

    shown.click(x, y)
    shown.wait_for("document.querySelector('.leaflet-popup-content') !== null")
    said = shown.js("document.querySelector('.leaflet-popup-content').innerText")
    assert "road" in said
    assert "1,600 m²" in said

    shown.js("document.querySelectorAll('#layers input[type=checkbox]')[1].focus()")
    shown.press(" ", 32)
    assert boxes(shown) == [True, False, True]
    shown.wait_for("document.querySelector('.leaflet-popup-content') === null")
    assert colour_at(shown, x, y)[3] == 0
    shown.press(" ", 32)
    slider = "document.querySelectorAll('#layers input[type=range]')[1]"
    shown.js(f"{slider}.value = 100; {slider}.dispatchEvent(new Event('input'))")
    shown.js("new Promise((done) => setTimeout(done, 200))")
    assert colour_at(shown, x, y)[3] == 255

    shown.js("document.querySelector('#largest button').click()")
    shown.wait_for("document.querySelector('.leaflet-popup-content') !== null")
    unnamed = "[...document.querySelectorAll('input, button')].filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent).length"
    assert shown.js(unnamed) == 0
    assert shown.complaints == []
    assert {url.split(":")[0] for url in shown.requests} == {"file", "data"}


def test_in_a_browser_no_name_becomes_a_script(nasty_run, opened):
    shown = opened(nasty_run["out"])
    shown.click(*middle_of_map(shown))
    shown.wait_for("document.querySelector('.leaflet-popup-content') !== null")
    assert NASTY in shown.js("document.querySelector('.leaflet-popup-content').innerText")
    assert shown.js("window.hacked === undefined")
    assert shown.js("document.querySelector('h1').textContent") == f"road {NASTY}"
    assert shown.complaints == []


def test_failed_tiles_and_notes_are_said_a_few_of_them_one_by_one(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=square_pixels()), classes=("road",)))
    failed = [{"index": index, "error": f"<b>{index}</b>"} for index in range(1, 31)]
    summary["tiles"]["failed"], summary["notes"] = failed, ["a <note>"]
    text = page.build_page(Path(summary["out"]), summary, None)
    assert "a &lt;note&gt;" in text
    assert "tile 10 failed and is not observed: &lt;b&gt;10&lt;/b&gt;" in text
    assert "&lt;b&gt;11" not in text
    assert "20 more tiles failed" in text


def test_the_refinement_is_told_with_its_strengths(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=square_pixels()), classes=("road",)))
    summary["settings"]["refine"] |= {"preset": "mine", "steps": ["smooth"], "smooth": {"at": "encoder", "strength": 0.3}}
    text = page.build_page(Path(summary["out"]), summary, None)
    assert "Preset mine, in this order:" in text
    assert "<td>at encoder, strength 0.3</td>" in text


def test_what_was_not_observed_is_a_layer_too(make_scene, settings_for):
    pixels = square_pixels()
    pixels[:, :40] = 0
    summary = run(settings_for(make_scene(pixels=pixels, nodata=0), classes=("road",)))
    text = (Path(summary["out"]) / "report.html").read_text()
    layer = data_of(text)["layers"][-1]
    assert (layer["name"], len(layer["shapes"])) == ("not observed", 1)
    assert "25.0% of it not observed" in text


def test_a_report_that_no_disk_keeps_is_an_error_and_the_same_command_goes_on(make_scene, settings_for, monkeypatch):
    settings = settings_for(make_scene(pixels=square_pixels()), classes=("road",))

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OutputError, match="room to write the report"):
            report.write_report(Path(settings.out).parent, "")
    summary = run(settings)
    assert summary["notes"] == []
    assert (Path(summary["out"]) / "report.html").is_file()
