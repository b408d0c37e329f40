"""Squared outlines: one for each object, whatever the library makes of it, and whatever the blocks."""

import json
import subprocess
import sys
import warnings

import buildingregulariser
import geopandas as gpd
import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_cli import rs_seg
from test_vectorize import NORTH_UP, grid_of, joined, reader

import rs_pipeline
from rs_pipeline import square_layers, squares
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import load_settings
from rs_pipeline.errors import ConfigError, OutputError, UsageError
from rs_pipeline.plan import plan_run
from rs_pipeline.run import run
from rs_pipeline.square_layers import write_squares
from rs_pipeline.squares import LEAST_IOU, square_outlines
from rs_pipeline.vectorize import Outlines, polygonize

CLASSES = ClassSet((Class(1, "building", ("building",), (155, 93, 229), 0.5), Class(2, "road", ("road",), (228, 87, 46), 0.3)))
STEP = NORTH_UP.a
regularize = buildingregulariser.regularize_geodataframe


def burnt(*shapes, size=120):
    """Labels of shapes in metres right of and below the first pixel's corner."""
    placed = [shapely.transform(shape, lambda p: p * (1, -1) + (NORTH_UP.c, NORTH_UP.f)) for shape in shapes]
    return rasterio.features.rasterize(placed, (size, size), transform=NORTH_UP, dtype="uint8"), placed


def objects_of(labels, block_px=1024):
    return joined(polygonize(grid_of(labels), 2, reader(labels), block_px))


def turned(shape, degrees):
    return shapely.affinity.rotate(shape, degrees, origin=(30, 30))


def angles(polygon):
    points = shapely.get_coordinates(polygon.exterior)
    sides = np.degrees(np.arctan2(*np.diff(points, axis=0).T))
    return np.abs(np.diff(np.append(sides, sides[0]))) % 180


def iou_of(one, other):
    return shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))


def town(seed, size=64):
    """Ragged blobs of two classes, with holes, specks and neighbours that touch."""
    noise = np.random.default_rng(seed).normal(size=(2, size, size))
    heights = [ndimage.gaussian_filter(n, 1.6) for n in noise]
    return np.where(heights[0] > 0.05, 1, np.where(heights[1] > 0.1, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 1, 25, 60, 89])
def test_a_rectangle_of_pixels_gets_its_four_right_angles_back(degrees):
    labels, (truth,) = burnt(turned(shapely.box(15, 20, 45, 38), degrees))
    objects = objects_of(labels).geometry
    found = square_outlines(objects, STEP)
    (outline,) = found.geometry
    assert found.squared.all()
    assert shapely.get_num_coordinates(outline) == 5
    np.testing.assert_allclose(angles(outline), 90, atol=0.2)
    assert outline.area == pytest.approx(truth.area, rel=0.05)
    assert iou_of(outline, truth) > 0.9


def test_a_house_with_a_wing_keeps_it_and_a_tank_is_round():
    house = shapely.union(shapely.box(10, 10, 40, 20), shapely.box(10, 10, 20, 30))
    labels, truths = burnt(turned(house, 20), shapely.Point(48, 48).buffer(6))
    found = square_outlines(objects_of(labels).geometry, STEP)
    by_size = np.argsort(-shapely.area(found.geometry))
    wing, tank = found.geometry[by_size]
    assert shapely.get_num_coordinates(wing) == 7
    np.testing.assert_allclose(angles(wing), 90, atol=0.2)
    assert iou_of(wing, truths[0]) > 0.9
    assert shapely.minimum_bounding_radius(tank) ** 2 * np.pi == pytest.approx(tank.area, rel=0.01)
    assert iou_of(tank, truths[1]) > 0.95


