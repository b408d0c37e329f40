"""The whole pipeline with a fake segmenter, held against computations of its own."""

import json
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from conftest import random_pixels
from run_folder import UNSEEN, everything, labels_of, scores_of

from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.reporting import Silent
from rs_pipeline.run import PRODUCTS, run


def stretched(pixels, valid=None):
    """What the fake segmenter sees of the whole scene, computed without the pipeline."""
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    low, high = np.percentile(pixels[:, valid], (2, 98), axis=1)
    return np.clip((pixels - low[:, None, None]) / (high - low)[:, None, None], 0, 1)


def test_scores_and_labels_are_those_of_the_untiled_image(make_scene, settings_for):
    pixels = random_pixels()
    summary = run(settings_for(make_scene(pixels=pixels)))
    expected = np.rint(stretched(pixels) * 254)
    assert np.abs(scores_of(summary["out"]) - expected).max() <= 1
    scores = scores_of(summary["out"]).astype(int)
    least = np.ceil([c["threshold"] * 254 for c in summary["classes"]])[scores.argmax(axis=0)]
    assert len(np.unique(least)) == 2
    labels = np.where(scores.max(axis=0) >= least, scores.argmax(axis=0) + 1, 0)
    assert np.array_equal(labels_of(summary["out"]), labels)
    assert summary["status"] == "complete"
    assert summary["pixels"]["not_observed"] == 0


@pytest.fixture(scope="module")
def untiled(tmp_path_factory):
    """A scene, and the run of it in one tile."""
    from rs_pipeline.config import load_settings

    folder = tmp_path_factory.mktemp("untiled")
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", count=3, height=150, width=170, dtype="uint8", nodata=0, crs="EPSG:4326",
        transform=Affine(7e-6, 1e-6, 10.0, 1e-6, -5e-6, 47.9),
    ) as file:  # fmt: skip
        file.write(random_pixels())

    def settings(out, **flags):
        base = {"source": (str(folder / "scene.tif"),), "classes": ("road", "water"), "model": "fake_segmenter:pointwise"}
        return load_settings(None, base | {"out": str(out), "workers.cluster": "in-process"} | flags)

    run(settings(folder / "one", tile_px=4096))
    return settings, everything(folder / "one")


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "batch_size", "cluster", "workers"),
    [
        (64, 8, 4, "in-process", None),
        (64, 0, 1, "in-process", None),
        (33, 16, 7, "in-process", None),
        (50, 25, 3, "in-process", None),
        (64, 9, 2, "local", 2),
        (128, 1, 64, "local", 1),
    ],
)
def test_law_3_tiled_is_untiled_byte_for_byte(untiled, tmp_path, tile_px, overlap_px, batch_size, cluster, workers):
    settings, expected = untiled
    flags = {"tile_px": tile_px, "overlap_px": overlap_px, "workers.batch_size": batch_size, "workers.cluster": cluster}
    run(settings(tmp_path / "run", **flags, **({"workers.count": workers} if workers else {})))
    manifest, layers, labels, scores = everything(tmp_path / "run")
    assert labels == expected[2]
    assert scores == expected[3]
    assert layers == expected[1]
    assert manifest["pixels"] == expected[0]["pixels"]


def test_nodata_and_the_rest_of_the_aoi_s_box_are_not_observed(make_scene, settings_for, tmp_path):
    pixels = random_pixels()
    pixels[:, 40:90, 30:100] = 0
    scene = make_scene(pixels=pixels, nodata=0)
    triangle = shapely.Polygon([(500_005, 5_299_930), (500_080, 5_299_930), (500_080, 5_299_995)])
    gpd.GeoDataFrame(geometry=[triangle], crs=32632).to_file(tmp_path / "aoi.gpkg")
    summary = run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg")))
    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        labels, transform = file.read(1), file.transform
    rows, cols = np.indices(labels.shape) + 0.5
    x, y = transform @ (cols, rows)
    inside = shapely.contains_xy(triangle, x, y)
    row, col = np.rint(~Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000) @ (transform.c, transform.f))[::-1].astype(int)
    seen = (pixels != 0).any(axis=0)[row : row + labels.shape[0], col : col + labels.shape[1]]
    assert np.array_equal(labels != UNSEEN, inside & seen)
    areas = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="coverage").groupby("state")["area_m2"].sum()
    assert areas["not observed"] == pytest.approx((inside & ~seen).sum() / 4)
    assert summary["pixels"]["aoi"] == inside.sum()
    assert summary["pixels"]["observed"] == (inside & seen).sum()


