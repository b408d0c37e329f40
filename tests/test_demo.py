"""The invented scenes: the same arguments give the same bytes, the truth is exact, and colour alone does not give it away."""

import json
import tracemalloc

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from pyproj import Transformer

from rs_pipeline.demo import DEMO_CLASSES, TRUTH_LAYERS, render_scene, truth_labels, write, write_demo
from rs_pipeline.demo.burn import fill
from rs_pipeline.demo.light import cast_shadows
from rs_pipeline.demo.write import demo_grid, region_of
from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid

SIZE = 600


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo on disk."""
    return write_demo(tmp_path_factory.mktemp("demo"), size_px=SIZE)


@pytest.fixture(scope="module")
def scenes():
    """Small scenes of many seeds."""
    return [render_scene(seed, 256, 256) for seed in range(24)]


def truth_of(labels, names=TRUTH_LAYERS):
    """What `truth_labels` should give for a scene's own labels."""
    values = np.zeros(len(DEMO_CLASSES) + 1, np.uint8)
    for value, name in enumerate(names, 1):
        values[DEMO_CLASSES.index(name) + 1] = value
    return values[labels]


def test_the_same_arguments_give_the_same_bytes():
    first, second = render_scene(3, 200, 260, 0.7), render_scene(3, 200, 260, 0.7)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.roads_px.equals(second.roads_px)


def test_rendering_leaves_the_global_random_state_alone():
    np.random.seed(1)  # noqa: NPY002  the state under test
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    render_scene(0, 64, 64)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_seeds_give_different_places(scenes):
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert len({scene.labels.tobytes() for scene in scenes}) == len(scenes)


@pytest.mark.parametrize(("height", "width", "gsd_m"), [(1, 1, 0.5), (7, 300, 0.5), (301, 130, 0.3), (64, 64, 2.0), (333, 257, 1.0)])
def test_any_size_and_pixel(height, width, gsd_m):
    scene = render_scene(5, height, width, gsd_m)
    assert scene.image.shape == (3, height, width)
    assert scene.labels.shape == (height, width)
    assert scene.image.dtype == scene.labels.dtype == np.uint8


@pytest.mark.parametrize("arguments", [(0, 10, 0.5), (10, -1, 0.5), (10, 10, 0.0), (10, 10, float("nan"))])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="positive"):
        render_scene(0, *arguments)


def test_every_pixel_has_a_class_and_seeds_cover_all(scenes):
    counts = sum(np.bincount(scene.labels.ravel(), minlength=6) for scene in scenes)
    assert len(counts) == len(DEMO_CLASSES) + 1
    assert counts[0] == 0
    assert (counts[1:] > 0.03 * counts.sum()).all()


@pytest.mark.parametrize("size", [256, SIZE, 1024])
def test_a_showcase_has_every_class(size):
    labels = render_scene(7, size, size, showcase=True).labels
    assert (np.bincount(labels.ravel(), minlength=6)[1:] > 0.002 * size**2).all()


def test_vectors_agree_with_the_labels(scenes):
    for scene in scenes[:6]:
        for shape, name in ((scene.roads_px, "road"), (scene.water_px, "water"), (scene.buildings_px, "building")):
            value = DEMO_CLASSES.index(name) + 1
            burned = np.zeros(scene.labels.shape, bool)
            if not shape.is_empty:
                burned = rasterio.features.rasterize([shape], scene.labels.shape).astype(bool)
            # all but the crowns above it, and pixels on its edge
            other = burned & (scene.labels != value) & (scene.labels != DEMO_CLASSES.index("vegetation") + 1)
            assert other.mean() < 0.003
            assert ((scene.labels == value) & ~burned).mean() < 0.003