def test_holes_stay_of_a_court_as_of_a_pixel():
    labels, (court,) = burnt(turned(shapely.box(10, 10, 48, 46) - shapely.box(20, 22, 36, 34), 15))
    labels[40, 60] = 0
    labels[42:44, 30] = 0
    assert len(objects_of(labels).geometry) == 1
    found = square_outlines(objects_of(labels).geometry, STEP)
    assert found.squared.all()
    assert found.iou[0] > 0.93
    (outline,) = found.geometry
    holes = sorted((shapely.Polygon(hole) for hole in outline.interiors), key=lambda hole: hole.area)
    np.testing.assert_allclose([hole.area for hole in holes[:2]], [STEP**2, 2 * STEP**2], rtol=0.01)
    assert iou_of(holes[2], shapely.Polygon(court.interiors[0])) > 0.9
    np.testing.assert_allclose(angles(holes[2]), 90, atol=0.2)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(3, 40))
def test_every_object_has_one_valid_outline_near_it_with_its_holes_whatever_the_blocks(seed, block_px):
    labels = town(seed)
    whole, cut = objects_of(labels), objects_of(labels, block_px)
    found = square_outlines(whole.geometry, STEP)
    assert len(found.geometry) == len(found.iou) == len(found.squared) == len(whole.id)
    assert set(shapely.get_type_id(found.geometry)) <= {shapely.GeometryType.POLYGON}
    assert shapely.is_valid(found.geometry).all()
    np.testing.assert_array_equal(shapely.get_num_interior_rings(found.geometry), shapely.get_num_interior_rings(whole.geometry))
    np.testing.assert_allclose(found.iou, iou_of(found.geometry, whole.geometry), atol=1e-9)
    assert (found.iou >= LEAST_IOU).all()
    again = square_outlines(cut.geometry, STEP)
    assert [shape.wkb for shape in again.geometry] == [shape.wkb for shape in found.geometry]


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(0, 10**6), st.integers(0, 10**7))
def test_an_object_is_squared_alone_and_the_same_wherever_it_lies(seed, east, north):
    objects = objects_of(town(seed, 40)).geometry
    together = square_outlines(objects, STEP).geometry
    for number in range(len(objects)):
        (alone,) = square_outlines(objects[number : number + 1], STEP).geometry
        assert alone.wkb == together[number].wkb
    elsewhere = shapely.transform(objects, lambda p: p - (NORTH_UP.c, NORTH_UP.f) + (east, north))
    back = shapely.transform(square_outlines(elsewhere, STEP).geometry, lambda p: p - (east, north) + (NORTH_UP.c, NORTH_UP.f))
    np.testing.assert_allclose(shapely.get_coordinates(back), shapely.get_coordinates(together), rtol=0, atol=1e-6)


def small(frame):
    """The objects that a broken library has its trouble with."""
    return frame.geometry.area < 20


def fails_on_some(frame):
    if small(frame).any():
        raise RuntimeError("too small for me")
    return frame


def shaped(frame, make):
    return frame.set_geometry([make(g) if odd else g for g, odd in zip(frame.geometry, small(frame), strict=True)])


