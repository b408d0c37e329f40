import json
import shutil
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from run_folder import everything, finished_tiles

from rs_pipeline import layers, spool, vector_formats
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.errors import ConfigError, OutputError, UsageError
from rs_pipeline.grid import Grid
from rs_pipeline.layer_tables import COVERAGE_SCHEMA, SceneFootprint
from rs_pipeline.layers import Delivery, write_layers
from rs_pipeline.moved_rows import rows_in_crs
from rs_pipeline.plan import plan_run
from rs_pipeline.reproject import Reprojection
from rs_pipeline.run import run
from rs_pipeline.spool import LayerRows
from rs_pipeline.vector_formats import FORMATS, check_formats
from rs_pipeline.vectorize import Features, polygonize, polygonize_coverage

ALL = ("flatgeobuf", "geoparquet", "geojson", "pmtiles")
CLASSES = ClassSet((Class(1, "road", ("road",), (1, 2, 3), 0.5), Class(2, "open water", ("lake",), (4, 5, 6), 0.5)))
EMPTY = Class(3, "empty", ("nothing",), (7, 8, 9), 0.5)
UTM = Grid(CRS.from_epsg(32632), Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), 120, 150)


def write(folder, grid=UTM, classes=CLASSES, seed=0, **delivery):
    """Layers of some random blobs; gives their folder."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (-(-grid.height // 4), -(-grid.width // 4))), np.ones((4, 4), int)).astype(np.uint8)
    labels = labels[: grid.height, : grid.width]
    blank = np.zeros_like(labels)
    planes = (labels, blank + 200, blank)
    folder.mkdir(exist_ok=True)
    write_layers(
        folder / "layers.gpkg",
        grid,
        classes,
        polygonize(grid, 2, lambda window: tuple(plane[window.slices()] for plane in planes), 50),
        polygonize_coverage(grid, lambda window: labels[window.slices()], lambda window: np.ones(window.shape, bool), 50),
        [SceneFootprint("a", "2024-05-01T10:00:00Z", 0.5, "a.tif", None, shapely.box(*grid.bounds), labels.size)],
        delivery=Delivery(**delivery),
    )
    return folder


def grid_on_the_antimeridian(gsd_m, px):
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(180.0, -17.0)
    corner = round(x) - px * gsd_m / 2, round(y) + px * gsd_m / 2
    return Grid(CRS.from_epsg(32660), Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1]), px, px)


def read(folder, name, suffix):
    path = folder / f"{name}.{suffix}"
    if suffix == "gpkg":
        return gpd.read_file(folder / "layers.gpkg", layer=name)
    return gpd.read_parquet(path) if suffix == "parquet" else gpd.read_file(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("formats") / "run", formats=ALL)


@pytest.mark.parametrize("suffix", ["fgb", "parquet", "geojson", "pmtiles"])
@pytest.mark.parametrize("name", CLASSES.names)
def test_each_format_holds_the_features_of_the_geopackage(folder, name, suffix):
    asked, found = (read(folder, name, kind).set_index("id").sort_index() for kind in ("gpkg", suffix))
    assert found.index.tolist() == asked.index.tolist()
    assert found.is_valid.all()
    for column in ("class", "area_m2", "score_mean", "edge_not_observed", "scene"):
        assert found[column].tolist() == asked[column].tolist()
    inside = found.to_crs(asked.crs).geometry.intersection(asked.geometry).area
    np.testing.assert_allclose(inside, asked.area, rtol=0.1 if suffix == "pmtiles" else 0.005)


def test_formats_are_in_the_crs_that_is_theirs(folder):
    crs = {suffix: read(folder, "road", suffix).crs.to_epsg() for suffix in ("gpkg", "fgb", "parquet", "geojson", "pmtiles")}
    assert crs == {"gpkg": 32632, "fgb": 32632, "parquet": 32632, "geojson": 4326, "pmtiles": 3857}


def test_geojson_is_as_rfc_7946_wants_it(folder):
    data = json.loads((folder / "road.geojson").read_text())
    assert data["type"] == "FeatureCollection"
    assert "crs" not in data
    for feature in data["features"]:
        outer = np.array(feature["geometry"]["coordinates"][0])
        assert shapely.LinearRing(outer).is_ccw
        assert (np.abs(outer) <= [180, 90]).all()
        assert feature["id"] == feature["properties"]["id"]
        assert feature["properties"]["datetime"] == "2024-05-01T10:00:00Z"


def test_geoparquet_says_of_itself_what_version_1_1_asks_for(folder):
    file = pq.ParquetFile(folder / "road.parquet")
    geo = json.loads(file.metadata.metadata[b"geo"])
    (column,) = geo["columns"].values()
    assert (geo["version"], geo["primary_column"], list(geo["columns"])) == ("1.1.0", "geometry", ["geometry"])
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    assert CRS.from_json_dict(column["crs"]) == UTM.crs
    assert column["covering"] == {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    assert file.schema_arrow.field("geometry").type == pa.binary()
    table = file.read()
    shapes = shapely.from_wkb(table.column("geometry"))
    np.testing.assert_array_equal(column["bbox"], shapely.total_bounds(shapes))
    boxes = table.column("bbox").combine_chunks().flatten()
    np.testing.assert_array_equal(np.column_stack(boxes), shapely.bounds(shapes))
    assert file.metadata.row_group(0).column(file.schema.names.index("xmin")).statistics.has_min_max
    few = gpd.read_parquet(folder / "road.parquet", bbox=(500_000, 5_299_990, 500_005, 5_300_000))
    assert 0 < len(few) < len(table)


def test_vector_tiles_go_down_to_the_pixels(folder):
    header = (folder / "road.pmtiles").read_bytes()[:127]
    assert header[:8] == b"PMTiles\x03"
    shallowest, deepest = header[100], header[101]
    assert 40_075_017 / 4096 / 2**deepest <= 0.25  # metres at the equator
    assert deepest - shallowest == 6


def test_a_class_that_was_not_found_has_files_too_but_vector_tiles(tmp_path):
    made = write(tmp_path / "run", classes=ClassSet((*CLASSES, EMPTY)), formats=("flatgeobuf", "geoparquet", "geojson", "pmtiles"))
    for suffix in ("fgb", "parquet", "geojson"):
        assert len(read(made, "empty", suffix)) == 0
    assert not (made / "empty.pmtiles").exists()  # there is no such thing as no tile


def test_batches_do_not_show(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_BATCH_BYTES", 1)
    made = write(tmp_path / "run", formats=ALL)
    for suffix in ("gpkg", "fgb", "parquet", "geojson"):
        assert read(made, "road", suffix).equals(read(folder, "road", suffix))


@pytest.mark.parametrize("code", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_layers_come_in_the_crs_that_was_asked_for(folder, tmp_path, code):
    made = write(tmp_path / "run", crs=CRS.from_user_input(code), formats=ALL)
    for name in (*CLASSES.names, "coverage", "scenes"):
        asked, found = read(folder, name, "gpkg"), read(made, name, "gpkg")
        assert found.crs == CRS.from_user_input(code)
        assert found.is_valid.all()
        assert set(found.geom_type) == {"MultiPolygon"}
        assert found["area_m2"].tolist() == asked["area_m2"].tolist()
        back = found.to_crs(asked.crs).geometry
        assert shapely.hausdorff_distance(back.to_numpy(), asked.geometry.to_numpy()).max() < 0.005
    assert read(made, "road", "fgb").crs == read(made, "road", "parquet").crs == CRS.from_user_input(code)
    assert read(made, "road", "geojson").crs == CRS.from_epsg(4326)


@pytest.mark.parametrize("code", ["EPSG:4326", "EPSG:3857"])
def test_what_the_antimeridian_cuts_is_in_two_parts(tmp_path, code):
    grid = grid_on_the_antimeridian(10, 100)
    made = write(tmp_path / "run", grid, crs=CRS.from_user_input(code), formats=("geojson",))
    half_turn = 180.0 if code == "EPSG:4326" else 20037508.35
    coverage, road = read(made, "coverage", "gpkg"), read(made, "road", "geojson")
    (shape,) = coverage.geometry
    assert shape.is_valid
    assert len(shape.geoms) == 2
    assert all(part.bounds[2] - part.bounds[0] < half_turn / 1000 for part in shape.geoms)
    assert all(part.bounds[2] - part.bounds[0] < 0.1 for shape in road.geometry for part in shapely.get_parts(shape))
    assert road.is_valid.all()


@pytest.mark.parametrize("code", ["EPSG:3035", "EPSG:4326", "EPSG:3832"])
@pytest.mark.parametrize("chosen", ["geojson", "pmtiles"])
def test_formats_with_a_crs_of_their_own_are_made_of_the_grid_whatever_the_layers_are_in(folder, tmp_path, chosen, code):
    made = write(tmp_path / "run", crs=CRS.from_user_input(code), formats=(chosen,))
    for name in CLASSES.names:
        if chosen == "geojson":
            assert (made / f"{name}.geojson").read_bytes() == (folder / f"{name}.geojson").read_bytes()
        else:
            assert read(made, name, chosen).equals(read(folder, name, chosen))


def test_vector_tiles_of_what_the_antimeridian_cuts_lie_on_its_two_sides_and_not_between(tmp_path, monkeypatch):
    real, widths = pyogrio.write_arrow, []

    def watched(rows, path, **options):
        table = pa.Table.from_batches(list(rows), rows.schema)
        if Path(path).suffix == ".pmtiles":
            bounds = shapely.bounds(shapely.from_wkb(table.column("geometry")))
            widths.extend(bounds[:, 2] - bounds[:, 0])
        real(table.to_reader(), path, **options)

    monkeypatch.setattr(vector_formats.pyogrio, "write_arrow", watched)
    grid = grid_on_the_antimeridian(0.5, 170)
    made = write(tmp_path / "run", grid, formats=("pmtiles",))
    assert max(widths) < 200  # GDAL makes the tiles between the two ends of a feature at every zoom
    for name in CLASSES.names:
        tiles, asked = read(made, name, "pmtiles"), read(made, name, "gpkg")
        assert set(tiles["id"]) == set(asked["id"])
        areas = tiles.dissolve("id").to_crs(grid.crs).area
        np.testing.assert_allclose(areas.loc[asked["id"]], asked.area, rtol=0.1)
        parts = tiles.explode().bounds
        assert (parts["minx"] < 0).any()
        assert (parts["maxx"] > 0).any()
        assert (parts["maxx"] - parts["minx"]).max() < 200


def slivers(grid):
    """A square between polygons as thin as numbers of their size can tell."""
    x, y = grid.bounds[0], grid.bounds[1] + 5
    wide = np.nextafter([x, y], np.inf)
    upright, lying, aslant = (
        shapely.Polygon([(x, y), (x, y + 10), (wide[0], y + 20)]),
        shapely.Polygon([(x, y), (x + 10, y), (x + 20, wide[1])]),
        shapely.Polygon([(x, y), (x + 10, y + 10), (x + 20, np.nextafter(y + 20, np.inf))]),
    )
    shapes = np.array([upright, lying, shapely.box(x, y, x + 10, y + 10), aslant])
    assert shapely.is_valid(shapes).all()
    ones = np.ones(len(shapes))
    return Features(
        np.arange(len(shapes)),
        ones.astype(np.uint8),
        pa.array(shapely.to_wkb(shapes), pa.binary()),
        ones.astype(int),
        ones,
        ones,
        np.zeros(len(shapes), np.uint8),
        ones,
    )


@pytest.mark.parametrize("code", [None, "EPSG:4326", "EPSG:3857", "EPSG:3035"])
@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "parquet", "geojson"])
def test_no_feature_is_lost_or_empty_however_thin_it_is(tmp_path, code, suffix):
    crs = CRS.from_user_input(code) if code else None
    formats = tuple(name for name, made in FORMATS.items() if made.suffix == suffix)
    write_layers(tmp_path / "layers.gpkg", UTM, CLASSES, [slivers(UTM)], [], [], delivery=Delivery(crs=crs, formats=formats))
    found = read(tmp_path, "road", suffix).sort_values("id", ignore_index=True)  # FlatGeobuf has an order of its own
    assert found["id"].tolist() == [0, 1, 2, 3]
    assert found.is_valid.all()
    assert (shapely.area(found.geometry.to_numpy()) > 0).all()
    assert set(found.geom_type) <= {"Polygon", "MultiPolygon"}
    back = found.to_crs(UTM.crs).area
    assert back[2] == pytest.approx(100, rel=0.01)
    assert back.drop(index=2).max() < 0.01


def test_vector_tiles_hold_what_is_larger_than_their_coordinates_steps(tmp_path):
    write_layers(tmp_path / "layers.gpkg", UTM, CLASSES, [slivers(UTM)], [], [], delivery=Delivery(formats=("pmtiles",)))
    assert set(read(tmp_path, "road", "pmtiles")["id"]) == {2}


@pytest.mark.parametrize("formats", [("flatgeobuf",), ("geoparquet",), ("geojson",), ("pmtiles",), ()])
def test_a_crs_that_fails_while_a_file_is_written_is_told_as_that(tmp_path, formats):
    grid = Grid(UTM.crs, UTM.transform @ Affine.translation(0, -2 * 4_690_000), 120, 150)  # beyond the pole's 85 degrees
    chosen = "EPSG:3857" if formats != ("geojson",) else "+proj=gnom +lat_0=-47 +lon_0=-171"
    with pytest.raises(OutputError, match=r"a CRS that can express the place; got .*, which cannot"):
        write(tmp_path / "run", grid, crs=CRS.from_user_input(chosen), formats=formats)
    assert not list((tmp_path / "run").iterdir())


def test_rows_are_moved_as_they_are_read_and_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_BATCH_BYTES", 1)
    layer = LayerRows(tmp_path / "rows", COVERAGE_SCHEMA, "Polygon")
    boxes = [shapely.box(500_000 + k, 5_299_990, 500_001 + k, 5_299_995) for k in range(5)]
    for box in boxes:
        layer.add(pa.table([[shapely.to_wkb(box)], ["observed"], [5.0]], schema=COVERAGE_SCHEMA))
    layer.close()
    real, moved = Reprojection.__call__, []
    monkeypatch.setattr(Reprojection, "__call__", lambda move, shapes: moved.append(len(shapes)) or real(move, shapes))
    there = rows_in_crs(layer, UTM, CRS.from_epsg(3035), "multi")
    with there.read() as rows:
        rows.read_next_batch()
        assert moved == [1]
    for _ in range(2):
        with there.read() as rows:
            shapes = gpd.GeoSeries.from_wkb(rows.read_all()["geometry"].to_pylist(), crs=3035)
        assert shapely.hausdorff_distance(shapes.to_crs(UTM.crs).to_numpy(), boxes).max() < 0.001
    assert rows_in_crs(layer, UTM, CRS.from_epsg(32632), "multi") is layer


def test_a_driver_that_is_missing_is_told_before_anything_is_computed(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setattr(vector_formats.pyogrio, "list_drivers", lambda **_: {"GPKG": "rw", "FlatGeobuf": "rw"})
    with pytest.raises(UsageError, match=r"pmtiles, which is not available: GDAL .* has no driver PMTiles"):
        run(settings_for(make_scene(), **{"vectors.formats": ("pmtiles",)}))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vectors.formats", ("shapefile",), "vectors.formats"),
        ("vectors.crs", "EPSG:99999", "a coordinate reference system"),
        ("vectors.crs", "EPSG:5703", "a projected or geographic CRS"),
        ("vectors.crs", "IAU_2015:30100", r"a CRS that places on Earth can have; got Moon \(2015\)"),
    ],
)
def test_what_nobody_can_write_is_refused_while_planning(make_scene, settings_for, key, value, message):
    with pytest.raises(ConfigError, match=message):
        plan_run(settings_for(make_scene(), **{key: value}))


def test_a_crs_that_cannot_express_the_place_is_refused_while_planning(make_scene, settings_for):
    with pytest.raises(OutputError, match="a CRS that can express the place"):
        plan_run(settings_for(make_scene(), **{"vectors.crs": "+proj=gnom +lat_0=-47 +lon_0=-171"}))


@pytest.mark.parametrize(("chosen", "message"), [("pmtiles", "can express the place"), ("geojson", "in one piece"), ("flatgeobuf", None)])
def test_a_format_that_cannot_express_a_pole_is_refused_while_planning(make_scene, settings_for, chosen, message):
    asked = settings_for(make_scene(crs="EPSG:3031", origin=(-40.0, 40.0)), **{"vectors.formats": (chosen,)})
    if message is None:
        plan_run(asked)
    else:
        with pytest.raises(OutputError, match=rf"{message}.* Leave {chosen} out of --format"):
            plan_run(asked)


ODD = ["road!extra", "a;b", "a\\b", "what?", "#1", "50% %41", "R&B", """it's "it\"""", "tab\there", "a:b", "[old]", "*", "x" * 238]