def test_colour_alone_finds_roads_badly(scenes):
    """Nearest class mean, with the means of the very scene: measured mean road IoU 0.34; with those of other scenes 0.07."""
    road = DEMO_CLASSES.index("road")
    own, foreign = [], []
    pixels = [(s.image.reshape(3, -1).T.astype(np.float32), s.labels.ravel() - 1) for s in scenes]
    shared = class_means(np.concatenate([x for x, _ in pixels[:12]]), np.concatenate([y for _, y in pixels[:12]]))
    for x, y in pixels[12:]:
        if (y == road).any():
            own.append(iou(nearest(x, class_means(x, y)) == road, y == road))
            foreign.append(iou(nearest(x, shared) == road, y == road))
    assert np.mean(own) < 0.45
    assert np.mean(foreign) < 0.2


def class_means(x, y):
    return np.stack([x[y == k].mean(axis=0) if (y == k).any() else np.full(3, 1e6, np.float32) for k in range(len(DEMO_CLASSES))])


def nearest(x, means):
    return np.argmin(((x[:, None] - means) ** 2).sum(axis=-1), axis=1)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_shadows_fall_with_the_light_and_end():
    heights = np.zeros((40, 60), np.uint16)
    heights[20, 30] = 1000
    dark = cast_shadows(heights, (1.0, 0.0), 100.0)
    assert dark[20, 31:40].all()
    assert dark.sum() == 9  # the tenth would be 0 m below the ray
    for sun in ((-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.6, 0.8), (-0.8, 0.6)):
        rows, cols = np.nonzero(cast_shadows(heights, sun, 100.0))
        assert len(rows) > 3
        assert np.sign(cols.mean() - 30) == np.sign(sun[0])
        assert np.sign(rows.mean() - 20) == np.sign(sun[1])


def test_fill_agrees_with_rasterio():
    shapes = np.array(
        [
            shapely.Point(20, 20).buffer(15).difference(shapely.Point(22, 18).buffer(6)),
            shapely.box(36.2, -10, 90, 30.7),
            shapely.MultiPolygon([shapely.box(2, 50, 9, 58.5), shapely.Polygon([(12, 45), (30, 62), (11.3, 70)])]),
        ],
        dtype=object,
    )
    out = np.full((64, 80), 9, np.uint8)
    fill(shapes, np.array([1, 2, 3]), out)
    np.testing.assert_array_equal(out, rasterio.features.rasterize(zip(shapes, (1, 2, 3), strict=True), out.shape, fill=9))


def test_fill_leaves_ground_where_shapes_overlap():
    out = np.zeros((10, 30), np.uint8)
    fill(np.array([shapely.box(0, 0, 12, 10), shapely.box(11, 0, 20, 10)], dtype=object), np.array([1, 2]), out)
    assert out[0].tolist() == [1] * 11 + [0] + [2] * 8 + [0] * 10


def test_the_scene_is_a_cloud_optimized_geotiff(demo):
    with rasterio.open(demo.scene) as scene:
        assert scene.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert scene.block_shapes == [(512, 512)] * 3
        assert scene.overviews(1) == [2]
        assert (scene.count, scene.dtypes[0], scene.nodata, scene.crs.to_epsg()) == (3, "uint8", None, 32632)
        assert scene.transform == demo_grid(SIZE).transform
        assert scene.tags()["TIFFTAG_DATETIME"].startswith("2026:06:01")
        np.testing.assert_array_equal(scene.read(), render_scene(7, SIZE, SIZE, showcase=True).image)


def test_the_truth_burns_back_to_the_labels(demo):
    labels = render_scene(7, SIZE, SIZE, showcase=True).labels
    assert [name for name, _ in pyogrio.list_layers(demo.truth)] == list(TRUTH_LAYERS)
    np.testing.assert_array_equal(truth_labels(demo.truth, TRUTH_LAYERS, demo_grid(SIZE)), truth_of(labels))
    some = ("water", "road")
    np.testing.assert_array_equal(truth_labels(demo.truth, some, demo_grid(SIZE)), truth_of(labels, some))


