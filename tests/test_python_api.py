"""A run from Python: the command's words, arrays that are read when asked for, and the page that shows it."""

import re
import subprocess
import sys
from pathlib import Path

import cloudpickle
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr
from conftest import random_pixels
from run_folder import UNSEEN, labels_of, scores_of

import rs_pipeline
from rs_pipeline import lazy_arrays, product_series
from rs_pipeline.catalog_products import add_product
from rs_pipeline.config import load_settings
from rs_pipeline.errors import AoiError, CatalogError, ConfigError, OutputError, UsageError
from rs_pipeline.run import run as run_settings

ROOT = Path(__file__).parent.parent
FAKE = {"classes": "road,water", "model": "fake_segmenter:pointwise", "cluster": "in-process"}


@pytest.fixture
def opened(make_scene, tmp_path, monkeypatch):
    """A run over a scene with a hole, in blocks of 64 pixels."""
    monkeypatch.setattr(lazy_arrays, "CHUNK_PX", 64)
    pixels = random_pixels()
    pixels[:, 40:60, 50:90] = 0
    return rs_pipeline.segment(source=make_scene(pixels=pixels, nodata=0), out=tmp_path / "o" / "run", **FAKE)


def test_a_run_from_python_is_that_of_the_command(opened, make_scene, settings_for, tmp_path):
    same = run_settings(settings_for(tmp_path / "scene.tif", classes=("road", "water"), out=str(tmp_path / "other" / "run")))
    assert same["run_key"] == opened.manifest["run_key"]
    np.testing.assert_array_equal(opened.data.labels, labels_of(same["out"]))


def test_arrays_are_the_rasters_and_lie_where_they_lie(opened):
    data = opened.data
    assert isinstance(data, xr.Dataset)
    assert (data.labels.dtype, data.labels.dims, data.scores.dtype, data.scores.dims) == (
        "uint8",
        ("y", "x"),
        "float32",
        ("class", "y", "x"),
    )
    labels, stored = labels_of(opened.path), scores_of(opened.path)
    np.testing.assert_array_equal(data.labels, labels)
    assert (labels == UNSEEN).any()
    expected = np.where(stored == UNSEEN, np.float32(np.nan), stored.astype(np.float32) / np.float32(254))
    np.testing.assert_array_equal(data.scores, expected)
    assert list(data["class"].values) == ["road", "water"]
    grid = opened.folder.grid
    for name in ("labels", "scores"):
        box = data[name].odc.geobox
        assert (tuple(box.affine), tuple(box.shape)) == (tuple(grid.transform), grid.shape)
        assert pyproj.CRS(box.crs.to_wkt()) == grid.crs
    assert data.labels.odc.nodata == UNSEEN


def test_areas_are_those_of_the_manifest_and_of_the_layers(opened):
    data = opened.data
    areas = (data.labels == data.value).sum(("y", "x")) * data.pixel_m2
    assert dict(zip(areas["class"].values, areas.values, strict=True)) == {c["name"]: c["area_m2"] for c in opened.manifest["classes"]}
    assert list(opened.layers) == ["road", "water"]
    assert opened.layers["road"].area_m2.sum() == pytest.approx(float(areas.sel({"class": "road"})))
    assert opened.layers["road"] is opened.layers["road"]
    assert "castle" not in opened.layers
    assert set(opened.coverage["state"]) == {"observed", "not observed"}


def test_only_the_blocks_that_are_asked_for_are_read(opened, monkeypatch):
    read = []
    monkeypatch.setattr("rs_pipeline.api.read_window", lambda href, window: read.append(window) or np.zeros((2, *window.shape), np.uint8))
    data = opened.data
    assert read == []
    data.labels.isel(y=slice(70, 80), x=slice(3, 9)).load()
    assert [(w.row_off, w.col_off) for w in read] == [(64, 0)]


def test_arrays_can_be_sent_to_workers(opened, catalog):
    for labels in (opened.data.labels, rs_pipeline.open_products(catalog).labels):
        sent = cloudpickle.dumps(labels)
        assert len(sent) < 100_000
        np.testing.assert_array_equal(cloudpickle.loads(sent), labels)


def test_settings_are_keywords_nested_and_dotted_and_slips_are_named(make_scene, tmp_path):
    common = {"source": [make_scene()], "out": tmp_path / "o" / "run", **FAKE}
    small = rs_pipeline.segment(**common, vectors={"min_area_m2": 20}, **{"radiometry.high_percent": 99})
    assert small.manifest["settings"]["radiometry"] == {"low_percent": 2.0, "high_percent": 99.0, "sample_px": 1024}
    assert small.layers["road"].area_m2.min() >= 20
    with pytest.raises(ConfigError, match="Did you mean 'tile_px'"):
        rs_pipeline.segment(**common, tile_pix=64)
    with pytest.raises(UsageError, match="one run"):
        rs_pipeline.segment(**common, per_scene=True)
    with pytest.raises(OutputError, match="finished run"):
        rs_pipeline.open_run(tmp_path)


