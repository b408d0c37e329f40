import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import fiona
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from pyogrio.util import vsi_path
from pyproj import CRS

from rs_pipeline import geopackage, layers, spool
from rs_pipeline.changes_folder import has_layers
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.layer_metadata import LayerAbout
from rs_pipeline.layer_tables import COVERAGE_SCHEMA, SceneFootprint
from rs_pipeline.layers import Delivery, LayerSummary, write_layers
from rs_pipeline.report.shapes import pack_layers, wanted_layers
from rs_pipeline.vectorize import Features, polygonize, polygonize_coverage

LABELS = np.array([[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 255, 255]], np.uint8)
SCORES = np.array([0, 127, 254, 0], np.uint8)[LABELS % 4]
SOURCES = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [255, 0, 255, 255]], np.uint8)
GRID = Grid(CRS.from_epsg(32633), Affine(10, 0, 500_000, 0, -10, 4_000_000), *LABELS.shape)
SCENES = [
    SceneFootprint("S2A", "2024-05-01T12:20:30+02:00", 10.0, "a.tif", "a.json", shapely.box(499_000, 3_999_985, 500_020, 4_000_500), 7),
    SceneFootprint("no date", None, 5.0, "b.tif", None, shapely.box(500_020, 3_000_000, 500_500, 4_000_500), 3),
]


def classes_named(*names: str) -> ClassSet:
    return ClassSet(tuple(Class(i, name, (name,), (10 * i, 20, 30), 0.5) for i, name in enumerate(names, start=1)))


CLASSES = classes_named("road", "open water", "empty")
PLAIN = Delivery()