@pytest.mark.parametrize("name", ODD)
def test_a_class_has_its_file_of_each_format_whatever_is_in_its_name(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    odd = f"1{name}"[:238]
    made = write(tmp_path / "run", classes=ClassSet((Class(1, odd, ("road",), (1, 2, 3), 0.5), CLASSES.classes[1])), formats=ALL)
    suffixes = ["fgb", "parquet", "geojson", "pmtiles"]
    files = {"layers.gpkg", *(f"{layer}.{suffix}" for layer in (odd, "open water") for suffix in suffixes)}
    assert {path.name for path in made.iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for suffix in suffixes:
        shutil.copy(made / f"{odd}.{suffix}", tmp_path / f"plain.{suffix}")
        found, asked = read(tmp_path, "plain", suffix), read(folder, "road", suffix)
        assert set(found["class"]) == {odd}
        assert found.drop(columns="class").equals(asked.drop(columns="class"))
    for suffix in ("fgb", "pmtiles"):
        assert pyogrio.list_layers(tmp_path / f"plain.{suffix}")[:, 0].tolist() == [odd]


@pytest.mark.parametrize("name", [*ODD, "x[/y]"])
def test_a_folder_may_have_any_name(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    where = tmp_path / name
    where.mkdir(parents=True)
    made = write(where, formats=ALL, crs=CRS.from_epsg(3035))
    plain = write(tmp_path / "plain", formats=ALL, crs=CRS.from_epsg(3035))
    for suffix in ("fgb", "parquet", "geojson", "pmtiles"):
        assert (made / f"road.{suffix}").read_bytes() == (plain / f"road.{suffix}").read_bytes()
    copy = shutil.copytree(made, tmp_path / "copy")
    assert read(copy, "road", "gpkg").equals(read(plain, "road", "gpkg"))
    assert {path.name for path in tmp_path.iterdir()} == {Path(name).parts[0], "plain", "copy"}


def test_the_longest_name_that_a_file_can_have_is_one_that_every_format_can_write(tmp_path):
    classes = ClassSet((Class(1, "x" * (255 - len(".parquet")), ("road",), (1, 2, 3), 0.5), CLASSES.classes[1]))
    check_formats(ALL, classes)
    assert len(list(write(tmp_path / "run", classes=classes, formats=ALL).iterdir())) == 9


def test_a_file_that_is_not_there_once_it_is_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "write_vector_file", lambda *_: True)
    with pytest.raises(OutputError, match=r"No such file or directory: .*road\.fgb"):
        write(tmp_path / "run", formats=("flatgeobuf",))
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("name", ["road/rail", "x" * 250])
def test_class_names_that_no_file_can_have_are_refused(name):
    classes = ClassSet((Class(1, name, ("road",), (1, 2, 3), 0.5),))
    check_formats((), classes)
    with pytest.raises(UsageError, match="class names that can be files"):
        check_formats(("geoparquet",), classes)


def test_a_file_that_lost_features_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    real = pyogrio.write_arrow

    def forgetful(rows, path, **options):
        if Path(path).suffix == ".fgb":
            rows = pa.Table.from_batches(list(rows)).slice(1).to_reader()
        real(rows, path, **options)

    monkeypatch.setattr(vector_formats.pyogrio, "write_arrow", forgetful)
    with pytest.raises(OutputError, match=r"features in road\.fgb"):
        write(tmp_path / "run", formats=("flatgeobuf",))
    assert not list((tmp_path / "run").iterdir())


def test_another_format_or_crs_computes_no_tile_again(make_scene, settings_for, tmp_path):
    scene = make_scene()

    def done(name, **vectors):
        flags = {f"vectors.{key}": value for key, value in vectors.items()}
        return run(settings_for(scene, out=str(tmp_path / "outputs" / name), tile_px=64, overlap_px=8, **flags))

    first = done("first")
    tiles = len(finished_tiles(first["out"]))
    more = done("more", formats=("flatgeobuf", "geojson"), crs="EPSG:3035")
    assert (more["tiles"]["computed"], more["tiles"]["reused"], len(finished_tiles(more["out"]))) == (0, first["tiles"]["computed"], tiles)
    names = {path.name for path in Path(more["out"]).iterdir()}
    assert {f"{name}.{suffix}" for name in ("road", "water", "building") for suffix in ("fgb", "geojson")} <= set(more["files"]) <= names
    assert set(more["files"]) - set(first["files"]) == {name for name in more["files"] if name.endswith((".fgb", ".geojson"))}


def test_ids_stay_from_run_to_run_and_whatever_the_blocks(make_scene, settings_for, tmp_path):
    scene = make_scene()

    def layers(name, **flags):
        out = run(settings_for(scene, out=str(tmp_path / name / "run"), **flags))["out"]
        return out, everything(out)[1]

    first, again = layers("first"), layers("again")
    assert first[1] == again[1]
    for name in ("road", "water", "building"):
        rows = [
            gpd.read_file(Path(out) / "layers.gpkg", layer=name, fid_as_index=True)
            for out, _ in (first, again, layers(f"blocks-{name}", **{"vectors.block_px": 32}))
        ]
        assert rows[0].equals(rows[1])  # the GeoPackage's own keys too
        by_id = [frame.sort_values("id").reset_index(drop=True) for frame in rows]
        assert by_id[0].drop(columns="geometry").equals(by_id[2].drop(columns="geometry"))
        assert shapely.equals(by_id[0].geometry.to_numpy(), by_id[2].geometry.to_numpy()).all()


def test_every_setting_has_its_format():
    assert tuple(FORMATS) == ALL
    assert all(a != b for a, b in pairwise(sorted(made.suffix for made in FORMATS.values())))
