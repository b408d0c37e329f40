"""Scenes of several dates, each by itself."""

import json

import geopandas as gpd
import pytest
import shapely
from conftest import random_pixels
from run_folder import labels_of
from typer.testing import CliRunner

from rs_pipeline.cli import app
from rs_pipeline.errors import AoiError, CatalogError, OutputError, RasterError
from rs_pipeline.per_scene import each_scene
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute, run


def run_each(settings):
    return each_scene(settings, lambda plan: execute(plan, Silent()), Silent())


@pytest.fixture
def archive(make_scene, tmp_path):
    make_scene("archive/old_20200101.tif", random_pixels(seed=1), nodata=0)
    make_scene("archive/new_20240101.tif", random_pixels(seed=2), nodata=0)
    return tmp_path / "archive"


def test_scenes_kept_apart_are_what_each_gives_alone(archive, settings_for, tmp_path):
    found = run_each(settings_for(archive, out=str(tmp_path / "apart"), per_scene=True))
    assert [r["scenes"][0]["id"] for r in found["runs"]] == ["new_20240101", "old_20200101"]
    assert not found["failed"]
    for name in ("new_20240101", "old_20200101"):
        alone = run(settings_for(archive / f"{name}.tif", out=str(tmp_path / "alone" / name)))
        assert (labels_of(tmp_path / "apart" / name) == labels_of(alone["out"])).all()
        assert set(gpd.read_file(tmp_path / "apart" / name / "layers.gpkg", layer="road")["scene"]) == {name}


def test_scenes_can_be_chosen_by_id(archive, settings_for):
    summary = run(settings_for(archive, scenes=("old_20200101",)))
    assert [s["id"] for s in summary["scenes"]] == ["old_20200101"]
    with pytest.raises(CatalogError, match=r"new_20240101.*got another"):
        run(settings_for(archive, scenes=("another",)))


def test_a_scene_that_cannot_be_done_does_not_keep_the_others_from_it(archive, make_scene, settings_for, tmp_path):
    make_scene("archive/blank_20220101.tif", random_pixels() * 0, nodata=0)
    found = run_each(settings_for(archive, out=str(tmp_path / "apart"), per_scene=True))
    assert len(found["runs"]) == 2
    assert [f["scene"] for f in found["failed"]] == ["blank_20220101"]
    assert not (tmp_path / "apart" / "blank_20220101").exists()
    with pytest.raises(RasterError, match="valid pixels"):
        run_each(settings_for(archive, out=str(tmp_path / "none"), scenes=("blank_20220101",), per_scene=True))


def test_the_command_line_says_what_became_of_each(archive, make_scene, tmp_path):
    make_scene("archive/blank_20220101.tif", random_pixels() * 0, nodata=0)
    flags = ["--source", str(archive), "--classes", "road", "--model", "fake_segmenter:pointwise", "--out", str(tmp_path / "apart")]
    result = CliRunner().invoke(app, ["run", *flags, "--per-scene", "--json"])
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert [f["scene"] for f in found["failed"]] == ["blank_20220101"]
    assert {r["status"] for r in found["runs"]} == {"complete"}
    result = CliRunner().invoke(app, ["run", *flags, "--per-scene", "--dry-run", "--json", "--set", "scenes=[old_20200101]"])
    assert [[s["id"] for s in r["scenes"]] for r in json.loads(result.stdout)["runs"]] == [["old_20200101"]]


def test_a_scene_that_the_area_only_touches_is_left_out(archive, make_scene, settings_for, tmp_path):
    make_scene("archive/beside_20220101.tif", random_pixels(seed=3), origin=(500_085.0, 5_300_000.0))
    aoi = tmp_path / "aoi.gpkg"
    gpd.GeoDataFrame(geometry=[shapely.box(500_010, 5_299_940, 500_085.1, 5_299_990)], crs="EPSG:32632").to_file(aoi)
    found = run_each(settings_for(archive, out=str(tmp_path / "apart"), aoi=str(aoi), per_scene=True))
    assert [r["scenes"][0]["id"] for r in found["runs"]] == ["new_20240101", "old_20200101"]
    assert not found["failed"]
    with pytest.raises(AoiError):
        run_each(settings_for(archive, aoi=str(aoi), scenes=("beside_20220101",), per_scene=True))


def test_scenes_do_not_go_into_a_run_of_another_kind(archive, settings_for, tmp_path):
    one = run(settings_for(archive))
    with pytest.raises(OutputError, match="is a run itself"):
        run_each(settings_for(archive, out=one["out"], per_scene=True))


def test_an_image_s_header_is_read_once_however_many_scenes_there_are(archive, make_scene, settings_for, tmp_path, monkeypatch):
    from rs_pipeline import catalog

    for year in range(2001, 2006):
        make_scene(f"archive/s_{year}0101.tif", random_pixels(40, 40, seed=year))
    described, describe = [], catalog.describe
    monkeypatch.setattr(catalog, "describe", lambda href: described.append(href) or describe(href))
    run_each(settings_for(archive, out=str(tmp_path / "apart"), per_scene=True))
    assert len(described) == 7
