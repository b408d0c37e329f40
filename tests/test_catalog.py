import datetime as dt
import json
import shutil

import pystac
import pytest
import shapely
from conftest import random_pixels

from rs_pipeline.catalog import find_entries, find_scenes
from rs_pipeline.catalog_check import validate_catalog, validate_offline
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import CatalogError, UsageError
from rs_pipeline.query import Query, parse_interval
from rs_pipeline.stac_assets import image_asset
from rs_pipeline.stac_sources import read_items

ALL = Query()


def ids(scenes):
    return [s.id for s in scenes]


def test_a_file_a_folder_and_a_catalog_give_the_same_scenes(make_scene, tmp_path):
    make_scene("archive/a_20240501.tif")
    make_scene("archive/deep/b-2024-06-01.TIFF")
    (tmp_path / "archive" / "notes.txt").write_text("not an image")
    folder = find_scenes([str(tmp_path / "archive")], ALL)
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "archive")], None)
    catalog = find_scenes([str(tmp_path / "cat" / "catalog.json")], ALL)
    assert sorted(ids(folder)) == sorted(ids(catalog)) == ["a_20240501", "b-2024-06-01"]
    assert {(s.info.href, s.datetime) for s in folder} == {(s.info.href, s.datetime) for s in catalog}
    assert next(s for s in folder if s.id == "a_20240501").iso_datetime == "2024-05-01T00:00:00Z"


def test_the_name_says_when_else_the_tag_else_nobody(make_scene):
    import rasterio

    both, tagged, plain = make_scene("x_20200101.tif"), make_scene("y.tif"), make_scene("scene_12345678.tif")
    for path in (both, tagged):
        with rasterio.open(path, "r+") as file:
            file.update_tags(TIFFTAG_DATETIME="2021:02:03 04:05:06")
    found = [find_scenes([str(path)], ALL)[0].datetime for path in (both, tagged, plain)]
    assert found == [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2021, 2, 3, 4, 5, 6, tzinfo=dt.UTC), None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["a_20240501", "b_20240601", "c"]),
        ("2024-05-01", ["a_20240501"]),
        ("2024-05-01/2024-05-31", ["a_20240501"]),
        ("20240501/20240601", ["a_20240501", "b_20240601"]),
        ("2024-05-01/2024-06-01", ["a_20240501", "b_20240601"]),
        ("2024-05-15/", ["b_20240601"]),
        ("../2024-06-01", ["a_20240501", "b_20240601"]),
        ("/", ["a_20240501", "b_20240601", "c"]),
    ],
)
def test_dates_choose_scenes_both_ends_included(make_scene, tmp_path, text, expected):
    for name in ("a_20240501", "b_20240601", "c"):
        make_scene(f"archive/{name}.tif")
    assert sorted(ids(find_scenes([str(tmp_path / "archive")], Query(parse_interval(text))))) == expected


@pytest.mark.parametrize("text", ["yesterday", "2024-06-01/2024-05-01", "2024-13-01"])
def test_bad_dates_are_a_usage_error(text):
    with pytest.raises(UsageError, match="--datetime") as caught:
        parse_interval(text)
    assert caught.value.exit_code == 2


def test_the_aoi_chooses_scenes(make_scene, tmp_path):
    near = make_scene("archive/near.tif")
    make_scene("archive/far.tif", origin=(600_000, 5_400_000))
    (scene,) = find_scenes([str(near)], ALL)
    aoi = shapely.box(*scene.info.footprint.bounds).buffer(1e-5)
    assert ids(find_scenes([str(tmp_path / "archive")], Query(aoi=aoi))) == ["near"]
    with pytest.raises(CatalogError, match="a scene that meets the AOI"):
        find_scenes([str(near)], Query(aoi=shapely.box(0, 0, 1, 1)))


def test_equal_names_in_two_folders_stay_apart(make_scene, tmp_path):
    paths = [make_scene(f"archive/{folder}/x/scene.tif") for folder in ("a", "b")]
    assert len(set(ids(find_scenes([str(tmp_path / "archive")], ALL)))) == 2
    catalog = tmp_path / "together" / "catalog.json"
    assert len(add_scenes(catalog, [str(tmp_path / "archive")]).added) == len(read_items(str(catalog))) == 2
    catalog = tmp_path / "apart" / "catalog.json"
    for path in paths:
        assert add_scenes(catalog, [str(path)], None)[1] == []
    assert {s.info.href for s in find_scenes([str(catalog)], ALL)} == {str(p) for p in paths}
    assert add_scenes(catalog, [str(paths[1])], None)[0] == []
    assert len(read_items(str(catalog))) == 2


def test_an_undated_image_stays_undated_in_a_catalog(make_scene, tmp_path):
    catalog = tmp_path / "cat" / "catalog.json"
    add_scenes(catalog, [str(make_scene("undated.tif"))], None)
    assert find_scenes([str(catalog)], ALL)[0].datetime is None
    with pytest.raises(CatalogError, match="in the dates asked"):
        find_scenes([str(catalog)], Query(parse_interval("/2030-01-01")))