def features() -> Iterator[Features]:
    def read(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, cols = window.slices()
        return LABELS[rows, cols], SCORES[rows, cols], SOURCES[rows, cols]

    return polygonize(GRID, 3, read, 2)


def coverage() -> Iterator[Features]:
    return polygonize_coverage(GRID, lambda window: LABELS[window.slices()], lambda window: np.ones(window.shape, bool), 2)


def write(path: Path, classes: ClassSet = CLASSES, delivery: Delivery = PLAIN) -> dict[str, LayerSummary]:
    return write_layers(path, GRID, classes, features(), coverage(), SCENES, delivery=delivery)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "layers.gpkg"
    write(path)
    return path


def query(path: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def count(path: Path, table: str) -> int:
    ((rows,),) = query(path, f'SELECT count(*) FROM "{table}"')  # noqa: S608 - ours
    return rows


def test_there_is_one_layer_per_class_in_order_then_coverage_and_scenes(package: Path) -> None:
    names = pyogrio.list_layers(package)
    assert [tuple(row) for row in names[:5]] == [
        *((name, "Polygon") for name in (*CLASSES.names, "coverage")),
        ("scenes", "MultiPolygon"),
    ]


def test_features_carry_what_is_known_of_them(package: Path) -> None:
    roads = pyogrio.read_dataframe(package, layer="road").sort_values("id")
    assert roads.crs == GRID.crs
    assert roads["id"].tolist() == [0, 8]
    assert roads["class"].tolist() == ["road", "road"]
    assert roads["area_m2"].tolist() == [200.0, 100.0]
    assert roads["score_mean"].tolist() == [0.5, 0.5]
    assert roads["scene"].iloc[0] == "S2A"
    assert roads["scene"].isna().tolist() == [False, True]
    assert roads["datetime"].iloc[0].isoformat() == "2024-05-01T10:20:30+00:00"
    assert roads["datetime"].isna().tolist() == [False, True]
    assert roads.geometry.iloc[0].equals(shapely.box(500_000, 3_999_990, 500_020, 4_000_000))


def test_a_scene_without_a_date_leaves_it_empty(package: Path) -> None:
    water = pyogrio.read_dataframe(package, layer="open water")
    assert water["scene"].tolist() == ["no date"]
    assert water["datetime"].isna().all()


def test_a_class_that_was_not_found_has_a_layer_with_the_same_columns(package: Path) -> None:
    empty, road = (pyogrio.read_info(package, layer=name) for name in ("empty", "road"))
    assert empty["features"] == 0
    assert empty["geometry_type"] == "Polygon"
    assert empty["ogr_types"] == road["ogr_types"]
    assert empty["crs"] == "EPSG:32633"
    assert empty["fields"].tolist() == ["id", "class", "area_m2", "score_mean", "edge_not_observed", "scene", "datetime"]


def test_the_coverage_says_where_the_grid_was_observed(package: Path) -> None:
    table = pyogrio.read_dataframe(package, layer="coverage")
    assert dict(zip(table["state"], table["area_m2"], strict=True)) == {"observed": 1000.0, "not observed": 200.0}


def test_the_summary_is_of_whole_layers(tmp_path: Path) -> None:
    summary = write(tmp_path / "layers.gpkg")
    assert summary == {"road": LayerSummary(2, 300.0, 0.5), "open water": LayerSummary(1, 200.0, 1.0), "empty": LayerSummary(0, 0.0, None)}


def test_the_mean_score_of_a_layer_weighs_pixels(tmp_path: Path) -> None:
    batch = next(coverage())._replace(value=np.array([1], np.uint8), pixels=np.array([1]), score_mean=np.array([0.1]))
    parts = [batch, batch._replace(pixels=np.array([3]), score_mean=np.array([0.5]))]
    summary = write_layers(tmp_path / "layers.gpkg", GRID, CLASSES, parts, [], SCENES)
    assert summary["road"].score_mean == pytest.approx(0.4)


def test_the_version_is_one_that_older_qgis_reads(package: Path) -> None:
    assert query(package, "PRAGMA user_version") == [(10300,)]


def test_every_layer_has_a_spatial_index(package: Path) -> None:
    indexed = query(package, "SELECT table_name FROM gpkg_extensions WHERE extension_name = 'gpkg_rtree_index'")
    assert {name for (name,) in indexed} == {*CLASSES.names, "coverage", "scenes"}
    assert query(package, "SELECT count(*) FROM rtree_road_geometry") == [(2,)]


def styles(path: Path) -> dict[str, ET.Element]:
    rows = query(path, "SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault AND f_geometry_column = 'geometry'")
    return {name: ET.fromstring(qml.split("\n", 1)[1]) for name, qml in rows}  # noqa: S314


def test_every_layer_has_a_default_style_in_the_table_qgis_reads(package: Path) -> None:
    assert set(styles(package)) == {*CLASSES.names, "coverage", "scenes"}
    assert query(package, "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'") == [("attributes",)]


def test_a_class_is_drawn_in_its_colour_and_half_transparent(package: Path) -> None:
    options = {o.get("name"): o.get("value") for o in styles(package)["open water"].iter("Option")}
    assert options["color"] == "20,20,30,110"
    assert options["outline_color"] == "20,20,30,255"


def test_the_coverage_is_drawn_by_state(package: Path) -> None:
    style = styles(package)["coverage"]
    symbols = {c.get("value"): c.get("symbol") for c in style.iter("category")}
    brushes = {s.get("name"): [o.get("value") for o in s.iter("Option") if o.get("name") == "style"] for s in style.iter("symbol")}
    assert style.find("renderer-v2").get("attr") == "state"
    assert brushes[symbols["observed"]] == ["no"]
    assert brushes[symbols["not observed"]] == ["b_diagonal"]


def test_names_are_kept_whatever_is_in_them(tmp_path: Path) -> None:
    names = ("it's", 'a "quoted" one', "水; DROP TABLE x")
    write(tmp_path / "layers.gpkg", classes_named(*names))
    assert pyogrio.list_layers(tmp_path / "layers.gpkg")[:3, 0].tolist() == list(names)
    assert {*names, "coverage", "scenes"} == set(styles(tmp_path / "layers.gpkg"))


@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=3))
@example(["run!old", "layers.gpkg"])
@example(["layers!old.gpkg"])
@example(["vsimem", "layers.gpkg"])
@example(["", "tmp", "layers.gpkg"])
def test_a_plain_path_leads_to_the_same_file_and_pyogrio_takes_it_as_it_is(names: list[str]) -> None:
    path = Path("/" + "/".join(names))
    with geopackage.plain_path(path) as plain:
        assert vsi_path(plain) == str(plain)
        assert not str(plain).startswith("/vsi")
        assert os.path.realpath(plain) == os.path.realpath(path)
    assert plain == path or not os.path.lexists(plain)


