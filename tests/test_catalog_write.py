"""Items of GeoTIFFs: what they say, that they are valid, and that adding some touches no other."""

import datetime as dt
import hashlib
import json
import multiprocessing
import shutil

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import random_pixels
from pyproj import Transformer
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension

from rs_pipeline import catalog_write
from rs_pipeline.catalog import find_scenes
from rs_pipeline.catalog_check import validate_catalog
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.locks import hold
from rs_pipeline.query import Query
from rs_pipeline.run import run
from rs_pipeline.stac_sources import read_items


def read_json(path):
    return json.loads(path.read_text())


def item_path(catalog, name):
    return catalog.parent / "scenes" / name / f"{name}.json"


def footprint_of(path, tmp_path):
    catalog = tmp_path / f"catalog-of-{path.stem}" / "catalog.json"
    add_scenes(catalog, [str(path)])
    assert validate_catalog(str(catalog)) == (1, [])
    footprint = shapely.geometry.shape(read_json(item_path(catalog, path.stem))["geometry"])
    assert footprint.is_valid
    assert all(part.exterior.is_ccw and not part.interiors for part in shapely.get_parts(footprint))
    return footprint


def test_an_item_says_what_the_file_says(make_scene, tmp_path):
    path, catalog = make_scene("images/a_20240501.tif", random_pixels(bands=3), nodata=0, photometric="RGB"), tmp_path / "catalog.json"
    add_scenes(catalog, [str(path)], cloud_cover=12.5)
    (item,) = read_items(str(catalog))
    (key, asset), proj = next(iter(item.assets.items())), ProjectionExtension.ext(item)
    with rasterio.open(path) as file:
        assert (proj.code, proj.shape, proj.transform) == ("EPSG:32632", [file.height, file.width], list(file.transform)[:6])
        assert proj.bbox == list(file.bounds)
    file = FileExtension.ext(asset)
    assert (file.size, file.checksum) == (path.stat().st_size, f"1220{hashlib.sha256(path.read_bytes()).hexdigest()}")
    assert (key, asset.roles, asset.media_type, asset.href) == (
        "image",
        ["data"],
        "image/tiff; application=geotiff",
        "../../images/a_20240501.tif",
    )
    assert item.properties["eo:cloud_cover"] == 12.5
    assert [item.properties[name] for name in ("created", "updated")] == [item.properties["updated"]] * 2
    bands = [{"name": c, "data_type": "uint8", "nodata": 0, "eo:common_name": c} for c in ("red", "green", "blue")]
    assert asset.extra_fields["bands"] == bands
    assert asset.extra_fields["raster:spatial_resolution"] == pytest.approx(0.5, rel=1e-2)
    prefixes = {uri.split("/")[3] for uri in item.stac_extensions}
    assert prefixes == {"projection", "raster", "file", "eo"}
    assert [link.rel for link in item.links if link.rel != "self"] == ["root", "parent", "collection"]
    assert all(link["href"].startswith("../") for link in read_json(item_path(catalog, item.id))["links"])


def test_images_of_all_kinds_have_valid_items(make_scene, tmp_path):
    laea = "+proj=laea +lat_0=48.5 +lon_0=9.25 +datum=WGS84 +units=m"
    make_scene("images/odd.tif", random_pixels(), crs=laea, origin=(0.0, 0.0))
    make_scene("images/four.tif", random_pixels(bands=4, dtype=np.uint16))
    make_scene("images/float.tif", random_pixels(bands=1, dtype=np.float32), nodata=np.nan)
    make_scene("images/turned.tif", transform=Affine.translation(5e5, 53e5) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5))
    make_scene("images/degrees.tif", crs="EPSG:4326", origin=(179.999, 10.0), gsd=1e-5)
    make_scene("images/east.tif", crs="EPSG:32660", origin=(822_000.0, 1_000_000.0), gsd=100.0)
    catalog = tmp_path / "catalog.json"
    assert len(add_scenes(catalog, [str(tmp_path / "images")]).added) == 6
    assert validate_catalog(str(catalog)) == (6, [])
    items = {i.id: i for i in read_items(str(catalog))}
    assert items["odd"].properties["proj:code"] is None
    assert items["odd"].properties["proj:wkt2"].startswith("PROJCRS")
    assert [b["nodata"] for b in items["float"].assets["image"].extra_fields["bands"]] == ["nan"]
    assert [b["name"] for b in items["four"].assets["image"].extra_fields["bands"]] in (
        ["red", "green", "blue", "undefined"],
        [f"band-{n}" for n in range(1, 5)],
    )
    assert items["east"].geometry["type"] == "MultiPolygon"
    assert items["east"].bbox[0::2] == [-180, 180]