@pytest.mark.parametrize("sets", [["nodata=255"], []], ids=["told", "found"])
def test_a_blank_collar_that_the_file_does_not_declare_is_not_observed(make_scene, settings_for, sets):
    pixels = random_pixels()
    pixels[:, 100:] = 255
    scene = make_scene(pixels=pixels)
    taken = run(settings_for(scene, sets=["collars=false"]))
    assert taken["pixels"]["not_observed"] == 0
    assert any("33% of it, along its edges, is 255" in note and "--set nodata=255" in note for note in taken["notes"])
    left = run(settings_for(scene, sets=[*sets, "overwrite=true"]))
    assert left["pixels"]["not_observed"] == 50 * 170
    assert left["scenes"][0]["stretch"]["high"][0] < 200
    assert (labels_of(left["out"])[100:] == UNSEEN).all()
    assert any("--set collars=false" in note for note in left["notes"]) == (not sets)


def test_a_collars_value_that_means_ground_too_is_left_alone_and_told(make_scene, settings_for):
    pixels = random_pixels()
    pixels[:, 100:] = 255
    pixels[:, 20:30, 20:30] = 255  # a white roof
    found = run(settings_for(make_scene(pixels=pixels)))
    assert found["pixels"]["not_observed"] == 0
    assert any("33% of it, along its edges, is 255" in note and "--set nodata=255" in note for note in found["notes"])


def test_an_image_of_nothing_else_has_no_collar(make_scene, settings_for):
    pixels = random_pixels()
    pixels[:] = 0
    assert run(settings_for(make_scene(pixels=pixels)))["pixels"]["not_observed"] == 0


def test_the_stretch_is_the_scene_s_whatever_the_aoi(make_scene, settings_for, tmp_path):
    scene = make_scene()
    whole = scores_of(run(settings_for(scene))["out"])
    gpd.GeoDataFrame(geometry=[shapely.box(500_010, 5_299_950, 500_040, 5_299_990)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    part = scores_of(run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg"), out=str(tmp_path / "outputs" / "part")))["out"])
    assert np.array_equal(part, whole[:, 20:100, 20:80])


def test_tiles_without_data_are_normal(make_scene, settings_for):
    pixels = random_pixels()
    pixels[:, :, 64:] = 0
    summary = run(settings_for(make_scene(pixels=pixels, nodata=0)))
    assert summary["tiles"]["empty"] > 0
    assert summary["tiles"]["computed"] + summary["tiles"]["empty"] == summary["tiles"]["planned"]
    assert summary["status"] == "complete"


def test_an_all_nodata_source_is_refused(make_scene, settings_for):
    with pytest.raises(RasterError, match="a scene with valid pixels"):
        run(settings_for(make_scene(pixels=np.zeros((3, 80, 80), np.uint8), nodata=0)))


def test_a_scene_smaller_than_a_tile_is_done_whole(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=random_pixels(5, 9))))
    assert labels_of(summary["out"]).shape == (5, 9)
    assert summary["pixels"]["observed"] == 45


def test_the_newest_scene_is_on_top_and_each_feature_knows_its_scene(make_scene, settings_for, tmp_path):
    old = random_pixels(seed=1)
    new = random_pixels(seed=2)
    new[:, :, :85] = 0
    make_scene("archive/old_20200101.tif", old, nodata=0)
    make_scene("archive/new_20240101.tif", new, nodata=0)
    for composite, top, below in (("newest", "new_20240101", "old_20200101"), ("oldest", "old_20200101", "new_20240101")):
        out = tmp_path / "outputs" / composite
        summary = run(settings_for(tmp_path / "archive", out=str(out), sets=[f"composite={composite}"]))
        assert [s["id"] for s in summary["scenes"]] == [top, below]
        frame = gpd.read_file(out / "layers.gpkg", layer="road")
        assert set(frame["scene"]) == ({"new_20240101", "old_20200101"} if composite == "newest" else {"old_20200101"})
        centres = frame.geometry.representative_point().x
        if composite == "newest":
            assert (frame["scene"][centres > 500_000 + 50] == "new_20240101").all()
            assert (frame["scene"][centres < 500_000 + 35] == "old_20200101").all()


def test_scenes_of_different_crs_meet_on_one_grid(make_scene, settings_for, tmp_path):
    make_scene("archive/a.tif")
    make_scene("archive/b.tif", crs="EPSG:4326", transform=Affine(6e-6, 0, 9.0005, 0, -4.5e-6, 47.8535))
    summary = run(settings_for(tmp_path / "archive"))
    assert {s["crs"] for s in summary["scenes"]} == {"EPSG:32632", "EPSG:4326"}
    assert summary["plan"]["grid"]["crs"] == "EPSG:32632"
    frame = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="road")
    assert set(frame["scene"]) == {"a", "b"}


