import geopandas as gpd
import pytest
import shapely
from pyproj import CRS

from rs_pipeline.aoi import read_aoi
from rs_pipeline.errors import AoiError

SQUARE = shapely.box(10.0, 50.0, 10.01, 50.01)


def written(tmp_path, geometries, name="aoi.geojson", crs="EPSG:4326"):
    path = tmp_path / name
    gpd.GeoDataFrame(geometry=geometries, crs=crs).to_file(path)
    return str(path)


@pytest.mark.parametrize("name", ["wow!.geojson", "a;b.gpkg", "tab\tbed.geojson", "x!y/aoi.gpkg"])
def test_a_name_that_gdal_reads_something_into_is_a_name(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    gpd.GeoDataFrame(geometry=[SQUARE], crs=4326).to_file(tmp_path / f"plain{path.suffix}")
    (tmp_path / f"plain{path.suffix}").rename(path)
    assert read_aoi(str(path)).geometry.equals(SQUARE)


@pytest.mark.parametrize("name", ["aoi.geojson", "aoi.gpkg", "aoi.shp"])
def test_every_common_format_in_any_crs_is_the_same_place(tmp_path, name):
    frame = gpd.GeoSeries([SQUARE], crs=4326).to_crs(32632)
    crs = "EPSG:4326" if name.endswith("geojson") else "EPSG:32632"
    aoi = read_aoi(written(tmp_path, frame.to_crs(crs), name, crs))
    assert aoi.in_crs(CRS(32632)).symmetric_difference(frame.iloc[0]).area < 1e-3 * frame.iloc[0].area


def test_four_numbers_are_degrees_of_longitude_and_latitude():
    assert read_aoi("-10.5,-50,-10.25,-49").geometry.bounds == (-10.5, -50, -10.25, -49)


@pytest.mark.parametrize("spec", ["1,2,3", "10,50,9,51", "500000,5000000,500100,5000100", "nan,1,2,3"])
def test_numbers_that_are_no_box_are_refused(spec):
    with pytest.raises(AoiError, match="minx,miny,maxx,maxy"):
        read_aoi(spec)


def test_a_box_may_cross_the_antimeridian():
    aoi = read_aoi("179,-1,-179,1")
    assert aoi.geometry.area == pytest.approx(4)
    assert aoi.in_crs(CRS(32660)).area == pytest.approx(222_000 * 221_000, rel=0.02)


def test_every_layer_of_a_file_counts(tmp_path):
    far = shapely.box(10.1, 50.1, 10.11, 50.11)
    for name, shape in (("a", SQUARE), ("b", far)):
        gpd.GeoDataFrame(geometry=[shape], crs=4326).to_crs(32632 if name == "b" else 4326).to_file(tmp_path / "two.gpkg", layer=name)
    assert read_aoi(str(tmp_path / "two.gpkg")).geometry.contains(far.buffer(-1e-4))
    assert read_aoi(str(tmp_path / "two.gpkg")).geometry.contains(SQUARE.buffer(-1e-4))


def test_a_continent_is_cut_down_to_the_place_before_it_is_projected():
    world, place = read_aoi("-180,-90,180,90"), shapely.box(10.0, 50.0, 10.01, 50.01)
    near = world.near(place)
    assert near.in_crs(CRS(32632)).contains(gpd.GeoSeries([place], crs=4326).to_crs(32632).iloc[0])
    assert near.geometry.area < 2e-4
    with pytest.raises(AoiError, match="meets a scene"):
        read_aoi("0,0,1,1").near(place)


def test_several_polygons_and_holes_are_kept(tmp_path):
    hole = shapely.box(10.002, 50.002, 10.004, 50.004)
    far = shapely.box(10.1, 50.1, 10.11, 50.11)
    aoi = read_aoi(written(tmp_path, [SQUARE.difference(hole), far]))
    assert aoi.geometry.geom_type == "MultiPolygon"
    assert not aoi.geometry.contains(hole.centroid)
    assert aoi.geometry.contains(far.centroid)
    assert aoi.notes == ()


def test_a_self_crossing_polygon_is_mended_and_said_so(tmp_path):
    bow = shapely.Polygon([(10, 50), (10.01, 50.01), (10.01, 50), (10, 50.01)])
    aoi = read_aoi(written(tmp_path, [bow]))
    assert aoi.geometry.is_valid
    assert aoi.geometry.area == pytest.approx(0.01**2 / 2)
    assert "Self-intersection" in aoi.notes[0]


def test_straight_edges_bend_where_the_crs_bends_them():
    wide = read_aoi("0,59,6,61")
    moved = wide.in_crs(CRS(32632))
    corners_only = gpd.GeoSeries([wide.geometry], crs=4326).to_crs(32632).iloc[0]
    assert moved.symmetric_difference(corners_only).area > 1e6


def test_bad_areas_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "broken.geojson").write_text("{")
    gpd.GeoDataFrame(geometry=[SQUARE]).to_file(tmp_path / "nocrs.shp")
    ring = '{"type": "Polygon", "coordinates": [[[10, 50], [11, 50]]]}'
    (tmp_path / "ring.geojson").write_text(f'{{"type": "Feature", "properties": {{}}, "geometry": {ring}}}')
    cases = {
        str(tmp_path / "missing.geojson"): "does not exist",
        str(tmp_path / "empty.geojson"): "no geometry|table without geometry",
        str(tmp_path / "broken.geojson"): "GeoJSON, GeoPackage or Shapefile",
        str(tmp_path / "nocrs.shp"): "an AOI with a CRS",
        str(tmp_path / "ring.geojson"): "GeoJSON, GeoPackage or Shapefile|polygons",
        str(tmp_path): "is a folder",
        "": "is a folder",
        written(tmp_path, [shapely.Point(10, 50)], "point.geojson"): "polygons with an area",
        written(tmp_path, [shapely.LineString([(10, 50), (11, 51)])], "line.geojson"): "polygons with an area",
    }
    for spec, message in cases.items():
        with pytest.raises(AoiError, match=message) as caught:
            read_aoi(spec)
        assert "\n" not in str(caught.value)
