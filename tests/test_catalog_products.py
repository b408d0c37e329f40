"""Runs as items: what they made, of what and how, and valid without a network."""

import json
import os
import shutil
import socket
import sqlite3
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from conftest import random_pixels
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from typer.testing import CliRunner

from rs_pipeline.catalog import find_entries, find_scenes
from rs_pipeline.catalog_check import OfflineValidator, validate_catalog
from rs_pipeline.catalog_products import add_product
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.cli import app
from rs_pipeline.errors import CatalogError
from rs_pipeline.query import Query
from rs_pipeline.run import run
from rs_pipeline.stac_assets import multihash
from rs_pipeline.stac_sources import read_items

CLASSES = ("road", "water", "swimming pool")


@pytest.fixture
def archive(make_scene, settings_for, tmp_path):
    """A catalog of two scenes, and the summary of a run over both."""
    pixels = random_pixels(seed=1) + 1
    pixels[:, :, :60] = 0
    make_scene("archive/images/old_20230101.tif", pixels, nodata=0)
    make_scene("archive/images/new_20240501.tif", pixels, nodata=0)
    catalog = tmp_path / "archive" / "catalog.json"
    add_scenes(catalog, [str(tmp_path / "archive" / "images")])
    return catalog, run(settings_for(catalog, out=str(tmp_path / "archive" / "runs" / "town"), classes=CLASSES))


def product_of(catalog, name="town"):
    return next(i for i in read_items(str(catalog)) if i.id == name and i.collection_id == "products")


def test_the_item_of_a_run_says_what_is_in_its_folder(archive):
    catalog, _ = archive
    assert add_product(catalog, catalog.parent / "runs" / "town") == "town"
    assert validate_catalog(str(catalog), verify=True) == (3, [])
    item, folder = product_of(catalog), catalog.parent / "runs" / "town"
    assert set(item.assets) == {"labels", "scores", "layers", "manifest", "report.html"}
    for asset in item.assets.values():
        path = (folder / os.path.basename(asset.href)).resolve()  # noqa: PTH119
        assert asset.get_absolute_href() == str(path)
        file = FileExtension.ext(asset)
        assert (file.size, file.checksum) == (path.stat().st_size, multihash(path))
        assert not asset.href.startswith("/")
    with rasterio.open(folder / "labels.tif") as file:
        for key in ("labels", "scores"):
            proj = ProjectionExtension.ext(item.assets[key])
            assert (proj.code, proj.shape, proj.transform) == ("EPSG:32632", [file.height, file.width], list(file.transform)[:6])
        colours = file.colormap(1)
    classes = ClassificationExtension.ext(item.assets["labels"]).classes
    assert [(c.value, c.name, c.title) for c in classes] == [
        (0, "background", "background"),
        (1, "road", "road"),
        (2, "water", "water"),
        (3, "swimming-pool", "swimming pool"),
        (255, "not-observed", "not observed"),
    ]
    assert [tuple(bytes.fromhex(c.color_hint)) for c in classes[1:4]] == [colours[value][:3] for value in (1, 2, 3)]
    scores = item.assets["scores"].extra_fields
    assert [b["name"] for b in scores["bands"]] == ["road", "water", "swimming pool"]
    assert {b["nodata"] for b in scores["bands"]} == {255}
    assert scores["raster:scale"] == pytest.approx(1 / 254)
    assert item.assets["manifest"].roles == ["metadata"]


def test_it_says_of_what_and_how_it_was_made(archive):
    catalog, summary = archive
    add_product(catalog, catalog.parent / "runs" / "town")
    item = product_of(catalog)
    assert item.properties["processing:software"]["rs-seg"] == summary["version"]
    assert item.properties["processing:datetime"] == summary["finished"].replace("+00:00", "Z")
    assert "road" in item.properties["processing:lineage"]
    for key in ("run_key", "settings", "status"):
        assert item.properties[f"rs_seg:{key}"] == summary[key]
    assert item.properties["rs_seg:weights_sha256"] == summary["model"]["weights_sha256"]
    assert item.properties["rs_seg:prompts"] == {c["name"]: list(c["prompts"]) for c in summary["classes"]}
    assert item.properties["rs_seg:thresholds"] == {c["name"]: c["threshold"] for c in summary["classes"]}
    assert [str(item.properties[f"{end}_datetime"])[:10] for end in ("start", "end")] == ["2023-01-01", "2024-05-01"]
    links = [link for link in item.links if link.rel == "derived_from"]
    assert [link.target for link in links] == [f"../../scenes/{n}/{n}.json" for n in ("new_20240501", "old_20230101")]
    assert [pystac.read_file(link.get_absolute_href()).id for link in links] == ["new_20240501", "old_20230101"]