def test_each_pixel_is_the_newest_scene_s_that_saw_it_whatever_the_crs_and_resolution(make_scene, settings_for, tmp_path):
    holes = random_pixels(seed=5)
    holes[:, 40:110, 30:120] = 0
    make_scene("archive/new_20240101.tif", holes, nodata=0, gsd=0.7)
    # The same place in degrees, in pixels of about 0.45 m.
    degrees = Affine(6e-6, 0, 9.0, 0, -4.05e-6, 47.8535)
    make_scene("archive/old_20200101.tif", random_pixels(320, 320, seed=6), crs="EPSG:4326", transform=degrees)
    aoi = ",".join(map(str, rasterio.warp.transform_bounds("EPSG:32632", "EPSG:4326", 500_015, 5_299_930, 500_100, 5_299_990)))

    def labels(name, **flags):
        summary = run(settings_for(tmp_path / "archive", out=str(tmp_path / "outputs" / name), aoi=aoi, gsd_m=1.0, **flags))
        return labels_of(summary["out"]), summary

    both, summary = labels("both")
    new, one = labels("new", scenes=("new_20240101",))
    old, other = labels("old", scenes=("old_20200101",))
    assert summary["plan"]["grid"] == one["plan"]["grid"] == other["plan"]["grid"]
    assert (new == UNSEEN).sum() > 1000
    assert (new != UNSEEN).sum() > 1000
    np.testing.assert_array_equal(both, np.where(new == UNSEEN, old, new))
    assert {s["id"]: round(s["gsd_m"], 1) for s in summary["scenes"]} == {"new_20240101": 0.7, "old_20200101": 0.4}


def test_an_aoi_in_two_far_corners_costs_only_its_tiles(make_scene, settings_for, tmp_path):
    make_scene("archive/a.tif")
    make_scene("archive/b.tif", origin=(505_000.0, 5_295_000.0))
    parts = [shapely.box(500_010, 5_299_960, 500_030, 5_299_980), shapely.box(505_010, 5_294_960, 505_030, 5_294_980)]
    gpd.GeoDataFrame(geometry=parts, crs=32632).to_file(tmp_path / "aoi.gpkg")
    started = time.monotonic()
    summary = run(settings_for(tmp_path / "archive", aoi=str(tmp_path / "aoi.gpkg")))
    assert summary["tiles"]["planned"] < 12
    assert summary["plan"]["grid"]["height"] > 10_000
    assert summary["pixels"]["observed"] == 2 * 40 * 40
    assert time.monotonic() - started < 60
    coverage = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="coverage")
    assert coverage["area_m2"].sum() == pytest.approx(800)


