"""Catalogs and images behind a web server: as little as possible is asked of it, and what it answers is not trusted."""

import json
import socket

import numpy as np
import pytest
import rasterio
import shapely
from conftest import random_pixels
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from run_folder import labels_of

from rs_pipeline import stac_sources
from rs_pipeline.catalog import find_entries, find_scenes
from rs_pipeline.catalog_check import validate_catalog
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.query import Query, parse_interval
from rs_pipeline.raster import describe
from rs_pipeline.run import run


@pytest.fixture
def published(server, make_scene, tmp_path):
    """Address of a catalog of three scenes behind the server, beside its images."""
    make_scene("web/images/a_20240501.tif")
    make_scene("web/images/b_20240601.tif", random_pixels(seed=1))
    make_scene("web/images/far_20240501.tif", origin=(600_000.0, 5_400_000.0))
    add_scenes(tmp_path / "web" / "catalog.json", [str(tmp_path / "web" / "images")])
    return f"{server.url}/catalog.json"


def big_cog(path, side=3072):
    """Noise, which does not compress, as a cloud-optimized GeoTIFF with overviews."""
    pixels = np.random.default_rng(0).integers(1, 255, (3, side, side), np.uint8)
    profile = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_300_000, 0.5, 0.5), "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="COG", height=side, width=side, blocksize=256, compress="deflate", **profile) as file:
        file.write(pixels)


def box_of(*bounds):
    return shapely.box(*transform_bounds("EPSG:32632", "EPSG:4326", *bounds))


def test_a_catalog_on_the_web_gives_the_scenes_that_it_gives_on_disk(published, server, tmp_path):
    web, disk = find_entries([published], Query()), find_entries([str(tmp_path / "web" / "catalog.json")], Query())
    assert [(e.id, e.datetime, e.version) for e in web] == [(e.id, e.datetime, e.version) for e in disk]
    scene, _ = find_scenes([published], Query(aoi=box_of(500_010, 5_299_950, 500_050, 5_299_990)))
    assert (scene.id, scene.info.href) == ("a_20240501", f"{server.url}/images/a_20240501.tif")
    assert scene.item_href == f"{server.url}/scenes/a_20240501/a_20240501.json"
    assert [s.id for s in find_scenes([scene.item_href], Query())] == ["a_20240501"]
    assert validate_catalog(published) == (3, [])


def test_listing_opens_no_image_and_a_run_names_its_item(published, server, settings_for):
    assert [e.id for e in find_entries([published], Query())] == ["a_20240501", "b_20240601", "far_20240501"]
    assert not [line for line in server.asked() if ".tif" in line]
    summary = run(settings_for(published, scenes=("b_20240601",), aoi="9.0,47.0,9.01,47.9", datetime="2024-06-01"))
    assert [(s["id"], s["item"]) for s in summary["scenes"]] == [("b_20240601", f"{server.url}/scenes/b_20240601/b_20240601.json")]


def test_only_branches_that_can_hold_something_are_walked(published, server, tmp_path):
    root = tmp_path / "web" / "catalog.json"
    content = json.loads(root.read_text())
    content["links"].append({"rel": "child", "href": "./products/collection.json"})
    root.write_text(json.dumps(content))
    scenes = json.loads((tmp_path / "web" / "scenes" / "collection.json").read_text())
    (tmp_path / "web" / "products").mkdir()
    links = [{"rel": "item", "href": "./run/run.json"}]
    (tmp_path / "web" / "products" / "collection.json").write_text(json.dumps(scenes | {"id": "products", "links": links}))
    for query in (
        Query(aoi=shapely.box(100, 0, 101, 1)),
        Query(parse_interval("2030-01-01/")),
        Query(collections=("others",)),
    ):
        assert find_entries([published], query) == []
    assert not [line for line in server.asked() if "a_20240501" in line or "run.json" in line]
    with pytest.raises(CatalogError, match=r"HTTP 404.*|run\.json"):
        find_entries([published], Query(collections=("products",)))


def test_the_header_of_a_remote_image_is_a_few_kilobytes(server, tmp_path):
    big_cog(tmp_path / "web" / "big.tif")
    size = (tmp_path / "web" / "big.tif").stat().st_size
    info = describe(f"{server.url}/big.tif")
    assert (info.width, info.href) == (3072, f"{server.url}/big.tif")
    assert server.sent("big.tif") < 70_000 < size / 100
    # Neither a listing of the folder nor sidecar files are asked for.
    assert {line.split()[1] for line in server.asked()} == {"/big.tif"}


def test_a_run_over_a_corner_of_a_remote_image_reads_overviews_and_the_corner(server, settings_for, tmp_path):
    big_cog(tmp_path / "web" / "big.tif")
    size = (tmp_path / "web" / "big.tif").stat().st_size
    west, south, east, north = box_of(500_010, 5_299_900, 500_110, 5_299_990).bounds
    settings = settings_for(f"{server.url}/big.tif", aoi=f"{west},{south},{east},{north}", **{"radiometry.sample_px": 256})
    summary = run(settings)
    assert summary["scenes"][0]["href"] == f"{server.url}/big.tif"
    assert summary["pixels"]["observed"] > 0
    assert server.sent("big.tif") < size / 4
    assert {line.split()[1] for line in server.asked()} == {"/big.tif"}