@pytest.mark.parametrize("name", ["run!old/layers.gpkg", "layers!old.gpkg", "a;b?.gpkg", "tab\t.gpkg", "back\\slash.gpkg", "%41#'\"&.gpkg"])
def test_layers_go_where_they_are_told_whatever_the_name(package: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    for layer in (*CLASSES.names, "coverage", "scenes"):
        assert query(path, f'SELECT * FROM "{layer}"') == query(package, f'SELECT * FROM "{layer}"')  # noqa: S608 - ours
    classes, grid = wanted_layers({"classes": [{"name": "road", "colour": (1, 2, 3)}], "pixels": {"not_observed": 1}}), GRID
    assert pack_layers(path, grid, classes) == pack_layers(package, grid, classes)


def test_a_package_of_any_name_gets_more_layers(tmp_path: Path) -> None:
    path = tmp_path / "a!b" / "lines;.gpkg"
    path.parent.mkdir()
    rows = spool.LayerRows(tmp_path / "rows", COVERAGE_SCHEMA, "Polygon")
    rows.close()
    for name in ("first", "second"):
        geopackage.write_geopackage(path, {name: rows}, GRID.crs)
    assert query(path, "SELECT table_name FROM gpkg_contents") == [("first",), ("second",)]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a!b", "a;b", "[/b]"])
def test_a_comparisons_layers_are_found_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert not has_layers(folder, ["road"])
    rows = spool.LayerRows(tmp_path / "rows", COVERAGE_SCHEMA, "Polygon")
    rows.close()
    geopackage.write_geopackage(folder / "changes.gpkg", dict.fromkeys(("coverage", "road gained", "road lost"), rows), GRID.crs)
    assert has_layers(folder, ["road"])
    assert not has_layers(folder, ["water"])


def test_many_small_batches_and_one_large_one_give_the_same_layers(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_BATCH_BYTES", 1)
    write(tmp_path / "layers.gpkg")
    for name in (*CLASSES.names, "coverage", "scenes"):
        one, other = (pyogrio.read_dataframe(path, layer=name) for path in (package, tmp_path / "layers.gpkg"))
        assert one.equals(other)


def test_a_file_that_exists_is_left_alone(package: Path) -> None:
    before = package.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write(package)
    assert package.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="writable file"):
        write(tmp_path / "nowhere" / "layers.gpkg")


def test_a_disk_that_fills_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(layers, "write_styles", full)
    with pytest.raises(OutputError, match="disk is full"):
        write(tmp_path / "layers.gpkg")


@pytest.mark.parametrize(
    "names",
    [
        ("Coverage",),
        ("scenes",),
        ("road", "Road"),
        ("layer_styles",),
        ("gpkg_contents",),
        ("gpkg",),
        ("GPKGx",),
        ("rtree_a",),
        ("sqlite_a",),
    ],
)
def test_names_that_would_clash_are_refused_before_anything_is_written(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Choose another word"):
        write(tmp_path / "layers.gpkg", classes_named(*names))
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_pixels_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Features]:
        raise FileNotFoundError("labels.tif")
        yield

    with pytest.raises(FileNotFoundError):
        write_layers(tmp_path / "layers.gpkg", GRID, CLASSES, broken(), coverage(), SCENES)


def test_an_index_that_gdal_could_not_finish_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = geopackage._write

    def half(path: Path, layer: str, *rest: object) -> None:
        real(path, layer, *rest)
        if layer == "road":  # as on a full disk: the rows are there, and nobody was told of the index
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("DELETE FROM rtree_road_geometry WHERE id = 1")

    monkeypatch.setattr(geopackage, "_write", half)
    with pytest.raises(OutputError, match="1 of 2 rows in rtree_road_geometry"):
        write(tmp_path / "layers.gpkg")
    assert not list(tmp_path.iterdir())


def test_the_scenes_are_cut_to_the_grid_and_say_what_they_gave(package: Path) -> None:
    scenes = pyogrio.read_dataframe(package, layer="scenes")
    assert scenes.columns.tolist() == ["id", "datetime", "gsd_m", "href", "item", "pixels", "area_m2", "geometry"]
    assert scenes["id"].tolist() == ["S2A", "no date"]
    assert scenes["datetime"].isna().tolist() == [False, True]
    assert scenes[["gsd_m", "pixels", "area_m2"]].to_numpy().tolist() == [[10, 7, 700], [5, 3, 300]]
    assert scenes["href"].tolist() == ["a.tif", "b.tif"]
    assert scenes["item"].iloc[0] == "a.json"
    assert scenes["item"].isna().tolist() == [False, True]
    cut = [shapely.box(500_000, 3_999_985, 500_020, 4_000_000), shapely.box(500_020, 3_999_970, 500_040, 4_000_000)]
    assert shapely.equals(scenes.geometry.to_numpy(), cut).all()


def test_a_scene_beside_the_grid_is_not_in_the_layer(tmp_path: Path) -> None:
    beside = [*SCENES, SceneFootprint("beside", None, 1.0, "c.tif", None, shapely.box(0, 0, 1, 1), 0)]
    write_layers(tmp_path / "layers.gpkg", GRID, CLASSES, features(), coverage(), beside)
    assert pyogrio.read_dataframe(tmp_path / "layers.gpkg", layer="scenes")["id"].tolist() == ["S2A", "no date"]


def test_a_scene_that_also_touches_the_grid_along_a_line_is_cut_to_its_areas(tmp_path: Path) -> None:
    left, bottom, right, top = GRID.bounds
    # An L around the grid's corner: one arm goes into the grid, the other along its upper edge.
    inside, along = shapely.box(left - 50, bottom, left + 10, top), shapely.box(left - 50, top, right, top + 50)
    angle = SceneFootprint("angle", None, 1.0, "c.tif", None, shapely.union(inside, along), 1)
    point = shapely.Polygon([(right, bottom), (right + 9, bottom), (right + 9, bottom - 9)])
    split = shapely.MultiPolygon([shapely.box(left, bottom, left + 5, top), shapely.box(right - 5, bottom, right, top), point])
    scenes = [
        angle,
        SceneFootprint("split", None, 1.0, "d.tif", None, split, 1),
        SceneFootprint("beside", None, 1.0, "e.tif", None, along, 0),
    ]
    assert shapely.intersection(angle.outline, shapely.box(*GRID.bounds)).geom_type == "GeometryCollection"
    write_layers(tmp_path / "layers.gpkg", GRID, CLASSES, features(), coverage(), scenes)
    table = pyogrio.read_dataframe(tmp_path / "layers.gpkg", layer="scenes")
    assert table["id"].tolist() == ["angle", "split"]
    assert table.geom_type.tolist() == ["MultiPolygon", "MultiPolygon"]
    wanted = [shapely.box(left, bottom, left + 10, top), shapely.MultiPolygon(split.geoms[:2])]
    assert shapely.equals(table.geometry.to_numpy(), wanted).all()


def test_the_legend_says_class_and_area(package: Path) -> None:
    legends = {name: [c.get("label") for c in style.iter("category")] for name, style in styles(package).items()}
    assert legends["road"] == ["road, 0.0 ha"]
    assert {name for name, style in styles(package).items() if style.get("labelsEnabled") == "0"} == set(legends)


def test_layers_say_what_they_are(tmp_path: Path) -> None:
    about = {"road": LayerAbout("road", "words: road & highway <1>", "CC-BY-4.0"), "coverage": LayerAbout("coverage", "what was seen")}
    write(tmp_path / "layers.gpkg", delivery=Delivery(about=about))
    described = query(tmp_path / "layers.gpkg", "SELECT table_name, description FROM gpkg_contents")
    assert {("road", "words: road & highway <1>"), ("coverage", "what was seen")} <= set(described)
    joined = "gpkg_metadata_reference JOIN gpkg_metadata ON md_file_id = gpkg_metadata.id WHERE reference_scope = 'table'"
    texts = dict(query(tmp_path / "layers.gpkg", f"SELECT table_name, metadata FROM {joined}"))  # noqa: S608 - ours
    road, seen = (ET.fromstring(texts[name].split("\n", 1)[1]) for name in ("road", "coverage"))  # noqa: S314
    assert [road.findtext(key) for key in ("title", "abstract", "license")] == ["road", "words: road & highway <1>", "CC-BY-4.0"]
    assert seen.find("license") is None
    extensions = query(tmp_path / "layers.gpkg", "SELECT table_name, scope FROM gpkg_extensions WHERE extension_name = 'gpkg_metadata'")
    assert extensions == [("gpkg_metadata", "read-write"), ("gpkg_metadata_reference", "read-write")]


def test_the_file_is_a_whole_geopackage(package: Path) -> None:
    """What the specification asks for (1.3, with the extensions R-tree and metadata), table by table."""
    assert query(package, "PRAGMA application_id") == [(0x47504B47,)]
    assert query(package, "PRAGMA integrity_check") == [("ok",)]
    assert query(package, "PRAGMA foreign_key_check") == []
    tables = {name for (name,) in query(package, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"gpkg_contents", "gpkg_extensions", "gpkg_geometry_columns", "gpkg_ogr_contents", "gpkg_spatial_ref_sys"} <= tables
    assert {code for (code,) in query(package, "SELECT srs_id FROM gpkg_spatial_ref_sys")} >= {-1, 0, 4326, 32633}
    layers = dict(query(package, "SELECT table_name, srs_id FROM gpkg_contents WHERE data_type = 'features'"))
    assert layers == dict.fromkeys((*CLASSES.names, "coverage", "scenes"), 32633)
    columns = query(package, "SELECT table_name, column_name, srs_id, z, m FROM gpkg_geometry_columns")
    assert {row[0] for row in columns} == set(layers)
    assert {row[1:] for row in columns} == {("geometry", 32633, 0, 0)}
    counts = dict(query(package, "SELECT table_name, feature_count FROM gpkg_ogr_contents"))
    for name in layers:
        assert count(package, name) == count(package, f"rtree_{name}_geometry") == counts[name]
        heads = query(package, f'SELECT DISTINCT hex(substr(geometry, 1, 3)) FROM "{name}"')  # noqa: S608 - ours
        assert heads in ([], [("475000",)])  # GP, version 1


def test_another_reader_finds_the_same(package: Path) -> None:
    for name in (*CLASSES.names, "coverage", "scenes"):
        ours = pyogrio.read_dataframe(package, layer=name)
        with fiona.open(package, layer=name) as theirs:
            assert theirs.crs.to_epsg() == 32633
            assert list(theirs.schema["properties"]) == [column for column in ours.columns if column != "geometry"]
            rows = list(theirs)
        assert [row["properties"].get("area_m2") for row in rows] == ours["area_m2"].tolist()
        assert all(shapely.geometry.shape(row["geometry"]).equals(shape) for row, shape in zip(rows, ours.geometry, strict=True))