def test_the_footprint_is_that_of_the_valid_pixels(make_scene, tmp_path):
    pixels = random_pixels(900, 1100) + 1
    rows, cols = np.mgrid[:900, :1100]
    empty = (rows + cols < 500) | (cols > 900)
    pixels[:, empty] = 0
    footprint = footprint_of(make_scene("collar.tif", pixels, nodata=0), tmp_path)
    to_utm = Transformer.from_crs(4326, 32632, always_xy=True)
    # Independent of how it was made: the pixels' centres, one by one.
    found = shapely.transform(footprint, lambda p: np.column_stack(to_utm.transform(*p.T)))
    inside = shapely.contains_xy(found, 500_000 + (cols + 0.5) * 0.5, 5_300_000 - (rows + 0.5) * 0.5)
    assert inside[~empty].mean() > 0.9999
    assert inside[empty].mean() < 0.04
    outline = shapely.box(500_000, 5_300_000 - 450, 500_550, 5_300_000)
    assert outline.buffer(1.0).contains(found)


def test_masks_and_alpha_count_and_specks_and_holes_do_not(make_scene, tmp_path):
    rng = np.random.default_rng(0)
    speckled = random_pixels(200, 200) + 1
    speckled[:, rng.random((200, 200)) < 0.3] = 0
    whole = footprint_of(make_scene("plain.tif", random_pixels(200, 200) + 1), tmp_path)
    assert footprint_of(make_scene("speckled.tif", speckled, nodata=0), tmp_path).area == pytest.approx(whole.area, rel=0.02)
    assert footprint_of(make_scene("nothing.tif", np.zeros((3, 200, 200), np.uint8), nodata=0), tmp_path).equals_exact(whole, 1e-9)
    alpha = np.concatenate([random_pixels(200, 200), np.zeros((1, 200, 200), np.uint8)])
    alpha[3, :, :100] = 255
    assert footprint_of(make_scene("alpha.tif", alpha, alpha="unassociated"), tmp_path).area == pytest.approx(whole.area / 2, rel=0.02)
    masked = make_scene("masked.tif", random_pixels(200, 200))
    with rasterio.open(masked, "r+") as file:
        file.write_mask(np.arange(200)[:, None] < np.full(200, 50))
    assert footprint_of(masked, tmp_path).area == pytest.approx(whole.area / 4, rel=0.03)


def test_a_footprint_across_the_antimeridian_is_cut_there(make_scene, tmp_path):
    pixels = random_pixels(400, 400) + 1
    pixels[:, :100] = 0
    footprint = footprint_of(
        make_scene("east.tif", pixels, crs="EPSG:32660", origin=(820_000.0, 1_000_000.0), gsd=100.0, nodata=0), tmp_path
    )
    whole = footprint_of(make_scene("whole.tif", pixels, crs="EPSG:32660", origin=(820_000.0, 1_000_000.0), gsd=100.0), tmp_path)
    assert footprint.geom_type == whole.geom_type == "MultiPolygon"
    assert {round(abs(part.bounds[0])) == 180 or round(abs(part.bounds[2])) == 180 for part in footprint.geoms} == {True}
    assert footprint.area == pytest.approx(whole.area * 0.75, rel=0.02)


def test_adding_one_image_touches_no_other_item(make_scene, tmp_path):
    for number in range(5):
        make_scene(f"images/s{number}.tif", random_pixels(40, 40, seed=number))
    catalog = tmp_path / "catalog.json"
    add_scenes(catalog, [str(tmp_path / "images")])
    root, items = catalog.stat(), {n: item_path(catalog, f"s{n}").stat() for n in range(5)}
    make_scene("images/new.tif", origin=(600_000.0, 5_300_000.0))
    make_scene("images/s3.tif", random_pixels(40, 40, seed=9))
    done = add_scenes(catalog, [str(tmp_path / "images")])
    assert done == (["new"], ["s3"], ["s0", "s1", "s2", "s4"])
    changed = {n for n in range(5) if item_path(catalog, f"s{n}").stat().st_mtime_ns != items[n].st_mtime_ns}
    assert (changed, catalog.stat().st_mtime_ns) == ({3}, root.st_mtime_ns)
    collection = tmp_path / "scenes" / "collection.json"
    before = collection.stat().st_mtime_ns
    assert add_scenes(catalog, [str(tmp_path / "images")]) == ([], [], ["new", "s0", "s1", "s2", "s3", "s4"])
    assert collection.stat().st_mtime_ns == before
    boxes = np.array([item.bbox for item in read_items(str(catalog))])
    west, south, east, north = read_json(collection)["extent"]["spatial"]["bbox"][0]
    assert ([west, south], [east, north]) == (boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist())
    assert not [*tmp_path.rglob("*.part")]


