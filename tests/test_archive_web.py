"""Archives whose items are on the web: a static catalog behind a server, and a STAC API."""

import json

import pystac
import pytest
from conftest import random_pixels
from stac_api import serving_api

from rs_pipeline.archive import open_archive, run_archive
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import CatalogError
from rs_pipeline.plan import plan_run
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute


@pytest.fixture
def server(server, make_scene, tmp_path):
    """A web server of three dated images and their catalog."""
    for k, date in enumerate(("20240101", "20240201", "20240301")):
        make_scene(f"web/images/s_{date}.tif", random_pixels(seed=k))
    add_scenes(tmp_path / "web" / "catalog.json", [str(tmp_path / "web" / "images")])
    return server


def archive_of(source, tmp_path, **run):
    run = {"source": [source], "classes": ["road"], "model": "fake_segmenter:pointwise", "outputs": str(tmp_path / "runs")} | run
    return {"name": "web", "run": run, "products": str(tmp_path / "products" / "catalog.json")}


def work(archive):
    found = run_archive(open_archive(archive), lambda settings: execute(plan_run(settings), Silent()), Silent())
    return {item["item"]: item["status"] for item in found["items"]}


def test_an_archive_behind_a_web_server_is_done_once(server, make_scene, tmp_path):
    archive = archive_of(f"{server.url}/catalog.json", tmp_path, roots=[server.url])
    assert work(archive) == {f"scenes/s_{date}": "done" for date in ("20240101", "20240201", "20240301")}
    assert work(archive) == {}
    make_scene("web/images/s_20240201.tif", random_pixels(seed=9))
    add_scenes(tmp_path / "web" / "catalog.json", [str(tmp_path / "web" / "images")])
    assert work(archive) == {"scenes/s_20240201": "done"}
    [product] = [p for p in products_of(tmp_path) if p.id == "s_20240201"]
    assert [link.get_absolute_href() for link in product.get_links("derived_from")] == [f"{server.url}/scenes/s_20240201/s_20240201.json"]


def test_a_server_that_goes_away_is_an_error_of_the_archive(server, tmp_path):
    archive = archive_of(f"{server.url}/catalog.json", tmp_path)
    server.tell(broken=True)
    with pytest.raises(CatalogError, match="503"):
        work(archive)
    server.tell()
    assert len(work(archive)) == 3


def test_an_archive_of_a_stac_api_takes_what_is_new(server, tmp_path):
    items = list(pystac.read_file(tmp_path / "web" / "catalog.json").get_items(recursive=True))
    for item in items:
        item.assets["image"].href = f"{server.url}/images/{item.id}.tif"
        item.properties["eo:cloud_cover"] = 5 if item.id != "s_20240301" else 90
        item.clear_links()
    files = []
    for count in (2, 3):
        files.append(tmp_path / f"items{count}.json")
        files[-1].write_text(json.dumps({"type": "FeatureCollection", "features": [i.to_dict() for i in items[:count]]}))
    collection = pystac.read_file(tmp_path / "web" / "catalog.json").get_child("scenes")
    collection.clear_links()
    (tmp_path / "collection.json").write_text(json.dumps(collection.to_dict()))
    with serving_api([tmp_path / "collection.json", files[0]]) as url:
        archive = archive_of(url, tmp_path, collections=["scenes"], max_cloud_cover=50)
        assert work(archive) == {"scenes/s_20240101": "done", "scenes/s_20240201": "done"}
        assert work(archive) == {}
        [first, _] = products_of(tmp_path)
        assert first.get_single_link("derived_from").href == f"{url}/collections/scenes/items/s_20240101"
    with serving_api([tmp_path / "collection.json", files[1]]) as url:
        archive["run"] |= {"source": [url]}
        assert work(archive) == {}
        archive["run"] |= {"max_cloud_cover": 95}
        assert work(archive) == {"scenes/s_20240301": "done"}


def products_of(tmp_path):
    products = pystac.read_file(tmp_path / "products" / "catalog.json").get_child("products").get_items()
    return sorted(products, key=lambda product: product.id)
