import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from rs_pipeline.errors import ConfigError, OutputError
from rs_pipeline.grid import Grid
from rs_pipeline.mending import mend, polygon_parts
from rs_pipeline.reproject import Reprojection, check_place, read_crs
from rs_pipeline.vector_formats import check_formats_at
from rs_pipeline.vectorize import polygonize

ROWS, COLS = 4, 5


def grid_at(lon, lat, gsd_m, height, width):
    """A grid in the place's UTM zone, with the place in its middle."""
    zone = int((lon + 180) // 6) % 60 + 1
    crs = CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    return Grid(crs, Affine(gsd_m, 0, round(x) - width * gsd_m / 2, 0, -gsd_m, round(y) + height * gsd_m / 2), height, width)


def neighbour_zone(crs):
    code = crs.to_epsg()
    return CRS.from_epsg(code + 1 if code % 100 < 60 else code - 59)


def mosaic(grid, side_px, seed):
    """Polygons that fill a grid, of squares of some pixels a side, joined at random."""
    labels = np.random.default_rng(seed).integers(1, 4, (ROWS, COLS)).repeat(side_px, 0).repeat(side_px, 1).astype(np.uint8)
    planes = (labels, labels, labels)
    batches = polygonize(grid, 3, lambda window: tuple(plane[window.slices()] for plane in planes))
    return np.concatenate([shapely.from_wkb(batch.geometry) for batch in batches])


def true_areas(shapes, crs, step, lon, lat):
    """Square metres on the ellipsoid, of polygons whose edges are straight in a CRS."""
    equal_area = f"+proj=laea +lon_0={lon} +lat_0={lat} +datum=WGS84 +units=m"
    return gpd.GeoSeries(shapely.segmentize(shapes, step), crs=crs).to_crs(equal_area).area.to_numpy()


places = st.tuples(st.floats(-179.9, 179.9), st.floats(-75, 80))
at_the_antimeridian = st.tuples(st.sampled_from([-180.0, -179.9999, 179.9999, 180.0]), st.floats(-75, 80))
in_europe = st.tuples(st.floats(-10, 40), st.floats(35, 70))
anywhere = st.one_of(
    st.tuples(st.one_of(places, at_the_antimeridian), st.sampled_from(["EPSG:4326", "EPSG:3857", "neighbour zone"])),
    st.tuples(in_europe, st.just("EPSG:3035")),
)


@given(anywhere, st.sampled_from([0.5, 10.0, 100.0]), st.sampled_from([1, 30, 300]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
@example(((180.0, -17.0), "EPSG:4326"), 100.0, 300, 0)
@example(((180.0, 66.0), "EPSG:3857"), 10.0, 30, 1)
@example(((12.0, 78.0), "neighbour zone"), 100.0, 300, 2)
def test_polygons_keep_their_count_areas_and_neighbours_in_another_crs(where, gsd_m, side_px, seed):
    (lon, lat), code = where
    grid = grid_at(lon, lat, gsd_m, ROWS * side_px, COLS * side_px)
    target = neighbour_zone(grid.crs) if code == "neighbour zone" else CRS.from_user_input(code)
    shapes = mosaic(grid, side_px, seed)
    check_place(grid, target)
    moved = Reprojection(grid, target)(shapes)
    assert len(moved) == len(shapes)
    assert shapely.is_valid(moved).all()
    assert (shapely.area(moved) > 0).all()
    assert {shape.geom_type for shape in moved} <= {"Polygon", "MultiPolygon"}
    step = 2 * gsd_m / (111_320 if target.is_geographic else 1)
    found, asked = true_areas(moved, target, step, lon, lat), true_areas(shapes, grid.crs, 2 * gsd_m, lon, lat)
    np.testing.assert_allclose(found, asked, rtol=1e-3)
    # What filled the grid fills it still: neighbours neither overlap nor part, to a hundredth of a pixel along their borders.
    together = shapely.union_all(moved)
    slack = 0.02 * gsd_m * shapely.length(shapes).sum()
    assert true_areas([together], target, step, lon, lat)[0] == pytest.approx(asked.sum(), abs=slack, rel=1e-9)
    world = shapely.bounds(polygon_parts(together))
    assert (world[:, 2] - world[:, 0]).max() < (180 if target.is_geographic else 2e7)


@pytest.mark.parametrize(("lat", "gsd_m"), [(0.5, 100), (60.4, 10), (60.4, 100), (79, 1000), (-70, 0.3)])
@pytest.mark.parametrize("code", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_edges_bend_with_the_map_to_a_hundredth_of_a_pixel(lat, gsd_m, code):
    grid = grid_at(9.0, lat, gsd_m, 800, 900)
    target = CRS.from_user_input(code)
    (there,) = Reprojection(grid, target)(np.array([shapely.box(*grid.bounds)]))
    edge = shapely.segmentize(shapely.box(*grid.bounds).exterior, gsd_m)
    back = Transformer.from_crs(target, grid.crs, always_xy=True)
    steps = shapely.get_coordinates(shapely.segmentize(there.exterior, gsd_m / (111_320 if target.is_geographic else 1)))
    off = shapely.distance(shapely.points(*back.transform(*steps.T)), edge)
    assert off.max() < 0.012 * gsd_m


def test_shapes_that_moving_breaks_are_mended_whole():
    shapes = np.array([shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])])  # as of points that fell onto each other
    mend(shapes)
    assert shapes[0].is_valid
    assert shapes[0].geom_type == "MultiPolygon"
    assert shapes[0].area == 2


def slivers_at(x, y, length):
    """Valid ones, upright, lying and aslant, as thin as numbers of their size can tell."""
    wide = np.nextafter([x, y], np.inf)
    ends = [((0, 1), (0, 0), (wide[0] - x, 2)), ((1, 0), (0, 0), (2, wide[1] - y)), ((1, 1), (0, 0), (2, 2 + wide[1] - y))]
    shapes = np.array([shapely.Polygon(np.array(end) * np.where(np.abs(end) < 0.1, 1, length) + (x, y)) for end in ends])
    return shapes[shapely.is_valid(shapes)]


codes = st.sampled_from(["EPSG:4326", "EPSG:3857", "neighbour zone"])


@given(st.one_of(places, at_the_antimeridian), codes, st.sampled_from([3, 10, 777, 5000]))
@settings(max_examples=100, deadline=None)
def test_no_sliver_is_lost_or_empty(where, code, length):
    grid = grid_at(*where, 0.5, 80, 80)
    target = neighbour_zone(grid.crs) if code == "neighbour zone" else CRS.from_user_input(code)
    middle = np.array(shapely.box(*grid.bounds).centroid.coords[0])
    shapes = slivers_at(*middle, length)
    moved = Reprojection(grid, target)(shapes)
    assert shapely.is_valid(moved).all()
    assert (shapely.area(moved) > 0).all()
    back = Transformer.from_crs(target, grid.crs, always_xy=True)
    for asked, found in zip(shapes, moved, strict=True):
        points = shapely.points(*back.transform(*shapely.get_coordinates(found).T))
        assert shapely.distance(points, asked).max() < 0.006


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=9), st.floats(-1e7, 1e7))
def test_whatever_is_mended_is_a_valid_polygon_with_an_area(points, shift):
    shapes = np.array([shapely.Polygon(np.array(points) + shift)])
    hull = shapes[0].convex_hull
    mend(shapes)
    assert shapes[0].is_valid
    assert shapes[0].area > 0
    assert {part.geom_type for part in shapely.get_parts(shapes[0])} == {"Polygon"}
    assert shapely.distance(shapely.points(shapely.get_coordinates(shapes[0])), hull).max() < 1e-4