def test_delivery_is_asked_for_as_with_the_flags(make_scene, tmp_path):
    common = {"source": [make_scene()], **FAKE}
    made = rs_pipeline.segment(**common, out=tmp_path / "o" / "a", format="geojson, flatgeobuf", crs="EPSG:4326", roads_as_lines=True)
    assert {"lines.gpkg", "road.geojson", "water.fgb"} <= set(made.manifest["files"])
    assert made.layers["road"].crs == 4326
    # The order of formats, and settings that ask for nothing, are no other run.
    again = rs_pipeline.segment(**common, out=tmp_path / "o" / "a", format=["flatgeobuf", "geojson"], crs="EPSG:4326", roads_as_lines=True)
    assert again.manifest["finished"] == made.manifest["finished"]
    assert set(load_settings().vectors.decisive()) == {"block_px", "connectivity", "min_area_m2", "simplify_m"}


def test_an_area_may_be_four_numbers(make_scene, tmp_path):
    x, y = pyproj.Transformer.from_crs(32632, 4326, always_xy=True).transform([500_010, 500_040], [5_299_940, 5_299_980])
    cut = rs_pipeline.segment(source=make_scene(), aoi=(x[0], y[0], x[1], y[1]), out=tmp_path / "o" / "run", **FAKE)
    assert cut.folder.grid.height < 100


BOX = shapely.box(11, 47, 12, 48)
MISUSES = {
    "aoi": [BOX, (1, 2, 3), {"type": "Polygon"}, 7],
    "classes": [5, [1, 2], {"road"}],
    "source": [5, [5]],
    "out": [5],
    "config": [5, ["x"]],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, values in MISUSES.items() for given in values], ids=str)
def test_an_argument_of_a_kind_that_it_cannot_be_is_refused_in_words(name, given, make_scene):
    with pytest.raises(UsageError, match=rf"expected {name}: .* \({type(given).__name__}\)"):
        rs_pipeline.segment(**{"source": make_scene(), **FAKE, name: given})
    if name in ("aoi", "classes"):
        with pytest.raises(UsageError, match=f"expected {name}: "):
            rs_pipeline.open_products("catalog.json", **{name: given})


def test_paths_come_as_text_and_as_paths(make_scene, tmp_path):
    (tmp_path / "mine.yaml").write_text("vectors: {min_area_m2: 20}\nmodel: fake_segmenter:pointwise\n")
    common = {"classes": "road,water", "cluster": "in-process", "out": tmp_path / "o" / "run"}
    scene = make_scene()
    made = rs_pipeline.segment(source=scene, config=str(tmp_path / "mine.yaml"), store=tmp_path / "tiles", **common)
    assert made.manifest["settings"]["vectors"]["min_area_m2"] == 20
    assert (tmp_path / "tiles").is_dir()
    again = rs_pipeline.segment(source=[str(scene)], config=tmp_path / "mine.yaml", **{**common, "out": str(common["out"])})
    assert again.manifest["finished"] == made.manifest["finished"]
    assert add_product(str(tmp_path / "c.json"), str(made.path)) == add_product(tmp_path / "c.json", made.path) == "run"
    assert len(rs_pipeline.open_products(str(tmp_path / "c.json"))["product"]) == 1
    for wrong in (lambda: rs_pipeline.open_run(5), lambda: add_product(7, made.path), lambda: rs_pipeline.open_products(None)):
        with pytest.raises(UsageError, match="a path, as str or Path"):
            wrong()


def test_layers_are_read_whatever_characters_their_folder_has(make_scene, tmp_path):
    made = rs_pipeline.segment(source=make_scene(), out=tmp_path / "o" / "plain", **FAKE)
    moved = made.path.rename(tmp_path / "o" / "what! (new); 1")
    found = rs_pipeline.open_run(moved)
    assert len(found.layers["road"]) == next(c["polygons"] for c in made.manifest["classes"] if c["name"] == "road")
    assert len(found.coverage) > 0


@pytest.fixture
def catalog(make_scene, tmp_path):
    """Products of three dates; the second lies 20 pixels further east, on half pixels; the third was asked for roads alone."""
    for year, origin, classes in ((2022, 500_000.0, "water,road"), (2023, 500_010.25, "road,water"), (2024, 500_000.0, "road")):
        scene = make_scene(f"s_{year}0101.tif", random_pixels(seed=year), origin=(origin, 5_300_000.0))
        made = rs_pipeline.segment(source=scene, out=tmp_path / "o" / str(year), **{**FAKE, "classes": classes})
        add_product(tmp_path / "catalog.json", made.path)
    return tmp_path / "catalog.json"


