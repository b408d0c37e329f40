"""Items that are not what they say: each is named, and none spoils the listing of the others."""

import json
import os

import pytest
from conftest import random_pixels

from rs_pipeline.catalog import find_entries, find_scenes
from rs_pipeline.catalog_check import validate_catalog
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.config import load_settings
from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.query import Query
from rs_pipeline.run import run


@pytest.fixture
def catalog(make_scene, tmp_path):
    """A catalog of two scenes, a and b."""
    for seed, name in enumerate("ab"):
        make_scene(f"images/{name}.tif", random_pixels(seed=seed), origin=(500_000.0 + 100 * seed, 5_300_000.0))
    add_scenes(tmp_path / "catalog.json", [str(tmp_path / "images")])
    return tmp_path / "catalog.json"


def change(catalog, name, **facts):
    path = catalog.parent / "scenes" / name / f"{name}.json"
    content = json.loads(path.read_text())
    content["assets"]["image"] |= facts
    path.write_text(json.dumps(content))
    return path


def problem_of(catalog, name, query=None, **kwargs):
    """What opening the scene says; the other one is well."""
    entries = {e.id: e for e in find_entries([str(catalog)], query or Query())}
    assert set(entries) == {"a", "b"}
    with pytest.raises((CatalogError, RasterError)) as caught:
        entries[name].open(**kwargs)
    assert f"item {name}" in str(caught.value)
    return caught.value


def test_a_missing_image(catalog, tmp_path):
    (tmp_path / "images" / "a.tif").unlink()
    assert "nothing at" in str(problem_of(catalog, "a"))
    assert find_entries([str(catalog)], Query())[1].open().id == "b"
    assert validate_catalog(str(catalog))[1][0].startswith("a: expected the image of item a")


def test_an_image_of_another_size_or_with_other_bytes(catalog, tmp_path):
    path = tmp_path / "images" / "a.tif"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    entries = find_entries([str(catalog)], Query())
    assert entries[0].open().id == "a"
    assert "checksum 1220" in str(problem_of(catalog, "a", verify=True))
    assert entries[1].open(verify=True).id == "b"
    assert validate_catalog(str(catalog))[1] == []
    assert len(validate_catalog(str(catalog), verify=True)[1]) == 1
    path.write_bytes(content + b"more")
    assert f"expected {len(content)} bytes, as item a says" in str(problem_of(catalog, "a"))


def test_a_checksum_of_another_kind(catalog, tmp_path):
    import hashlib

    content = (tmp_path / "images" / "a.tif").read_bytes()
    change(catalog, "a", **{"file:checksum": f"1340{hashlib.sha512(content).hexdigest()}"})
    assert find_entries([str(catalog)], Query())[0].open(verify=True).id == "a"
    change(catalog, "a", **{"file:checksum": "1e20" + "00" * 32})
    assert "a multihash of sha256" in str(find_error(catalog))


def find_error(catalog):
    with pytest.raises(CatalogError) as caught:
        find_entries([str(catalog)], Query())[0].open(verify=True)
    return caught.value


def test_an_image_that_cannot_be_read(catalog, tmp_path):
    path = tmp_path / "images" / "a.tif"
    path.write_bytes(b"II*\0".ljust(path.stat().st_size, b"\1"))
    assert isinstance(problem_of(catalog, "a"), RasterError)


def test_an_image_that_is_no_tiff_may_name_any_other_file(catalog, make_scene, tmp_path):
    vrt = f"<VRTDataset rasterXSize='1' rasterYSize='1'><SourceFilename>{make_scene('secret.tif')}</SourceFilename></VRTDataset>"
    path = tmp_path / "images" / "a.tif"
    path.write_text(vrt.ljust(path.stat().st_size))
    assert "a TIFF" in str(problem_of(catalog, "a"))


@pytest.mark.parametrize(
    "href", ["/vsizip/{}/x.zip/a.tif", "/vsicurl/http://127.0.0.1/a.tif", "<VRTDataset/>", " <VRTDataset/>", "ftp://h/a.tif"]
)
def test_what_gdal_takes_for_more_than_a_file_is_refused(catalog, tmp_path, href):
    change(catalog, "a", href=href.format(tmp_path))
    assert "an image that is a file or on the web" in str(problem_of(catalog, "a"))
    assert "an image in" in str(problem_of(catalog, "a", Query(roots=("/",))))