def test_valid_shapes_are_not_touched_by_mending():
    shapes = np.array([shapely.box(0, 0, 1, 1), shapely.box(1, 1, 2, 2)])
    kept = list(shapes)
    mend(shapes)
    assert all(a is b for a, b in zip(shapes, kept, strict=True))


@pytest.mark.parametrize(
    ("crs", "origin", "target", "lines", "torn"),
    [
        ("EPSG:32660", (590_000.0, 8_000_000.0), "EPSG:6933", False, True),
        ("EPSG:32660", (590_000.0, 8_000_000.0), "EPSG:3395", False, True),
        ("EPSG:32660", (590_000.0, 8_000_000.0), "EPSG:3832", False, False),
        ("EPSG:32660", (590_000.0, 8_000_000.0), "EPSG:4326", False, False),
        ("EPSG:32660", (590_000.0, 8_000_000.0), "EPSG:4326", True, True),
        ("EPSG:3031", (-20_000.0, 20_000.0), "EPSG:4326", False, True),
        ("EPSG:3031", (0.0, 0.0), "EPSG:4326", False, True),
        ("EPSG:3031", (-20_000.0, -300.0), "EPSG:4326", False, False),
        ("EPSG:32632", (500_000.0, 5_300_000.0), "EPSG:6933", True, False),
        ("EPSG:32632", (500_000.0, 5_300_000.0), "EPSG:3857", True, False),
    ],
)
def test_a_crs_that_tears_the_place_is_refused_before_anything_is_computed(crs, origin, target, lines, torn):
    grid = Grid(CRS.from_string(crs), Affine(100, 0, origin[0], 0, -100, origin[1]), 400, 400)
    if torn:
        with pytest.raises(OutputError, match="in one piece"):
            check_place(grid, CRS.from_string(target), lines=lines)
    else:
        check_place(grid, CRS.from_string(target), lines=lines)