BOW_TIE = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
TROUBLES = {
    "raises": fails_on_some,
    "drops": lambda frame: frame[~small(frame)],
    "drops all": lambda frame: frame[:0],
    "empties": lambda frame: shaped(frame, lambda _: shapely.Polygon()),
    "gives none": lambda frame: shaped(frame, lambda _: None),
    "gives lines": lambda frame: shaped(frame, lambda g: g.exterior),
    "crosses itself": lambda frame: shaped(frame, lambda _: BOW_TIE),
    "gives nan": lambda frame: shaped(frame, lambda g: shapely.transform(g, lambda p: p * np.nan)),
    "moves too far": lambda frame: shaped(frame, lambda g: shapely.affinity.translate(g, g.length / 4)),
    "takes apart": lambda frame: shaped(frame, lambda g: shapely.MultiPolygon([g.buffer(-1.2), shapely.box(90, 90, 91, 91)])),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_no_object_is_lost_when_the_library_fails_on_it(trouble, monkeypatch):
    ragged = turned(shapely.box(5, 40, 9, 44), 30)  # less than 20 m²
    labels, _ = burnt(turned(shapely.box(15, 20, 45, 38), 30), ragged, shapely.Point(50, 8).buffer(2))
    objects = objects_of(labels).geometry
    is_small = shapely.area(objects) < 20
    assert sorted(is_small) == [False, True, True]
    expected = square_outlines(objects, STEP)
    monkeypatch.setattr(buildingregulariser, "regularize_geodataframe", lambda frame, **how: trouble(regularize(frame, **how)))
    found = square_outlines(objects, STEP)
    others = ~is_small if trouble is not TROUBLES["drops all"] else np.zeros(3, bool)
    np.testing.assert_array_equal(found.squared, others)
    assert [g.wkb for g in found.geometry[others]] == [g.wkb for g in expected.geometry[others]]
    own = np.flatnonzero(~others)
    assert [g.wkb for g in found.geometry[own]] == [g.wkb for g in shapely.simplify(objects[own], STEP)]
    np.testing.assert_allclose(found.iou, iou_of(found.geometry, objects))


def test_an_object_that_a_pixel_would_spoil_stays_as_it_is(monkeypatch):
    labels = np.zeros((6, 6), np.uint8)
    labels[2, 3] = 1
    pixel = objects_of(labels).geometry
    monkeypatch.setattr(buildingregulariser, "regularize_geodataframe", lambda frame, **_: frame[:0])
    found = square_outlines(pixel, STEP)
    assert [g.wkb for g in found.geometry] == [g.wkb for g in pixel]
    assert (found.iou.tolist(), found.squared.tolist()) == ([1.0], [False])


def test_an_object_of_very_many_corners_never_meets_the_library(monkeypatch):
    labels, _ = burnt(turned(shapely.box(15, 20, 45, 38), 30), shapely.box(50, 50, 54, 54))
    objects = objects_of(labels).geometry
    monkeypatch.setattr(squares, "_MOST_CORNERS", 10)
    found = square_outlines(objects, STEP)
    np.testing.assert_array_equal(found.squared, shapely.get_num_coordinates(objects) <= 10)
    assert sorted(found.squared) == [False, True]


def test_no_objects_are_no_outlines():
    assert [len(column) for column in square_outlines(np.empty(0, object), STEP)] == [0, 0, 0]


def layer_of(path, layer="building_squares"):
    return gpd.read_file(path, layer=layer)


def test_the_library_sees_few_objects_at_once_on_one_core_in_silence(tmp_path, monkeypatch):
    labels = town(3)
    seen = []

    def spy(frame, **how):
        seen.append((len(frame), how["num_cores"]))
        warnings.warn("about an object", stacklevel=2)
        return regularize(frame, **how)

    monkeypatch.setattr(buildingregulariser, "regularize_geodataframe", spy)
    monkeypatch.setattr(square_layers, "_AT_ONCE", 7)
    whole = objects_of(labels)
    rings = shapely.get_num_interior_rings(whole.geometry) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_squares(tmp_path / "squares.gpkg", grid_of(labels), CLASSES, polygonize(grid_of(labels), 2, reader(labels), 16))
    assert len(seen) > 10
    assert max(number for number, _ in seen) <= np.sort(rings)[-7:].sum()
    assert {cores for _, cores in seen} == {1}
    assert len(layer_of(tmp_path / "squares.gpkg")) == (whole.value == 1).sum()


@pytest.mark.parametrize("at_once", [5, 10_000])
def test_layers_are_the_same_at_every_block_size(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(square_layers, "_AT_ONCE", at_once)
    labels = town(5)
    found = []
    for block_px in (16, 23, 1024):
        path = tmp_path / f"{block_px}.gpkg"
        sums = write_squares(path, grid_of(labels), CLASSES, polygonize(grid_of(labels), 2, reader(labels), block_px, Outlines()))
        rows = {name: layer_of(path, f"{name}_squares").sort_values("object", ignore_index=True) for name in CLASSES.names}
        for name in CLASSES.names:
            counted = (len(rows[name]), rows[name]["squared"].sum(), pytest.approx(rows[name].area.sum()))
            assert (sums[name].count, sums[name].squared, sums[name].area_m2) == counted
        found.append({name: table.to_wkb().to_dict("list") for name, table in rows.items()})
    assert found[0] == found[1] == found[2]


def test_a_class_without_objects_has_a_layer_that_is_empty(tmp_path):
    labels, _ = burnt(shapely.box(10, 10, 20, 20))
    write_squares(tmp_path / "squares.gpkg", grid_of(labels), CLASSES, polygonize(grid_of(labels), 2, reader(labels)))
    assert set(gpd.list_layers(tmp_path / "squares.gpkg")["name"]) == {"building_squares", "road_squares", "layer_styles"}
    assert (len(layer_of(tmp_path / "squares.gpkg")), len(layer_of(tmp_path / "squares.gpkg", "road_squares"))) == (1, 0)


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    labels, _ = burnt(shapely.box(10, 10, 20, 20))
    with pytest.raises(OutputError, match="a writable file"):
        write_squares(tmp_path / "gone" / "squares.gpkg", grid_of(labels), CLASSES, polygonize(grid_of(labels), 2, reader(labels)))


def test_the_setting_is_a_set_of_names():
    flags = {"vectors.square": ("road", "building", "road")}
    assert load_settings(None, flags).vectors.square == ("building", "road")
    assert "square" not in load_settings().vectors.decisive()
    with pytest.raises(ConfigError, match=r"vectors\.square"):
        load_settings(None, None, ["vectors.square=3"])


def test_a_run_leaves_squares_where_they_are_asked_for(make_scene, settings_for, tmp_path):
    summary = run(settings_for(make_scene(), **{"vectors.square": ("buildings", "road"), "vectors.crs": "EPSG:4326"}))
    path = tmp_path / "outputs" / "run" / "squares.gpkg"
    assert "squares.gpkg" in summary["files"]
    assert set(gpd.list_layers(path)["name"]) == {"building_squares", "road_squares", "layer_styles"}
    found, objects = layer_of(path), gpd.read_file(path.parent / "layers.gpkg", layer="building")
    assert found.crs == 4326
    assert sorted(found["object"]) == sorted(objects["id"])
    assert found.is_valid.all()
    metric = found.to_crs(32632).sort_values("object")
    np.testing.assert_allclose(metric.area, metric["area_m2"], rtol=1e-3)
    on_grid = objects.to_crs(32632).sort_values("id").geometry.to_numpy()
    np.testing.assert_allclose(iou_of(metric.geometry.to_numpy(), on_grid), metric["iou"], atol=1e-3)
    styles = gpd.read_file(path, layer="layer_styles")
    assert f"{found['area_m2'].sum() / 1e4:,.1f} ha" in styles.set_index("f_table_name")["styleQML"]["building_squares"]


def test_other_classes_are_refused_while_planning(make_scene, settings_for):
    with pytest.raises(UsageError, match="castle beside road, water, building"):
        plan_run(settings_for(make_scene(), **{"vectors.square": ("castle",)}))


def test_squares_are_asked_for_with_a_flag_and_a_keyword(make_scene, capsys, tmp_path):
    scene = make_scene()
    flags = ["--source", scene, "--classes", "building,road", "--model", "fake_segmenter:pointwise", "--cluster", "in-process"]
    code, out, err = rs_seg(capsys, "run", *flags, "--square", "buildings", "--out", tmp_path / "o" / "run")
    assert code == 0
    assert f"{tmp_path}/o/run/squares.gpkg" in out
    assert "outlines squared" in err
    done = json.loads((tmp_path / "o" / "run" / "run.json").read_text())
    common = {"classes": "building,road", "model": "fake_segmenter:pointwise", "cluster": "in-process", "out": tmp_path / "o" / "run"}
    for names in ("buildings", ["buildings"]):
        assert rs_pipeline.segment(source=scene, square=names, **common).manifest["finished"] == done["finished"], "this very run"


def test_without_squares_nothing_of_the_library_is_loaded(make_scene, tmp_path):
    code = (
        "import sys; from rs_pipeline.config import load_settings; from rs_pipeline.run import run;"
        f"s = load_settings(None, {{'source': ({str(make_scene())!r},), 'classes': ('building',), 'model': 'fake_segmenter:pointwise',"
        f"'out': {str(tmp_path / 'o' / 'run')!r}, 'workers.cluster': 'in-process'}});"
        "run(s); print('buildingregulariser' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1] == "False"
    assert not (tmp_path / "o" / "run" / "squares.gpkg").exists()