def test_products_are_stacked_over_time_on_one_grid(catalog, tmp_path):
    series = rs_pipeline.open_products(catalog)
    assert list(series["class"].values) == ["road"]
    assert [str(t)[:4] for t in series.time.values] == ["2022", "2023", "2024"] == list(series["product"].values)
    assert series.labels.shape == (3, 150, 191)
    assert series.labels.odc.geobox.affine.c == 500_000
    for number, year in enumerate((2022, 2024)):
        labels = labels_of(tmp_path / "o" / str(year))
        value = {2022: 2, 2024: 1}[year]
        np.testing.assert_array_equal(series.labels[2 * number, :, :170], (labels == value))
        assert (series.labels[2 * number, :, 170:] == UNSEEN).all()
    areas = (series.labels == series.value).sum(("y", "x"))
    assert areas.dims == ("time", "class")


def test_products_that_were_not_asked_for_a_class_say_nothing_of_it(catalog):
    series = rs_pipeline.open_products(catalog, classes=["water"])
    assert list(series["product"].values) == ["2022", "2023"]
    for same in ("water", " Water", ["water", "Water"]):
        xr.testing.assert_identical(rs_pipeline.open_products(catalog, classes=same), series)
    assert list(rs_pipeline.open_products(catalog, classes="water,road")["class"].values) == ["water", "road"]
    assert list(rs_pipeline.open_products(catalog, datetime="2023-01-01/")["product"].values) == ["2023", "2024"]
    with pytest.raises(CatalogError, match="products of castle"):
        rs_pipeline.open_products(catalog, classes=["castle"])
    with pytest.raises(UsageError, match="names, or None"):
        rs_pipeline.open_products(catalog, classes=[])


def test_products_over_half_the_world_want_an_area(catalog, monkeypatch):
    monkeypatch.setattr(product_series, "_MAX_BLOCKS", 2)
    with pytest.raises(AoiError, match=r"at most 2 blocks .* 150 x 191 over 3 products, 3"):
        rs_pipeline.open_products(catalog)
    assert len(rs_pipeline.open_products(catalog, datetime="2023-01-01/")["product"]) == 2


def test_outside_the_area_nothing_is_observed(catalog, tmp_path):
    triangle = shapely.Polygon([(500_010, 5_299_950), (500_049.9, 5_299_950), (500_010, 5_299_989.9)])
    gpd.GeoDataFrame(geometry=[triangle], crs=32632).to_file(tmp_path / "aoi.gpkg")
    whole, cut = rs_pipeline.open_products(catalog), rs_pipeline.open_products(catalog, str(tmp_path / "aoi.gpkg"))
    assert cut.labels.shape == (3, 80, 80)
    inside = np.add.outer(cut.y.values, cut.x.values) < 500_010 + 5_299_989.9
    np.testing.assert_array_equal(cut.labels[0] == UNSEEN, ~inside)
    xr.testing.assert_identical(rs_pipeline.open_products(catalog, tmp_path / "aoi.gpkg"), cut)
    box = gpd.GeoSeries([triangle], crs=32632).to_crs(4326).total_bounds
    for numbers in (box, tuple(box), ",".join(map(str, box.tolist()))):
        around = rs_pipeline.open_products(catalog, numbers)
        assert set(cut.x.values) <= set(around.x.values) < set(whole.x.values)
        assert around.labels.shape == rs_pipeline.open_products(catalog, tuple(box)).labels.shape
    same = whole.labels.sel(y=cut.y, x=cut.x)
    np.testing.assert_array_equal(cut.labels.where(cut.labels != UNSEEN, 9), xr.where(inside[None], same, 9).where(cut.labels != UNSEEN, 9))


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"numpy", "xarray", "dask", "rasterio", "geopandas", "torch"}
    code = f"import sys, rs_pipeline; print({heavy} & set(sys.modules)); rs_pipeline.segment; print('xarray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rs_pipeline.nothing


def test_the_page_runs(make_scene, tmp_path, monkeypatch, capsys):
    for year in (2024, 2025):
        make_scene(f"scenes/s_{year}0501.tif", random_pixels(seed=year))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) > 4
    space = {}
    for block in blocks:
        exec(block, space)  # noqa: S102 - the project's own page
    assert "surely water" in capsys.readouterr().out
    assert len(space["series"].time) == 2


def test_a_moved_run_is_opened_where_it_is(make_scene, tmp_path):
    common = {"source": make_scene(), **FAKE}
    made = rs_pipeline.segment(out=tmp_path / "o" / "a", **common)
    made.path.rename(tmp_path / "o" / "b")
    assert rs_pipeline.segment(out=tmp_path / "o" / "b", **common).path == tmp_path / "o" / "b"