@pytest.mark.parametrize("text", ["IAU_2015:30100", "IAU_2015:49910", "ESRI:104903", "+proj=longlat +R=1737400"])
def test_a_crs_of_another_celestial_body_is_none(text):
    with pytest.raises(ConfigError, match=r"expected a CRS that places on Earth can have; got .*\. Give one as EPSG:4326 with --crs"):
        read_crs(text)


@pytest.mark.parametrize(
    "text", ["EPSG:4326", "OGC:CRS84", "EPSG:3857", "EPSG:4807", "+proj=laea +lon_0=9 +lat_0=47", "+proj=longlat +R=6371000"]
)
def test_a_crs_of_the_earth_is_read_as_it_is(text):
    assert read_crs(text) == CRS.from_user_input(text)


def polar_grid(lon, lat):
    """A square kilometre in an equal-area projection of the place, as runs near the poles have it."""
    crs = CRS.from_user_input(f"+proj=laea +lon_0={lon} +lat_0={lat} +datum=WGS84 +units=m +type=crs")
    return Grid(crs, Affine(10, 0, -500, 0, -10, 500), 100, 100)


@pytest.mark.parametrize("lat", [90.0, -90.0, 86.0, -86.0, 85.06])
def test_web_mercator_is_refused_beyond_its_square(lat):
    grid = polar_grid(20.0, lat)
    for code in ("EPSG:3857", CRS.from_epsg(3857).to_wkt()):
        with pytest.raises(OutputError, match=r"expected a CRS that can express the place; got EPSG:3857, which cannot. Leave out --crs"):
            check_place(grid, CRS.from_user_input(code))
    with pytest.raises(OutputError, match="Leave pmtiles out of --format"):
        check_formats_at(("flatgeobuf", "geoparquet", "pmtiles"), grid)
    with pytest.raises(OutputError, match="can express the place"):
        Reprojection(grid, CRS.from_epsg(3857))(np.array([shapely.box(*grid.bounds)]))


@pytest.mark.parametrize("lat", [90.0, -90.0])
def test_geojson_of_a_pole_is_refused(lat):
    with pytest.raises(OutputError, match=r"in one piece; got WGS 84, with an edge in it. Leave geojson out of --format"):
        check_formats_at(("geojson",), polar_grid(20.0, lat))


@pytest.mark.parametrize(("lon", "lat"), [(20.0, 85.04), (20.0, -85.04), (180.0, 70.0), (-120.0, 0.0)])
def test_formats_are_not_refused_where_their_crs_holds(lon, lat):
    check_formats_at(("flatgeobuf", "geoparquet", "geojson", "pmtiles"), polar_grid(lon, lat))


def test_formats_in_the_grids_own_crs_are_never_refused():
    check_formats_at(("flatgeobuf", "geoparquet"), polar_grid(0.0, 90.0))


def test_longitudes_in_gradians_are_cut_where_they_end():
    grid = grid_at(-177.66277, -17.0, 10.0, 100, 100)  # half a turn from Paris
    (cut,) = Reprojection(grid, CRS.from_epsg(4807))(np.array([shapely.box(*grid.bounds)]))
    assert cut.is_valid
    assert sorted(round(x) for part in cut.geoms for x in part.bounds[::2]) == [-200, -200, 200, 200]