def test_images_outside_the_roots_are_refused(catalog, make_scene, tmp_path):
    outside = make_scene("secret/c.tif")
    roots = Query(roots=(str(tmp_path / "images"),))
    assert [s.id for s in find_scenes([str(catalog)], roots)] == ["a", "b"]
    (tmp_path / "images" / "link.tif").symlink_to(outside)
    (tmp_path / "images-too").symlink_to(tmp_path / "secret")
    for href in (
        "../../secret/c.tif",
        "../../images/../secret/c.tif",
        str(outside),
        f"file://{outside}",
        "../../images/link.tif",
        "../../images-too/c.tif",
    ):
        change(catalog, "a", href=href)
        error = problem_of(catalog, "a", roots)
        assert (type(error), href in str(error), str(tmp_path / "images") in str(error)) == (CatalogError, True, True)
    change(catalog, "a", href="https://example.org/c.tif")
    assert "an image in" in str(problem_of(catalog, "a", roots))


@pytest.mark.parametrize(
    ("href", "inside"),
    [
        ("https://Example.org:443/archive/x/../a.tif", True),
        ("https://example.org/archive", True),
        ("https://example.org/archive/../secret/a.tif", False),
        ("https://example.org/archive/%2e%2e/secret/a.tif", False),
        ("https://example.org/archive-too/a.tif", False),
        ("https://example.org.evil.net/archive/a.tif", False),
        ("https://example.org@evil.net/archive/a.tif", False),
        ("http://example.org/archive/a.tif", False),
        ("https://example.org:8080/archive/a.tif", False),
        ("https://example.org:port/archive/a.tif", False),
    ],
)
def test_addresses_are_compared_however_they_are_written(catalog, href, inside):
    change(catalog, "a", href=href)
    image = find_entries([str(catalog)], Query(roots=("https://example.org/archive/",)))[0].image
    assert isinstance(image, CatalogError) != inside


def test_roots_are_a_setting_of_a_run(catalog, settings_for, tmp_path):
    with pytest.raises(CatalogError, match=r"an image in .*elsewhere"):
        run(settings_for(catalog, roots=(str(tmp_path / "elsewhere"),)))
    assert load_settings(None, {}, ["roots=[/data]", "max_cloud_cover=20", "collections=[s2]", "asset=visual"]).roots == ("/data",)


def test_an_item_with_several_images_is_read_as_asked(catalog, tmp_path):
    path = change(catalog, "a", roles=["overview"])
    content = json.loads(path.read_text())
    content["assets"]["other"] = content["assets"]["image"] | {"href": "../../images/b.tif", "file:size": None}
    path.write_text(json.dumps(content))
    assert "2 GeoTIFF assets in item a" in str(problem_of(catalog, "a"))
    (scene,) = find_scenes([str(path)], Query(asset="other"))
    assert scene.info.href == str(tmp_path / "images" / "b.tif")
    with pytest.raises(CatalogError, match="an asset 'none' in item a; got image, other"):
        find_scenes([str(path)], Query(asset="none"))


def test_a_link_that_leads_nowhere_or_in_a_circle(catalog, tmp_path):
    path = tmp_path / "scenes" / "collection.json"
    content = json.loads(path.read_text())
    content["links"].append({"rel": "child", "href": "../catalog.json"})
    path.write_text(json.dumps(content))
    assert [s.id for s in find_scenes([str(catalog)], Query())] == ["a", "b"]
    content["links"].append({"rel": "item", "href": "./gone.json"})
    path.write_text(json.dumps(content))
    with pytest.raises(CatalogError, match=r"scenes/gone\.json"):
        find_scenes([str(catalog)], Query())


def test_an_item_whose_image_changes_during_a_run_publishes_nothing(catalog, settings_for, tmp_path, monkeypatch):
    from rs_pipeline import run as pipeline

    settings, original = settings_for(catalog), pipeline.check_unchanged

    def changing(job, **kwargs):
        os.utime(tmp_path / "images" / "a.tif")
        return original(job, **kwargs)

    monkeypatch.setattr(pipeline, "check_unchanged", changing)
    with pytest.raises(RasterError, match=r"a\.tif, which changed"):
        run(settings)
    assert not os.path.exists(settings.out)  # noqa: PTH110


def test_the_version_of_an_entry_follows_its_image(catalog, make_scene, tmp_path):
    before = [e.version for e in find_entries([str(catalog)], Query())]
    assert all(version.startswith("1220") for version in before)
    make_scene("images/a.tif", random_pixels(seed=5))
    add_scenes(catalog, [str(tmp_path / "images")])
    after = [e.version for e in find_entries([str(catalog)], Query())]
    assert (after[0] != before[0], after[1]) == (True, before[1])
    plain = find_entries([str(tmp_path / "images")], Query())
    os.utime(tmp_path / "images" / "a.tif", ns=(1, 1))
    assert [e.version == p.version for e, p in zip(find_entries([str(tmp_path / "images")], Query()), plain, strict=True)] == [False, True]
    (tmp_path / "images" / "broken.tif").write_bytes(b"II*\0")
    assert len(find_entries([str(tmp_path / "images")], Query())) == 3
