"""STAC APIs: a real one, of 230 items, and one that knows the query extension."""

import json

import pytest
import shapely
from stac_api import serving_api
from web_server import serving

from rs_pipeline.catalog import find_entries, find_scenes
from rs_pipeline.errors import CatalogError
from rs_pipeline.query import Query, parse_interval
from rs_pipeline.run import run

COUNT = 230
STEP = 0.1
"""Degrees from one item to the next."""


def item_of(number, href):
    west, east = number * STEP, number * STEP + STEP / 2
    ring = [[west, 0], [east, 0], [east, 1], [west, 1], [west, 0]]
    cover = {} if number % 10 == 9 else {"eo:cloud_cover": number % 100}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"i{number:03}",
        "collection": "odd" if number % 2 else "even",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, 0, east, 1],
        "properties": {"datetime": f"2024-{number % 12 + 1:02}-01T00:00:00Z"} | cover,
        "assets": {"image": {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]}},
        "links": [],
    }


def collection_of(name):
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": name,
        "license": "other",
        "extent": extent,
        "links": [],
    }


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    items = [item_of(number, f"http://127.0.0.1:1/{number}.tif") for number in range(COUNT)]
    contents = {"items": {"type": "FeatureCollection", "features": items}} | {name: collection_of(name) for name in ("odd", "even")}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    with serving_api(folder / f"{name}.json" for name in contents) as url:
        yield url


@pytest.fixture(autouse=True)
def _without_a_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def numbers(entries):
    return sorted(int(e.id[1:]) for e in entries)


def test_all_pages_are_read(api):
    assert numbers(find_entries([api], Query())) == [*range(COUNT)]


def test_collections_dates_clouds_and_area_choose(api):
    assert numbers(find_entries([api], Query(collections=("odd",)))) == [*range(1, COUNT, 2)]
    spring = find_entries([api], Query(parse_interval("2024-03-01/2024-05-31")))
    assert numbers(spring) == [n for n in range(COUNT) if n % 12 in {2, 3, 4}]
    clear = find_entries([api], Query(max_cloud_cover=3))
    assert numbers(clear) == [n for n in range(COUNT) if n % 100 <= 3 and n % 10 != 9]
    assert numbers(find_entries([api], Query(aoi=shapely.box(0.31, 0.2, 0.52, 0.4)))) == [3, 4, 5]
    together = Query(parse_interval("/2024-06-30"), shapely.box(0, 0, 5, 1), ("even",), 20)
    assert numbers(find_entries([api], together)) == [n for n in range(0, 21, 2) if n % 12 < 6]
    assert find_entries([api], Query(collections=("none",))) == []


def test_an_area_with_many_corners_is_held_against_the_items_here(api):
    diamond = shapely.Polygon([(0.0, 0.5), (1.0, 0.45), (2.0, 0.5), (1.0, 0.55)])
    inside = [n for n in range(COUNT) if diamond.intersects(shapely.geometry.shape(item_of(n, "")["geometry"]))]
    corners = shapely.segmentize(diamond, 0.001)
    assert len(shapely.get_coordinates(corners)) > 1000
    assert numbers(find_entries([api], Query(aoi=corners))) == inside
    sliver = shapely.segmentize(shapely.box(0.06, -1, 0.09, 2).union(shapely.box(0.06, 1.5, 3, 2)), 0.001)
    assert find_entries([api], Query(aoi=sliver)) == []


def test_a_collection_of_an_api_and_one_item_are_sources_too(api):
    assert numbers(find_entries([f"{api}/collections/even"], Query())) == [*range(0, COUNT, 2)]
    assert find_entries([f"{api}/collections/even"], Query(collections=("odd",))) == []
    (entry,) = find_entries([api], Query(aoi=shapely.box(0.31, 0, 0.32, 1)))
    assert (entry.id, entry.collection, entry.item_href) == ("i003", "odd", f"{api}/collections/odd/items/i003")
    assert [e.id for e in find_entries([entry.item_href], Query())] == ["i003"]
    with pytest.raises(CatalogError, match="HTTP 404"):
        find_entries([f"{api}/collections/none"], Query())


def test_nothing_found_is_said_with_what_was_asked(api):
    asked = Query(parse_interval("2030-01-01/"), shapely.box(0, 0, 1, 1), ("odd",), 20)
    with pytest.raises(CatalogError, match="a scene of odd that meets the AOI in the dates asked under 20 % of clouds"):
        find_scenes([api], asked)


def test_a_run_over_a_scene_of_an_api(make_scene, settings_for, tmp_path):
    scene = make_scene("images/one.tif")
    place = find_scenes([str(scene)], Query())[0].info.footprint
    item = item_of(4, f"file://{scene}") | {"geometry": shapely.geometry.mapping(place), "bbox": list(place.bounds)}
    (tmp_path / "item.json").write_text(json.dumps(item))
    (tmp_path / "even.json").write_text(json.dumps(collection_of("even")))
    with serving_api([tmp_path / "item.json", tmp_path / "even.json"]) as url:
        settings = settings_for(url, collections=("even",), max_cloud_cover=50, roots=(str(tmp_path / "images"),))
        (facts,) = run(settings)["scenes"]
    assert (facts["id"], facts["href"], facts["item"]) == ("i004", str(scene), f"{url}/collections/even/items/i004")
    assert facts["datetime"] == "2024-05-01T00:00:00Z"


def test_clouds_are_asked_of_servers_that_know_the_query_extension(tmp_path):
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        links = [{"rel": "search", "href": f"{server.url}/search", "type": "application/geo+json", "method": "GET"}]
        conforms = [f"https://api.stacspec.org/v1.0.0/{name}" for name in ("core", "item-search", "item-search#query")]
        landing = {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "b", "links": links, "conformsTo": conforms}
        (tmp_path / "web" / "index.json").write_text(json.dumps(landing))
        # It does not keep to what it was asked: that is checked here.
        found = {"type": "FeatureCollection", "features": [item_of(n, "http://127.0.0.1:1/x.tif") for n in (10, 90)], "links": []}
        (tmp_path / "web" / "search").write_text(json.dumps(found))
        assert numbers(find_entries([f"{server.url}/index.json"], Query(max_cloud_cover=20))) == [10]
        (search,) = [line for line in server.asked() if "/search" in line]
    assert "query=" in search
    assert "cloud_cover" in search
