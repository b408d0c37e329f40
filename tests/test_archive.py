"""An archive worked through in plain Python: once each, whatever happens to one of them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pystac
import pytest
from conftest import random_pixels
from run_folder import labels_of
from typer.testing import CliRunner

from rs_pipeline.archive import do_item, find_agenda, name_of, open_archive, run_archive
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.cli import app
from rs_pipeline.errors import CatalogError, ConfigError
from rs_pipeline.plan import plan_run
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute, run


@pytest.fixture
def archive(dated_archive, tmp_path, monkeypatch):
    """Its runs write down the tiles that they compute."""
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(tmp_path / "tiles.log"))
    dated_archive["run"]["model"] = "fake_segmenter:counting"
    return dated_archive


def work(archive, **flags):
    return run_archive(open_archive(archive), lambda settings: execute(plan_run(settings), Silent()), Silent(), **flags)


def tiles_computed(tmp_path):
    log = tmp_path / "tiles.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def statuses(found):
    return {item["item"]: item["status"] for item in found["items"]}


def test_each_item_becomes_a_run_of_its_own_and_a_product(archive, settings_for, tmp_path):
    found = work(archive)
    assert found["status"] == "complete"
    assert statuses(found) == {f"scenes/s_{date}": "done" for date in ("20240101", "20240201", "20240301")}
    alone = run(settings_for(tmp_path / "images" / "s_20240201.tif", classes=("road", "water"), out=str(tmp_path / "alone")))
    np.testing.assert_array_equal(labels_of(tmp_path / "runs" / "scenes" / "s_20240201"), labels_of(alone["out"]))
    products = list(pystac.read_file(tmp_path / "cat" / "catalog.json").get_child("products").get_items())
    assert len(products) == 3
    assert {link.get_target_str().rsplit("/", 1)[-1] for p in products for link in p.get_links("derived_from")} == {
        f"s_{date}.json" for date in ("20240101", "20240201", "20240301")
    }


def test_what_is_published_is_not_done_again(archive, tmp_path):
    work(archive)
    before = tiles_computed(tmp_path)
    found = work(archive)
    assert (found["items"], found["already_done"], found["status"]) == ([], 3, "complete")
    assert tiles_computed(tmp_path) == before
    assert find_agenda(open_archive(archive)).todo == ()


def test_a_new_item_and_a_changed_one_are_all_that_is_done(archive, make_scene, tmp_path):
    work(archive)
    make_scene("images/s_20240201.tif", random_pixels(seed=8), nodata=0)
    make_scene("images/late_20230101.tif", random_pixels(seed=9), nodata=0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    found = work(archive)
    assert statuses(found) == {"scenes/s_20240201": "done", "scenes/late_20230101": "done"}
    assert found["already_done"] == 2


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"classes": ["road", "building"]}, True),
        ({"scoring": {"threshold": 0.25}}, True),
        ({"tile_px": 96}, True),
        ({"workers": {"cluster": "in-process", "batch_size": 2}}, False),
        ({"max_cloud_cover": None}, False),
    ],
)
def test_only_settings_that_decide_the_products_bring_items_up_again(archive, change, again):
    work(archive)
    archive["run"] |= change
    assert len(find_agenda(open_archive(archive)).todo) == (3 if again else 0)


def test_another_area_under_the_same_name_brings_items_up_again(archive, tmp_path):
    def area(size):
        x, y = 500_010.0, 5_299_950.0
        ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
        feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))

    area(20)
    archive["run"]["aoi"] = str(tmp_path / "aoi.geojson")
    assert work(archive)["status"] == "complete"
    assert find_agenda(open_archive(archive)).todo == ()
    area(30)
    assert len(find_agenda(open_archive(archive)).todo) == 3


def test_what_was_replaced_meanwhile_is_not_taken_for_done(archive, make_scene, tmp_path):
    work(archive)
    work(archive | {"run": archive["run"] | {"classes": ["road"]}})
    assert len(find_agenda(open_archive(archive)).todo) == 3
    work(archive)
    before = (tmp_path / "images" / "s_20240101.tif").read_bytes()
    for content in (None, before):
        make_scene("images/s_20240101.tif", random_pixels(seed=5), nodata=0)
        if content is not None:
            (tmp_path / "images" / "s_20240101.tif").write_bytes(content)
        add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
        assert statuses(work(archive)) == {"scenes/s_20240101": "done"}


def test_files_that_refinements_name_count_by_what_is_in_them(archive, tmp_path):
    gate = tmp_path / "gate.safetensors"
    archive["run"]["refine"] = {"steps": ["query_gate"], "query_gate": {"by": "mlp", "weights": str(gate)}}
    keys = []
    for content in (b"one", b"two"):
        gate.write_bytes(content)
        keys.append(open_archive(archive).key)
    assert keys[0] != keys[1]


def test_an_area_that_cannot_be_read_settles_nothing(archive, tmp_path):
    area = tmp_path / "aoi.geojson"
    west, south = 9.0, 47.8
    ring = [[west - 1, south - 1], [west + 1, south - 1], [west + 1, south + 1], [west - 1, south + 1], [west - 1, south - 1]]
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    archive["run"]["aoi"] = str(area)
    archive["attempts"] = 1
    opened = open_archive(archive)
    todo, text = find_agenda(opened).todo, area.read_text()
    assert len(todo) == 3
    area.unlink()
    outcomes = [do_item(opened, entry, lambda settings: execute(plan_run(settings), Silent()), Silent()) for entry in todo]
    assert {outcome.status for outcome in outcomes} == {"failed"}
    area.write_text(text)
    assert work(archive)["status"] == "complete"


def test_a_run_folder_that_was_removed_is_made_again(archive, tmp_path):
    work(archive)
    shutil.rmtree(tmp_path / "runs" / "scenes" / "s_20240101")
    assert statuses(work(archive)) == {"scenes/s_20240101": "done"}


def test_without_its_table_an_archive_finds_what_is_there_and_computes_nothing(archive, tmp_path):
    work(archive)
    before = tiles_computed(tmp_path)
    (tmp_path / "runs" / ".archive" / "items.sqlite").unlink()
    assert statuses(work(archive)) == {f"scenes/s_{date}": "done" for date in ("20240101", "20240201", "20240301")}
    assert tiles_computed(tmp_path) == before


def test_an_item_that_fails_does_not_stop_the_others_and_is_given_up_in_the_end(archive, tmp_path):
    archive["attempts"] = 2
    broken = tmp_path / "images" / "s_20240201.tif"
    kept = broken.read_bytes()
    broken.write_bytes(kept[:-2000])
    first = work(archive)
    assert first["status"] == "partial"
    assert statuses(first) == {"scenes/s_20240101": "done", "scenes/s_20240201": "failed", "scenes/s_20240301": "done"}
    [error] = [item["error"] for item in first["items"] if item["error"]]
    assert "s_20240201" in error
    assert statuses(work(archive)) == {"scenes/s_20240201": "failed"}
    third = work(archive)
    assert (third["items"], [row["item"] for row in third["given_up"]], third["status"]) == ([], ["scenes/s_20240201"], "partial")
    stat = broken.stat()
    broken.write_bytes(kept)
    os.utime(broken, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert statuses(work(archive, retry=True)) == {"scenes/s_20240201": "done"}
    assert work(archive)["status"] == "complete"


def test_an_item_that_kills_its_process_is_given_up_and_the_others_are_done(archive, make_scene, tmp_path):
    pixels = random_pixels(seed=1)
    pixels[0, 70:80, 70:80] = 255
    make_scene("images/s_20240101.tif", pixels, nodata=0)
    for date in ("20240201", "20240301"):
        calm = random_pixels(seed=3)
        calm[0] = 90
        make_scene(f"images/s_{date}.tif", calm, nodata=0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    archive["run"] |= {"model": "fake_segmenter:killing", "radiometry": {"low_percent": 0.0, "high_percent": 99.9}, "bands": [1, 1, 1]}
    archive["attempts"] = 2
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    command = [sys.executable, "-m", "rs_pipeline", "archive", "run", str(tmp_path / "archive.yaml"), "--json"]
    codes = [subprocess.run(command, check=False, capture_output=True).returncode for _ in range(3)]
    assert codes == [-9, -9, 3]
    agenda = find_agenda(open_archive(archive))
    assert [row.item for row in agenda.given_up] == ["scenes/s_20240101"]
    assert agenda.given_up[0].error == "a process died over it"
    assert len(agenda.done) == 2


def test_what_is_not_an_item_s_fault_is_not_held_against_it(archive, tmp_path):
    archive["attempts"] = 1
    away = archive | {"run": archive["run"] | {"workers": {"cluster": "tcp://127.0.0.1:9", "connect_timeout_s": 0.5}}}
    for _ in range(2):
        found = work(away)
        assert set(statuses(found).values()) == {"failed"}
        assert not found["given_up"]
    products = tmp_path / "products" / "catalog.json"
    products.parent.mkdir()
    products.write_text("{")
    archive["products"] = str(products)
    for _ in range(2):
        found = work(archive)
        assert found["status"] == "failed"
        assert "published, but not in the catalog of products" in found["items"][0]["error"]
    computed = tiles_computed(tmp_path)
    products.unlink()
    assert work(archive)["status"] == "complete"
    assert tiles_computed(tmp_path) == computed


def test_removing_run_folders_does_not_use_up_attempts(archive, tmp_path):
    archive["attempts"] = 1
    for _ in range(3):
        assert work(archive)["status"] == "complete"
        shutil.rmtree(tmp_path / "runs" / "scenes" / "s_20240101")


def test_an_item_that_is_no_stac_is_one_failure(archive, tmp_path):
    (tmp_path / "cat" / "scenes" / "s_20240201" / "s_20240201.json").write_text("{")
    found = work(archive)
    assert statuses(found) == {"scenes/s_20240101": "done", "scenes/s_20240201": "failed", "scenes/s_20240301": "done"}


def test_a_table_that_cannot_be_written_is_a_failure_of_each_item(archive, monkeypatch):
    from rs_pipeline.errors import OutputError
    from rs_pipeline.ledger import Ledger

    def full(ledger, row):
        raise OutputError("room", "none", "Free some.")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "enter", full)
        assert set(statuses(work(archive)).values()) == {"failed"}
    assert work(archive)["status"] == "complete"


def test_images_of_the_second_of_two_items_of_one_name_go_nowhere(archive, make_scene, tmp_path):
    make_scene("others/s_20240101.tif", random_pixels(seed=6), nodata=0)
    add_scenes(tmp_path / "cat2" / "catalog.json", [str(tmp_path / "others")], None)
    archive["run"]["source"] += [str(tmp_path / "cat2" / "catalog.json")]
    found = work(archive)
    assert sorted((item["item"], item["status"]) for item in found["items"]) == [
        ("scenes/s_20240101", "done"), ("scenes/s_20240101", "failed"), ("scenes/s_20240201", "done"), ("scenes/s_20240301", "done"),
    ]  # fmt: skip
    assert "unique in a collection" in next(item["error"] for item in found["items"] if item["error"])


def test_an_item_whose_image_is_gone_is_one_failure(archive, tmp_path):
    (tmp_path / "images" / "s_20240101.tif").unlink()
    assert statuses(work(archive)) == {"scenes/s_20240101": "failed", "scenes/s_20240201": "done", "scenes/s_20240301": "done"}


def test_a_wrong_checksum_is_found_where_it_is_looked_for(archive, tmp_path):
    image = tmp_path / "images" / "s_20240301.tif"
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(bytes(content))
    archive["verify_checksums"] = True
    found = work(archive)
    assert statuses(found)["scenes/s_20240301"] == "failed"
    assert "checksum" in next(item["error"] for item in found["items"] if item["error"])


def test_an_item_that_changes_while_it_is_computed_fails_and_comes_up_again(archive, make_scene, tmp_path):
    opened = open_archive(archive)
    entry = next(e for e in find_agenda(opened).todo if e.id == "s_20240201")

    def change_after(settings):
        plan = plan_run(settings)
        make_scene("images/s_20240201.tif", random_pixels(seed=7), nodata=0)
        return execute(plan, Silent())

    outcome = do_item(opened, entry, change_after, Silent())
    assert (outcome.status, "which changed" in outcome.error) == ("failed", True)
    assert not (tmp_path / "runs" / "scenes" / "s_20240201").exists()
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    assert statuses(work(archive))["scenes/s_20240201"] == "done"


def test_an_image_outside_the_roots_is_one_failure(archive, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    outside = tmp_path / "images" / "s_20240301.tif"
    outside.rename(tmp_path / "elsewhere" / "s.tif")
    outside.symlink_to(tmp_path / "elsewhere" / "s.tif")
    archive["run"]["roots"] = [str(tmp_path / "images")]
    found = work(archive)
    assert statuses(found) == {"scenes/s_20240101": "done", "scenes/s_20240201": "done", "scenes/s_20240301": "failed"}
    assert "in item s_20240301" in next(item["error"] for item in found["items"] if item["error"])


def test_tiles_that_fail_make_the_item_partial_and_only_they_are_tried_again(archive, make_scene, tmp_path):
    archive["run"] |= {"model": "fake_segmenter:failing", "radiometry": {"low_percent": 0.0, "high_percent": 100.0}}
    found = work(archive)
    assert set(statuses(found).values()) == {"partial"}
    assert "tiles failed, the first: RuntimeError: red is too much" in found["items"][0]["error"]
    assert found["status"] == "failed"
    assert (tmp_path / "runs" / "scenes" / "s_20240101" / "layers.gpkg").is_file()
    again = json.loads((Path(work(archive)["items"][0]["out"]) / "run.json").read_text())
    assert again["tiles"]["computed"] == 0
    assert again["tiles"]["reused"] > 0


def test_an_item_without_a_pixel_of_the_area_is_settled(archive, make_scene, tmp_path):
    pixels = random_pixels(seed=4)
    pixels[:, :, 60:] = 0
    make_scene("images/s_20240401.tif", pixels, nodata=0, gsd=1.0)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    found = work(archive)
    assert found["status"] == "complete"
    assert work(archive)["items"] == []


def test_tile_stores_of_published_items_go_unless_they_are_to_stay(archive, tmp_path):
    work(archive)
    assert not (tmp_path / "runs" / "scenes" / ".tiles").exists()
    archive["keep_tiles"] = True
    archive["run"]["classes"] = ["water"]
    work(archive)
    assert (tmp_path / "runs" / "scenes" / ".tiles").is_dir()


def test_of_two_at_one_item_the_second_leaves_it_alone(archive):
    opened = open_archive(archive)
    entry = find_agenda(opened).todo[0]
    with opened.claim(entry):
        other = open_archive(archive)
        outcome = do_item(other, entry, lambda settings: pytest.fail("computed twice"), Silent())
    assert outcome.status == "busy"
    assert not outcome.is_trouble


def test_what_another_finished_meanwhile_is_not_done_again(archive):
    opened = open_archive(archive)
    entry = find_agenda(opened).todo[0]
    work(archive)
    assert do_item(opened, entry, lambda settings: pytest.fail("computed twice"), Silent()).status == "done"


def test_two_schedules_at_once_compute_nothing_twice(archive, tmp_path):
    archive["run"]["model"] = "fake_segmenter:counting"
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    command = [sys.executable, "-m", "rs_pipeline", "archive", "run", str(tmp_path / "archive.yaml"), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(item["status"] == "done" and item["seconds"] > 0 for found in said for item in found["items"]) == 3
    assert tiles_computed(tmp_path) == 3 * 12
    assert find_agenda(open_archive(archive)).todo == ()


def test_an_archive_killed_at_any_moment_goes_on(archive, tmp_path):
    archive["run"]["model"] = "fake_segmenter:pausing"
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    command = [sys.executable, "-m", "rs_pipeline", "archive", "run", str(tmp_path / "archive.yaml")]
    rng = np.random.default_rng(5)
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(1.0, 3.0)))
        process.kill()
        process.wait()
    found = work(archive)
    assert found["status"] == "complete"
    assert len(find_agenda(open_archive(archive)).done) == 3
    for date in ("20240101", "20240201", "20240301"):
        assert (tmp_path / "runs" / "scenes" / f"s_{date}" / "run.json").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "x"}, "Did you mean 'name'"),
        ({"name": "No Spaces"}, "name"),
        ({"run": {"clases": ["road"]}}, "Did you mean 'classes'"),
        ({"run": {"out": "x", "classes": ["road"]}}, r"run\.out"),
        ({"look_back_days": 3, "run": {"datetime": "2024-01-01/..", "classes": ["road"]}}, "dates once"),
        ({"stages": {"infer": {"retries": -1}}}, r"stages\.infer\.retries"),
        ({"stages": {"paint": {"retries": 1}}}, r"stages\.paint"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(archive, change, said):
    with pytest.raises(ConfigError, match=said):
        open_archive(archive | change)


def test_a_look_back_finds_late_items_within_it_and_none_before(archive):
    import datetime as dt

    days = (dt.datetime.now(dt.UTC) - dt.datetime(2024, 2, 15, tzinfo=dt.UTC)).days
    archive["look_back_days"] = days
    assert [name_of(entry) for entry in find_agenda(open_archive(archive)).todo] == ["scenes/s_20240301"]


def test_a_catalog_that_is_not_there_is_an_error(archive):
    archive["run"]["source"] = ["nowhere/catalog.json"]
    with pytest.raises(CatalogError, match="nowhere"):
        work(archive)


def test_the_command_line_runs_and_tells(archive, tmp_path):
    (tmp_path / "images" / "s_20240101.tif").unlink()
    (tmp_path / "archive.yaml").write_text(json.dumps(archive))
    config = str(tmp_path / "archive.yaml")
    before = CliRunner().invoke(app, ["archive", "status", config])
    assert "3 items, 0 done, 3 to do, 0 given up" in before.stdout
    result = CliRunner().invoke(app, ["archive", "run", config])
    assert result.exit_code == 3
    assert "scenes/s_20240101: " in result.stdout
    assert "3 tried now, 0 done before, 0 given up; partial" in result.stdout
    status = json.loads(CliRunner().invoke(app, ["archive", "status", config, "--json"]).stdout)
    assert status["to_do"] == ["scenes/s_20240101"]
    assert [row["item"] for row in status["done"]] == ["scenes/s_20240201", "scenes/s_20240301"]


@pytest.mark.parametrize(
    ("collection", "item", "name"),
    [
        ("scenes", "a b", "scenes/a b"),
        ("x", "S2A/10/U", "x/S2A%2F10%2FU"),
        ("..", "..", "%2E./%2E."),
        ("x", "100%", "x/100%25"),
        ("x", "a" * 300, "x/" + "a" * 30 + "-98b1dd6e8d1a9c3a"),
    ],
)
def test_whatever_an_item_is_called_its_folder_is_below_the_archive_s(collection, item, name):
    found = name_of(SimpleNamespace(collection=collection, id=item))
    assert re.sub("-[0-9a-f]{16}$", "", found) == re.sub("-[0-9a-f]{16}$", "", name)


def test_images_by_themselves_keep_their_folders_whatever_else_is_there(archive, make_scene, tmp_path):
    archive["run"]["source"] = [str(tmp_path / "plain")]
    make_scene("plain/2024-01/ortho.tif", random_pixels(seed=1))
    [first] = work(archive)["items"]
    make_scene("plain/2024-02/ortho.tif", random_pixels(seed=2))
    [second] = work(archive)["items"]
    assert Path(first["item"]).name.startswith("ortho-")
    assert first["item"] != second["item"]
    assert work(archive)["already_done"] == 2