@pytest.mark.parametrize(("crs", "degree"), [("EPSG:4326", 1.0), ("EPSG:3857", 20_037_508.342789 / 180)])
def test_a_world_wide_image_is_read_where_the_aoi_is(make_scene, settings_for, tmp_path, crs, degree):
    transform = Affine(0.5 * degree, 0, -180 * degree, 0, -0.5 * degree, 90 * degree)
    world = make_scene(pixels=random_pixels(360, 720), crs=crs, transform=transform)
    gpd.GeoDataFrame(geometry=[shapely.box(500_000, 5_300_000, 800_000, 5_500_000)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    for number, aoi in enumerate(["8,47,12,50", str(tmp_path / "aoi.gpkg")]):
        summary = run(settings_for(world, aoi=aoi, gsd_m=10_000.0, out=str(tmp_path / "outputs" / str(number))))
        assert summary["pixels"]["observed"] == summary["pixels"]["aoi"] > 0


def test_a_run_without_any_data_says_so(make_scene, settings_for, tmp_path):
    notes = []

    class Listener(Silent):
        def note(self, text):
            notes.append(text)

    pixels = random_pixels()
    pixels[:, :, :100] = 0
    gpd.GeoDataFrame(geometry=[shapely.box(500_005, 5_299_950, 500_010, 5_299_990)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    scene = make_scene(pixels=pixels, nodata=0)
    summary = run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg"), tile_px=32, overlap_px=0), Listener())
    assert summary["pixels"]["observed"] == 0
    assert any("nothing was observed" in note for note in notes)


def test_too_many_scenes_for_one_run_are_refused(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setattr("rs_pipeline.imagery.MAX_SCENES", 1)
    make_scene("archive/a.tif")
    make_scene("archive/b.tif")
    with pytest.raises(CatalogError, match="at most 1 scenes"):
        run(settings_for(tmp_path / "archive"))


def test_the_run_folder_holds_what_the_readme_says(make_scene, settings_for):
    summary = run(settings_for(make_scene()))
    assert sorted(p.name for p in Path(summary["out"]).iterdir()) == sorted([*summary["files"], "run.json"])
    assert set(PRODUCTS) <= set(summary["files"])
    assert json.loads((Path(summary["out"]) / "run.json").read_text()) == json.loads(json.dumps(summary))
    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        assert (file.dtypes, file.nodata, file.crs.to_epsg()) == (("uint8",), 255, 32632)
        assert file.colormap(1)[1] == (228, 87, 46, 255)
        assert file.tags()["RS_SEG_CLASSES"] == '{"1": "road", "2": "water", "3": "building"}'
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(Path(summary["out"]) / "scores.tif") as file:
        assert file.descriptions == ("road", "water", "building")
        assert file.nodata == 255


def test_outlines_are_made_as_the_settings_say(make_scene, settings_for, tmp_path):
    scene = make_scene(pixels=random_pixels(600, 500))

    def roads(**vectors):
        flags = {f"vectors.{key}": value for key, value in vectors.items()}
        summary = run(settings_for(scene, out=str(tmp_path / "outputs" / "-".join(map(str, ["run", *vectors.values()]))), **flags))
        frames = [gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer=name) for name in ("road", "water", "building")]
        return frames[0].sort_values("id"), shapely.coverage_is_valid(np.concatenate([frame.geometry.to_numpy() for frame in frames]))

    exact, matched = roads(block_px=100)
    assert not matched  # where three objects meet, the one that goes straight on has no vertex
    simple, matched = roads(block_px=128, simplify_m=2.0)
    assert matched
    assert simple["id"].tolist() == exact["id"].tolist()
    assert simple["area_m2"].tolist() == exact["area_m2"].tolist()
    joined, _ = roads(connectivity=8)
    assert set(joined.geom_type) == {"MultiPolygon"}
    assert len(joined) < len(exact)
    assert joined["area_m2"].sum() == exact["area_m2"].sum()
    assert (exact["edge_not_observed"] > 0).any()
    assert (exact["edge_not_observed"] == 0).any()