def test_another_version_of_a_remote_image_is_another_image_in_one_process(server, make_scene, settings_for, tmp_path):
    summaries = []
    for seed, etag in enumerate(('"v1"', '"v2"')):
        make_scene("web/scene.tif", random_pixels(seed=seed))
        server.tell(etag=etag)
        summaries.append(run(settings_for(f"{server.url}/scene.tif", out=str(tmp_path / "o" / f"run{seed}"))))
    local = run(settings_for(tmp_path / "web" / "scene.tif", out=str(tmp_path / "p" / "local")))
    first, second = (summary["scenes"][0]["stretch"] for summary in summaries)
    assert first != second
    assert second == local["scenes"][0]["stretch"]
    assert np.array_equal(labels_of(summaries[1]["out"]), labels_of(local["out"]))
    assert not np.array_equal(labels_of(summaries[0]["out"]), labels_of(local["out"]))


def test_a_server_that_is_not_there_or_answers_badly_is_an_error_in_one_line(server, monkeypatch, tmp_path):
    (tmp_path / "web" / "page.html").write_text("<html>no catalog</html>")
    (tmp_path / "web" / "other.json").write_text('{"a": 1}')
    (tmp_path / "web" / "list.json").write_text("[1]")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{closed.getsockname()[1]}/catalog.json"
        expected = {
            down: "that answers; got .*catalog.json",
            f"{server.url}/none.json": "HTTP 404",
            f"{server.url}/page.html": "a STAC catalog, collection or item",
            f"{server.url}/other.json": "a STAC catalog, collection or item",
            f"{server.url}/list.json": "no JSON object",
        }
        for source, message in expected.items():
            with pytest.raises(CatalogError, match=message) as caught:
                find_scenes([source], Query())
            assert "\n" not in str(caught.value)
    server.tell(broken=True)
    with pytest.raises(CatalogError, match="503"):
        find_scenes([f"{server.url}/other.json"], Query())
    monkeypatch.setattr(stac_sources, "TIMEOUT_S", 0.3)
    server.tell(delay_s=2.0)
    with pytest.raises(CatalogError, match="timed out"):
        find_scenes([f"{server.url}/other.json"], Query())


def test_an_item_on_the_web_whose_image_is_gone_or_broken_names_it(published, server, tmp_path):
    (tmp_path / "web" / "images" / "a_20240501.tif").unlink()
    (tmp_path / "web" / "images" / "b_20240601.tif").write_bytes(b"II*\0 and nothing more")
    for entry in find_entries([published], Query())[:2]:
        with pytest.raises(RasterError, match=f"the image of item {entry.id}"):
            entry.open()


def test_what_is_on_the_web_cannot_have_files_of_this_machine_read(published, server, make_scene, tmp_path):
    secret = make_scene("secret.tif")
    item = tmp_path / "web" / "scenes" / "a_20240501" / "a_20240501.json"
    content = json.loads(item.read_text())
    # What looks like a path is one on the server: it is asked for there, and is not there.
    for href in (f"file://{secret}", f"/vsizip/{secret}", "<VRTDataset></VRTDataset>", f"/vsicurl/{server.url}/images/a_20240501.tif"):
        content["assets"]["image"]["href"] = href
        item.write_text(json.dumps(content))
        with pytest.raises(CatalogError, match="an image on the web"):
            find_entries([f"{server.url}/scenes/a_20240501/a_20240501.json"], Query())[0].open()
    content["assets"]["image"]["href"] = str(secret)
    item.write_text(json.dumps(content))
    with pytest.raises(RasterError, match=f"{server.url}{secret}"):
        find_entries([f"{server.url}/scenes/a_20240501/a_20240501.json"], Query())[0].open()
    root = tmp_path / "web" / "catalog.json"
    content = json.loads(root.read_text())
    content["links"] = [{"rel": "child", "href": f"file://{tmp_path}/web/scenes/collection.json"}]
    root.write_text(json.dumps(content))
    with pytest.raises(CatalogError, match="neither on the web"):
        find_entries([published], Query())


def test_a_virtual_raster_on_the_web_is_no_image(server, make_scene, tmp_path):
    secret = make_scene("secret.tif")
    vrt = f"""<VRTDataset rasterXSize="170" rasterYSize="150"><SRS>EPSG:32632</SRS><GeoTransform>5e5,.5,0,53e5,0,-.5</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand>
        </VRTDataset>"""
    (tmp_path / "web" / "image.tif").write_text(vrt)
    with pytest.raises(RasterError, match="an image that GDAL can read"):
        describe(f"{server.url}/image.tif")
    with rasterio.open(vrt.strip()) as file:  # it would have been one
        assert file.read(1).any()