def test_what_is_told_later_renews_and_keeps_when_it_was_made(make_scene, tmp_path):
    path, catalog = str(make_scene("a.tif")), tmp_path / "cat" / "catalog.json"
    add_scenes(catalog, [path], checksum=False)
    item = item_path(catalog, "a")
    first = read_json(item)
    assert "file:checksum" not in first["assets"]["image"]
    item.write_text(item.read_text().replace(first["properties"]["created"], "2020-01-01T00:00:00Z"))
    assert add_scenes(catalog, [path], checksum=False).unchanged == ["a"]
    taken = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)
    for told in ({}, {"cloud_cover": 3.0}, {"taken": taken}):
        assert add_scenes(catalog, [path], **told).renewed == ["a"]
        assert add_scenes(catalog, [path], **told).unchanged == ["a"]
    facts = read_json(item)["properties"]
    assert (facts["created"], facts["datetime"]) == ("2020-01-01T00:00:00Z", "2024-05-01T10:30:00Z")
    assert facts["updated"] > facts["created"]
    extent = read_json(catalog.parent / "scenes" / "collection.json")["extent"]["temporal"]["interval"]
    assert extent[0][0] == "1970-01-01T00:00:00Z"


def _add(catalog, path):
    add_scenes(catalog, [path])


def test_processes_that_add_at_once_lose_nothing(make_scene, tmp_path):
    catalog = tmp_path / "cat" / "catalog.json"
    paths = [str(make_scene(f"{folder}/s.tif", random_pixels(40, 40))) for folder in range(8)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(catalog, path)) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert {s.info.href for s in find_scenes([str(catalog)], Query())} == set(paths)
    assert validate_catalog(str(catalog)) == (8, [])


def test_what_was_added_before_an_image_that_cannot_be_read_stays(make_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_write, "_BATCH", 2)
    for number in range(5):
        make_scene(f"images/{number}/s.tif", random_pixels(40, 40))
    make_scene("images/9/s.tif").write_bytes(b"II*\0")
    catalog = tmp_path / "catalog.json"
    with pytest.raises(RasterError, match=r"9/s\.tif"):
        add_scenes(catalog, [str(tmp_path / "images")])
    assert len(find_scenes([str(catalog)], Query())) == 4
    (tmp_path / "images" / "9" / "s.tif").unlink()
    done = add_scenes(catalog, [str(tmp_path / "images")])
    assert (len(done.added), done.renewed, len(done.unchanged)) == (1, [], 4)
    assert len({item.id for item in read_items(str(catalog))}) == 5
    assert validate_catalog(str(catalog)) == (5, [])


def test_who_waits_too_long_for_another_is_told(make_scene, tmp_path, monkeypatch):
    from rs_pipeline import static_catalog

    monkeypatch.setattr(static_catalog, "_PATIENCE_S", 0.1)
    with hold(tmp_path), pytest.raises(CatalogError, match="nobody else adds to"):
        add_scenes(tmp_path / "catalog.json", [str(make_scene("images/a.tif"))])


def test_what_others_put_into_a_catalog_stays(make_scene, tmp_path):
    catalog = tmp_path / "catalog.json"
    add_scenes(catalog, [str(make_scene("a.tif"))])
    root, scenes = read_json(catalog), read_json(tmp_path / "scenes" / "collection.json")
    catalog.write_text(json.dumps(root | {"title": "Ours", "conformsTo": []}))
    (tmp_path / "scenes" / "collection.json").write_text(json.dumps(scenes | {"keywords": ["town"], "license": "CC-BY-4.0"}))
    add_scenes(catalog, [str(make_scene("b.tif"))])
    assert (read_json(catalog)["title"], read_json(tmp_path / "scenes" / "collection.json")["license"]) == ("Ours", "CC-BY-4.0")
    assert isinstance(pystac.Catalog.from_file(str(catalog)).get_child("scenes"), pystac.Collection)


def test_a_catalog_moved_with_its_images_is_listed_and_run(make_scene, settings_for, tmp_path):
    make_scene("one/images/a_20240501.tif")
    add_scenes(tmp_path / "one" / "catalog.json", [str(tmp_path / "one" / "images")])
    shutil.move(tmp_path / "one", tmp_path / "two")
    moved = tmp_path / "two" / "catalog.json"
    assert validate_catalog(str(moved), verify=True) == (1, [])
    (facts,) = run(settings_for(moved))["scenes"]
    assert facts["href"] == str(tmp_path / "two" / "images" / "a_20240501.tif")
    assert facts["item"] == str(tmp_path / "two" / "scenes" / "a_20240501" / "a_20240501.json")
    assert add_scenes(moved, [str(tmp_path / "two" / "images")]).unchanged == ["a_20240501"]


def test_a_run_s_key_does_not_depend_on_the_item(make_scene, settings_for, tmp_path):
    path = make_scene("images/a_20240501.tif")
    add_scenes(tmp_path / "catalog.json", [str(path)])
    plain = run(settings_for(path, out=str(tmp_path / "o" / "plain")))
    listed = run(settings_for(tmp_path / "catalog.json", out=str(tmp_path / "o" / "listed")))
    assert (plain["run_key"], plain["scenes"][0]["item"]) == (listed["run_key"], None)
    assert listed["tiles"]["computed"] == 0