def test_what_only_some_runs_leave_is_there_by_the_names_of_the_files(archive, settings_for):
    catalog, _ = archive
    formats = ("flatgeobuf", "geoparquet", "geojson", "pmtiles")
    flags = {
        "report": False,
        "vectors.lines": ("road",),
        "vectors.square": ("water",),
        "vectors.formats": formats,
        "classes": ("road", "water"),
    }
    made = run(settings_for(catalog, out=str(catalog.parent / "runs" / "all"), **flags))
    assets = product_of(catalog, add_product(catalog, Path(made["out"]))).assets
    assert set(assets) == {"labels", "scores", "layers", "manifest", "lines.gpkg", "squares.gpkg"} | {
        f"{name}.{suffix}" for name in ("road", "water") for suffix in ("fgb", "parquet", "geojson", "pmtiles")
    }
    assert assets["squares.gpkg"].title == "Squared outlines"
    assert (assets["road.parquet"].media_type, assets["road.fgb"].roles) == ("application/vnd.apache.parquet", ["data"])
    assert validate_catalog(str(catalog), verify=True)[1] == []


def test_the_licence_of_a_collection_is_that_of_its_scenes_unless_they_have_their_own(archive, settings_for):
    catalog, made = archive
    assert [scene["licence"] for scene in made["scenes"]] == [None, None]  # the catalog says `other`
    collection = catalog.parent / "scenes" / "collection.json"
    collection.write_text(json.dumps(json.loads(collection.read_text()) | {"license": "CC-BY-4.0"}))
    [newest] = collection.parent.rglob("new_*.json")
    item = json.loads(newest.read_text())
    newest.write_text(json.dumps(item | {"properties": item["properties"] | {"license": "CC0-1.0"}}))
    flags = {"classes": CLASSES, "overwrite": True, "vectors.min_area_m2": 1.0}
    again = run(settings_for(catalog, out=str(catalog.parent / "runs" / "town"), **flags))
    assert [scene["licence"] for scene in again["scenes"]] == ["CC0-1.0", "CC-BY-4.0"]
    with sqlite3.connect(Path(again["out"]) / "layers.gpkg") as package:
        [said] = package.execute("SELECT metadata FROM gpkg_metadata WHERE metadata LIKE '%<identifier>road<%'").fetchone()
    assert "<license>CC0-1.0, CC-BY-4.0</license>" in said


def test_its_place_is_what_was_observed(archive):
    catalog, _ = archive
    add_product(catalog, catalog.parent / "runs" / "town")
    place = gpd.GeoSeries([shapely.geometry.shape(product_of(catalog).geometry)], crs=4326).to_crs(32632)[0]
    coverage = gpd.read_file(catalog.parent / "runs" / "town" / "layers.gpkg", layer="coverage")
    observed = coverage[coverage["state"] == "observed"].union_all()
    assert place.intersection(observed).area / place.union(observed).area > 0.97
    assert np.isclose(place.area, 110 * 0.5 * 150 * 0.5, rtol=0.03)


def test_a_run_is_in_the_catalog_once_and_is_no_scene(archive, make_scene, settings_for, tmp_path):
    catalog, _ = archive
    folder = catalog.parent / "runs" / "town"
    first = [add_product(catalog, folder), product_of(catalog).properties["created"]]
    assert [add_product(catalog, folder), product_of(catalog).properties["created"]] == first
    run(settings_for(make_scene("plain_20220101.tif"), out=str(tmp_path / "elsewhere" / "town")))
    other = add_product(catalog, tmp_path / "elsewhere" / "town")
    assert other.startswith("town-")
    assert add_product(catalog, tmp_path / "elsewhere" / "town") == other
    assert len([i for i in read_items(str(catalog)) if i.collection_id == "products"]) == 2
    assert not [link for link in product_of(catalog, other).links if link.rel == "derived_from"]
    assert product_of(catalog, other).datetime.year == 2022
    assert {s.id for s in find_scenes([str(catalog)], Query())} == {"old_20230101", "new_20240501"}
    assert {e.id for e in find_entries([str(catalog)], Query(collections=("products",)))} == {"town", other}
    assert add_scenes(catalog, [str(tmp_path / "archive" / "images")]).unchanged == ["new_20240501", "old_20230101"]