@pytest.mark.parametrize("epsg", [32632, 3857])
def test_the_truth_burns_on_other_grids(demo, epsg):
    first = demo_grid(SIZE)
    x, y = Transformer.from_crs(first.crs, epsg, always_xy=True).transform(first.bounds[0] + 30.123, first.bounds[3] - 40.456)
    grid = Grid(rasterio.CRS.from_epsg(epsg), Affine(0.7013, 0.1017, x, 0.1017, -0.7013, y), 150, 190)
    frame = pyogrio.read_dataframe(demo.truth, layer="vegetation").to_crs(epsg)
    expected = rasterio.features.rasterize(frame.geometry, grid.shape, transform=grid.transform)
    found = truth_labels(demo.truth, ["vegetation"], grid)
    assert 0.05 < expected.mean() < 0.95
    assert (found != expected).mean() < 0.001


def test_a_class_without_truth_is_refused(demo):
    with pytest.raises(UsageError, match="road, water, building, vegetation"):
        truth_labels(demo.truth, ["road", "canal"], demo_grid(SIZE))


def test_the_region_is_an_irregular_part_of_the_scene(demo):
    collection = json.loads(demo.region.read_text())
    geometry = shapely.geometry.shape(collection["features"][0]["geometry"])
    assert "crs" not in collection
    assert geometry.is_valid
    assert len(geometry.interiors) == 1
    assert geometry.exterior.is_ccw
    assert not geometry.interiors[0].is_ccw
    grid = demo_grid(SIZE)
    back = Transformer.from_crs(4326, grid.crs, always_xy=True)
    region = shapely.transform(geometry, lambda lonlat: np.column_stack(back.transform(*lonlat.T)))
    scene = shapely.box(*grid.bounds)
    assert scene.contains(region)
    assert 0.6 < region.area / scene.area < 0.7
    assert region.symmetric_difference(region_of(grid)).area < 0.001 * scene.area


def test_a_demo_that_is_there_is_not_made_again(demo, monkeypatch):
    monkeypatch.setattr(write, "render_scene", None)
    before = {path: path.stat().st_mtime_ns for path in demo.scene.parent.iterdir()}
    assert write_demo(demo.scene.parent, size_px=SIZE) == demo
    assert {path: path.stat().st_mtime_ns for path in demo.scene.parent.iterdir()} == before


@pytest.mark.parametrize("spoil", ["seed", "size", "version", "scene", "record", "truth"])
def test_a_demo_that_differs_is_made_again(tmp_path, monkeypatch, spoil):
    files = write_demo(tmp_path, size_px=96)
    record, seed, size = tmp_path / "demo.json", 7, 96
    if spoil == "seed":
        seed = 8
    elif spoil == "size":
        size = 128
    elif spoil == "version":
        monkeypatch.setattr(write, "VERSION", write.VERSION + 1)
    elif spoil == "scene":
        files.scene.write_bytes(b"half a scene")
    elif spoil == "record":
        record.write_text("{")
    else:
        files.truth.unlink()
    write_demo(tmp_path, size_px=size, seed=seed)
    made = json.loads(record.read_text())
    assert (made["seed"], made["size_px"], made["version"]) == (seed, size, write.VERSION)
    assert made["scene_sha256"] == write.sha256(files.scene)
    with rasterio.open(files.scene) as scene:
        assert scene.shape == (size, size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "region.geojson", "scene.tif", "truth.gpkg"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        write_demo(tmp_path, size_px=96)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_demo_whole(tmp_path, monkeypatch):
    files = write_demo(tmp_path, size_px=96)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_truth", fail)
        with pytest.raises(OSError, match="disk full"):
            write_demo(tmp_path, size_px=96, seed=8)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert write_demo(tmp_path, size_px=96) == files


def fail(*_):
    raise OSError("disk full")


def test_a_demo_too_small_is_refused(tmp_path):
    with pytest.raises(UsageError, match="at least 64"):
        write_demo(tmp_path, size_px=20)


def test_memory_stays_lean():
    tracemalloc.start()
    render_scene(1, 1024, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * 1024**2
