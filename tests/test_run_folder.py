"""A run's folder over time: damaged, added to, replaced, and drawn anew while another run takes its place."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import random_pixels

from rs_pipeline import keys, plan, report
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import OutputError
from rs_pipeline.plan import plan_run
from rs_pipeline.products import amend
from rs_pipeline.reporting import Silent
from rs_pipeline.run import run
from rs_pipeline.run_folder import read_run


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["labels.tif", "scores.tif", "layers.gpkg", "labels.qml", "lines.gpkg", "road.geojson"])
def test_a_file_that_was_cut_short_is_made_again_by_the_same_command_and_no_tile_is(make_scene, settings_for, name):
    settings = settings_for(make_scene(), report=False, **{"vectors.lines": ("road",), "vectors.formats": ("geojson",)})
    first = run(settings)
    path = Path(first["out"]) / name
    whole = path.stat().st_size
    cut(path)
    assert path.stat().st_size < whole
    again = run(settings)
    assert path.stat().st_size == whole
    assert (again["tiles"]["computed"], again["tiles"]["reused"]) == (0, first["tiles"]["computed"])


def test_what_a_user_adds_to_a_file_stays(make_scene, settings_for):
    settings = settings_for(make_scene())
    first = run(settings)
    package = Path(first["out"]) / "layers.gpkg"
    package.write_bytes(package.read_bytes() + bytes(4096))
    assert run(settings)["finished"] == first["finished"]
    assert package.stat().st_size == first["bytes"]["layers.gpkg"] + 4096


@pytest.mark.parametrize("damage", ["cut", "list", "keys"])
def test_a_damaged_manifest_is_told_of_and_overwrite_mends_it(make_scene, settings_for, damage):
    settings = settings_for(make_scene())
    first = run(settings)
    manifest = Path(first["out"]) / "run.json"
    if damage == "cut":
        cut(manifest)
    else:
        manifest.write_text(json.dumps([] if damage == "list" else {key: first[key] for key in first if key != "tiles"}))
    with pytest.raises(OutputError, match=r"with a damaged run\.json.*overwrite=true"):
        run(settings)
    again = run(settings.model_copy(update={"overwrite": True}))
    assert json.loads(manifest.read_text())["finished"] == again["finished"]
    assert again["run_key"] == first["run_key"]


@pytest.mark.parametrize("lost", ["plan", "model", "grid"])
def test_a_run_that_cannot_be_read_back_is_made_again_by_the_same_command(make_scene, settings_for, lost):
    settings = settings_for(make_scene())
    first = run(settings)
    manifest = Path(first["out"]) / "run.json"
    data = json.loads(manifest.read_text())
    del (data["plan"] if lost == "grid" else data)[lost]
    manifest.write_text(json.dumps(data))
    with pytest.raises(OutputError, match="run again"):
        read_run(Path(first["out"]))
    assert run(settings)["tiles"]["computed"] == 0
    assert read_run(Path(first["out"])).manifest["plan"] == json.loads(json.dumps(first["plan"]))


def add_files(folder):
    """What people keep beside a run; gives it back by name."""
    (folder / "coarse" / "deep").mkdir(parents=True)
    (folder / "coarse" / "deep" / "notes.txt").write_text("thought about")
    (folder / "project.qgz").write_text("hours of work")
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file() and path.name in {"notes.txt", "project.qgz"}}


@pytest.mark.parametrize("way", ["a file lost", "failed tiles", "another run", "killed"])
def test_what_is_kept_beside_a_run_outlives_it(make_scene, settings_for, way):
    pixels = random_pixels()
    if way == "failed tiles":
        pixels[0, 70:75, 90:95] = 250
    scene = make_scene(pixels=pixels)
    flags = {"model": "fake_segmenter:failing", "sets": ["radiometry.high_percent=100"]} if way == "failed tiles" else {}
    formats = {"vectors.formats": ("geojson",)}
    folder = Path(run(settings_for(scene, **flags, **formats))["out"])
    kept = add_files(folder)
    if way == "killed":  # between the new run's coming and the old one's going
        shutil.copytree(folder, folder.parent / f".{folder.name}.old")
        shutil.rmtree(folder / "coarse")
        (folder / "project.qgz").unlink()
    (folder / "labels.qml").unlink()
    more = {"classes": ("road",), "overwrite": True} if way == "another run" else formats
    run(settings_for(scene, **flags, **more))
    assert {path: path.read_text() for path in kept} == kept
    assert (folder / "road.geojson").is_file() == (way != "another run")
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")] == []


def test_a_report_that_is_drawn_while_another_run_takes_the_place_is_thrown_away(make_scene, settings_for, monkeypatch):
    scene = make_scene()
    settings = settings_for(scene, classes=("road", "water"))
    first = run(settings)
    (Path(first["out"]) / "report.html").unlink()
    draw = report.draw_report

    def draw_slowly(*args):
        page = draw(*args)
        monkeypatch.setattr(report, "draw_report", draw)
        run(settings_for(scene, classes=("building", "water", "road"), overwrite=True, report=False))
        return page

    monkeypatch.setattr(report, "draw_report", draw_slowly)
    notes = Notes()
    found = run(settings, notes)
    assert any("another one in" in note for note in notes.said)
    assert "report.html" not in found["files"]
    manifest = json.loads((Path(first["out"]) / "run.json").read_text())
    assert [c["name"] for c in manifest["classes"]] == ["building", "water", "road"]
    assert not (Path(first["out"]) / "report.html").exists()
    with pytest.raises(OutputError, match="another one"):
        amend(Path(first["out"]), first, first, "page")


@pytest.mark.parametrize("asked", [True, False])
def test_a_report_that_is_gone_for_good_is_no_longer_listed(make_scene, settings_for, monkeypatch, asked):
    scene = make_scene()
    out = Path(run(settings_for(scene))["out"])
    (out / "report.html").unlink()
    kept = {path: path.read_bytes() for path in out.iterdir() if path.name != "run.json"}
    monkeypatch.setattr(report, "draw_report", lambda *_: 1 / 0)
    found = run(settings_for(scene, report=asked))
    assert "report.html" not in found["files"]
    assert json.loads((out / "run.json").read_text())["files"] == found["files"] == sorted(path.name for path in kept)
    assert {path: path.read_bytes() for path in out.iterdir() if path.name != "run.json"} == kept


def test_code_that_makes_other_products_makes_other_runs(make_scene, settings_for, monkeypatch):
    settings = settings_for(make_scene())
    before = plan_run(settings)
    monkeypatch.setattr(plan, "PRODUCT_FORMAT", keys.PRODUCT_FORMAT + 1)
    after = plan_run(settings)
    assert before.run_key != after.run_key
    assert before.job.store.where == after.job.store.where


def test_another_licence_of_the_scenes_is_another_run_over_the_same_tiles(make_scene, settings_for, tmp_path):
    make_scene("images/a_20240101.tif")
    catalog = tmp_path / "catalog.json"
    add_scenes(catalog, [str(tmp_path / "images")])
    before = plan_run(settings_for(catalog))
    collection = tmp_path / "scenes" / "collection.json"
    collection.write_text(json.dumps(json.loads(collection.read_text()) | {"license": "CC-BY-4.0"}))
    after = plan_run(settings_for(catalog))
    assert [scene.licence for scene in after.job.scenes] == ["CC-BY-4.0"]
    assert before.run_key != after.run_key
    assert before.job.store.where == after.job.store.where