def test_links_between_catalogs_are_absolute_and_a_moved_one_stays_whole(archive, tmp_path):
    catalog, summary = archive
    apart = tmp_path / "results" / "catalog.json"
    add_product(apart, catalog.parent / "runs" / "town")
    links = [link.target for link in product_of(apart).links if link.rel == "derived_from"]
    assert links == [scene["item"] for scene in summary["scenes"]]
    assert all(os.path.isabs(link) for link in links)  # noqa: PTH117
    add_product(catalog, catalog.parent / "runs" / "town")
    shutil.move(catalog.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / "catalog.json"
    assert validate_catalog(str(moved), verify=True) == (3, [])
    assert pystac.read_file(next(link for link in product_of(moved).links if link.rel == "derived_from").get_absolute_href()).id


def test_a_run_without_dates_is_undated(make_scene, settings_for, tmp_path):
    run(settings_for(make_scene("a.tif"), out=str(tmp_path / "o" / "undated")))
    catalog = tmp_path / "cat" / "catalog.json"
    add_product(catalog, tmp_path / "o" / "undated")
    assert validate_catalog(str(catalog)) == (1, [])
    (entry,) = find_entries([str(catalog)], Query(collections=("products",), asset="labels"))
    assert entry.datetime is None


def test_what_is_no_finished_run_is_refused(archive, tmp_path):
    catalog, _ = archive
    folder = catalog.parent / "runs" / "town"
    with pytest.raises(CatalogError, match="the folder of a finished run"):
        add_product(catalog, tmp_path)
    (folder / "layers.gpkg").unlink()
    with pytest.raises(CatalogError, match=r"without layers\.gpkg"):
        add_product(catalog, folder)
    assert len(read_items(str(catalog))) == 2


def test_the_commands_add_list_and_check_products(archive):
    catalog, _ = archive
    folder, flags = str(catalog.parent / "runs" / "town"), ["--catalog", str(catalog)]

    def rs_seg(*arguments):
        return CliRunner().invoke(app, ["catalog", *arguments, *flags], env={"COLUMNS": "300"})

    assert rs_seg("add-product", folder).output == f"{folder} is town in {catalog}\n"
    (row,) = json.loads(rs_seg("list", "--products", "--json").output)
    assert (row["id"], row["classes"], row["datetime"]) == ("town", ["road", "water", "swimming pool"], "2023-01-01T00:00:00Z")
    assert row["assets"]["layers"] == f"{folder}/layers.gpkg"
    assert "town" in rs_seg("list", "--products").output
    assert "town" not in rs_seg("list").output
    assert rs_seg("validate", "--verify").output == "3 items, all valid\n"


@pytest.mark.parametrize(
    ("place", "field", "bad"),
    [
        (("properties",), "proj:code", 32632),
        (("properties",), "proj:shape", [1, 2, 3]),
        (("properties",), "proj:unheard_of", 1),
        (("properties",), "eo:cloud_cover", 120),
        (("assets", "image", "bands", 0), "eo:common_name", "mauve"),
        (("assets", "image"), "file:checksum", "no hex"),
        (("assets", "image"), "file:size", -1),
        (("assets", "image"), "raster:spatial_resolution", "fine"),
        (("assets", "image", "bands", 0), "raster:sampling", "random"),
        (("assets", "image", "bands", 0), "data_type", "uint7"),
    ],
)
def test_schemas_refuse_what_is_wrong_in_a_scene(make_scene, tmp_path, monkeypatch, place, field, bad):
    monkeypatch.setattr(socket, "socket", None)  # nothing may be fetched
    add_scenes(tmp_path / "catalog.json", [str(make_scene("a.tif", photometric="RGB"))], cloud_cover=1.0)
    (item,) = read_items(str(tmp_path / "catalog.json"))
    item.validate(validator=OfflineValidator())
    content = item.to_dict()
    target = content
    for key in place:
        target = target[key]
    target[field] = bad
    with pytest.raises(pystac.STACValidationError):
        pystac.validation.validate_dict(content, validator=OfflineValidator())


@pytest.mark.parametrize(
    ("place", "field", "bad"),
    [
        (("properties",), "processing:software", ["rs-seg"]),
        (("properties",), "processing:datetime", "yesterday"),
        (("assets", "labels", "classification:classes", 1), "name", "swimming pool"),
        (("assets", "labels", "classification:classes", 1), "color_hint", "#ff0000"),
        (("assets", "labels", "classification:classes", 1), "value", "one"),
    ],
)
def test_schemas_refuse_what_is_wrong_in_a_product(archive, place, field, bad):
    catalog, _ = archive
    add_product(catalog, catalog.parent / "runs" / "town")
    content = product_of(catalog).to_dict()
    target = content
    for key in place:
        target = target[key]
    target[field] = bad
    with pytest.raises(pystac.STACValidationError):
        pystac.validation.validate_dict(content, validator=OfflineValidator())