def test_what_runs_leave_in_a_folder_is_no_scene(make_scene, tmp_path):
    make_scene("work/a.tif")
    make_scene("work/outputs/run-1/labels.tif")
    (tmp_path / "work" / "outputs" / "run-1" / "run.json").write_text("{}")
    make_scene("work/outputs/.run-2.part-1/labels.part.tif")
    assert ids(find_scenes([str(tmp_path / "work")], ALL)) == ["a"]


def test_adding_twice_renews_and_does_not_double(make_scene, tmp_path):
    scene = make_scene("a_20240501.tif")
    catalog = tmp_path / "cat" / "catalog.json"
    assert add_scenes(catalog, [str(scene)], None) == (["a_20240501"], [], [])
    assert add_scenes(catalog, [str(scene)], dt.datetime(2020, 1, 1, tzinfo=dt.UTC)) == ([], ["a_20240501"], [])
    (item,) = read_items(str(catalog))
    assert item.datetime == dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    add_scenes(catalog, [str(make_scene("b.tif"))], None)
    assert sorted(i.id for i in read_items(str(catalog))) == ["a_20240501", "b"]


def test_items_are_valid_stac_and_small(make_scene, tmp_path):
    catalog = tmp_path / "cat" / "catalog.json"
    add_scenes(catalog, [str(make_scene("a_20240501.tif")), str(make_scene("undated.tif"))], None)
    assert validate_catalog(str(catalog)) == (2, [])
    root = pystac.Catalog.from_file(str(catalog))
    validate_offline()
    root.validate_all()
    for item in read_items(str(catalog)):
        assert item.properties["gsd"] == pytest.approx(0.5, rel=1e-2)
        assert len(json.dumps(item.to_dict())) < 4000


def test_a_catalog_moved_with_its_images_still_works(make_scene, tmp_path):
    make_scene("one/images/a.tif")
    add_scenes(tmp_path / "one" / "catalog.json", [str(tmp_path / "one" / "images")], None)
    shutil.move(tmp_path / "one", tmp_path / "two")
    (scene,) = find_scenes([str(tmp_path / "two" / "catalog.json")], ALL)
    assert scene.info.href == str(tmp_path / "two" / "images" / "a.tif")


def test_a_missing_image_is_found_by_validation(make_scene, tmp_path):
    path = make_scene("a.tif")
    catalog = tmp_path / "cat" / "catalog.json"
    add_scenes(catalog, [str(path)], None)
    path.unlink()
    _, (problem,) = validate_catalog(str(catalog))
    assert problem.startswith("a: expected the image of item a")
    with pytest.raises(CatalogError, match=r"nothing at .*a\.tif"):
        find_scenes([str(catalog)], ALL)


def test_bad_sources_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1, 2]")
    for source, message in {
        "missing.json": "rs-seg demo",
        "empty": "a folder with GeoTIFFs",
        "broken.json": "a STAC catalog",
        "other.json": "a STAC catalog",
        "list.json": "a STAC catalog",
    }.items():
        with pytest.raises(CatalogError, match=message) as caught:
            find_scenes([str(tmp_path / source)], ALL)
        assert "\n" not in str(caught.value)


def test_an_existing_file_that_is_no_catalog_is_not_overwritten(make_scene, tmp_path):
    path = tmp_path / "catalog.json"
    for content in ('{"precious": true}', "[1, 2]", "{"):
        path.write_text(content)
        with pytest.raises(CatalogError, match="a STAC catalog"):
            add_scenes(path, [str(make_scene("a.tif"))], None)
        assert path.read_text() == content


def test_real_stac_items_are_read(shared_data):
    items = {i.id: i for i in read_items(str(shared_data / "stac_fixtures" / "stac-spec" / "examples" / "catalog.json"))}
    assert set(items) == {"CS3-20160503_132131_08", "proj-example"}
    with pytest.raises(CatalogError, match="2 GeoTIFF assets"):
        image_asset(items["CS3-20160503_132131_08"])


def test_items_with_extensions_are_validated_without_a_network(shared_data):
    _, problems = validate_catalog(str(shared_data / "stac_fixtures" / "stactools" / "planet-disaster" / "collection.json"))
    assert all("schema" not in problem.lower() for problem in problems)


def test_pixels_do_not_matter_to_a_catalog(make_scene, tmp_path):
    add_scenes(tmp_path / "c" / "catalog.json", [str(make_scene("grey.tif", random_pixels(bands=1)))], None)
    assert len(read_items(str(tmp_path / "c" / "catalog.json"))) == 1


@pytest.mark.parametrize(("text", "taken"), [("2024-03-15", True), ("2024-01-01/2024-03-01", True), ("2024-06-02/", False), (None, True)])
def test_an_item_of_a_range_of_time_is_taken_where_the_ranges_meet(make_scene, tmp_path, text, taken):
    catalog = tmp_path / "catalog.json"
    add_scenes(catalog, [str(make_scene("images/a.tif"))])
    path = tmp_path / "scenes" / "a" / "a.json"
    content = json.loads(path.read_text())
    del content["properties"]["rs_seg:undated"]
    content["properties"] |= {"start_datetime": "2024-03-01T00:00:00Z", "end_datetime": "2024-06-01T00:00:00+02:00"}
    path.write_text(json.dumps(content))
    found = find_entries([str(path)], Query(parse_interval(text)))
    assert [e.datetime for e in found] == [dt.datetime(2024, 3, 1, tzinfo=dt.UTC)] * taken
