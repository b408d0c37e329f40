"""Centre lines: of shapes whose answer is known, and whatever the blocks."""

from collections import defaultdict
from itertools import pairwise

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, spatial
from test_vectorize import grid_of, joined, reader

from rs_pipeline import medial_axis as medial_axis_module
from rs_pipeline.axis_graph import chains, prune
from rs_pipeline.centre_lines import centre_lines, draw
from rs_pipeline.classes import Class
from rs_pipeline.errors import UsageError
from rs_pipeline.line_layers import write_lines
from rs_pipeline.medial_axis import medial_axis
from rs_pipeline.plan import plan_run
from rs_pipeline.run import run
from rs_pipeline.vectorize import Features, Outlines, polygonize

ROAD = shapely.box(0, 0, 100, 4)
ROAD_CLASS = Class(1, "road", ("road",), (1, 2, 3), 0.5)


def test_a_straight_road_is_one_line_of_its_length_and_width():
    (line,) = centre_lines(ROAD, 0.5)
    assert line.length_m == pytest.approx(100, abs=0.2)
    assert line.width_m == pytest.approx(4, rel=0.03)
    assert shapely.hausdorff_distance(line.geometry, shapely.LineString([(0, 2), (100, 2)])) < 0.3


def test_a_crossing_is_four_lines_that_meet():
    lines = centre_lines(shapely.union(ROAD, shapely.box(48, -50, 52, 50)), 0.5)
    assert sorted(round(line.length_m) for line in lines) == [48, 50, 50, 52]
    assert len({end for line in lines for end in (line.geometry.coords[0], line.geometry.coords[-1])}) == 5


def test_a_ring_road_closes_and_a_square_has_no_centre_line():
    (ring,) = centre_lines(shapely.box(0, 0, 100, 100) - shapely.box(4, 4, 96, 96), 0.5)
    assert ring.geometry.is_ring
    assert ring.length_m == pytest.approx(4 * 96, rel=0.02)
    assert centre_lines(shapely.box(0, 0, 10, 10), 0.5) == []
    assert centre_lines(shapely.box(0, 0, 0.5, 0.5), 0.5) == []


def test_a_small_hole_is_filled_where_asked_and_gone_around_where_not():
    road = ROAD - shapely.box(50, 1.5, 51, 2.5)
    assert len(centre_lines(road, 0.5)) > 1
    assert len(centre_lines(road, 0.5, min_hole_m2=2.0)) == 1


def test_a_rough_outline_grows_no_spurs_and_a_side_road_stays():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 220), np.uint8)
    for col in range(10, 210):
        labels[20 + rng.integers(0, 2) : 30 - rng.integers(0, 2), col] = 1
    labels[26:55, 100:108] = 1
    (polygon,) = joined(polygonize(grid_of(labels), 1, reader(labels))).geometry
    lines = centre_lines(polygon, 0.5)
    assert len(lines) == 3
    assert sum(line.length_m for line in lines) == pytest.approx(100 + 15, abs=2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 17))
def test_lines_lie_inside_and_blocks_do_not_matter(seed, block_px):
    labels = (ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 40)), 1.2) > 0.1).astype(np.uint8)
    grid = grid_of(labels)
    found = []
    for size in (100, block_px):
        features = joined(polygonize(grid, 1, reader(labels), size, Outlines()))
        found.append([centre_lines(polygon, grid.gsd_m) for polygon in features.geometry])
    for polygon, lines, other in zip(features.geometry, *found, strict=True):
        assert [line.geometry.wkb for line in lines] == [line.geometry.wkb for line in other]
        for line in lines:
            assert line.geometry.is_valid
            assert shapely.buffer(polygon, 2 * grid.gsd_m).contains(line.geometry)


def test_a_run_leaves_lines_where_they_are_asked_for(make_scene, settings_for, tmp_path):
    common = {"out": str(tmp_path / "o" / "run"), "classes": ("road", "water")}
    with pytest.raises(UsageError, match="castle beside road, water"):
        run(settings_for(make_scene(), **common, **{"vectors.lines": ("castle",)}))
    summary = run(settings_for(make_scene(), **common, **{"vectors.lines": ("Road",), "vectors.crs": "EPSG:4326"}))
    path = tmp_path / "o" / "run" / "lines.gpkg"
    assert "lines.gpkg" in summary["files"]
    lines = gpd.read_file(path, layer="road_lines")
    assert lines.crs == 4326
    assert len(lines) > 0
    np.testing.assert_allclose(lines.to_crs(32632).length, lines["length_m"], rtol=1e-3)
    assert set(lines["object"]) <= set(gpd.read_file(path.parent / "layers.gpkg", layer="road")["id"])
    assert set(gpd.list_layers(path)["name"]) == {"road_lines", "layer_styles"}


def pixel_objects(seed, blur, threshold, transform):
    """Rectilinear polygons with holes, some of which touch themselves at corners."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(36, 44)), blur)
    labels = (noise > threshold * noise.std()).astype(np.uint8)
    return joined(polygonize(grid_of(labels, transform), 1, reader(labels))).geometry


def blocks_of_streets(streets, width=8.0, apart=50.0):
    """Stairs: streets that cross, turned against pixels of 1 m."""
    size = int((streets - 1) * apart + width)
    row, col = np.mgrid[: int(1.3 * size), : int(1.3 * size)] + 0.5
    x, y = (col - 0.29 * size) * 0.956 + row * 0.292, row * 0.956 - (col - 0.29 * size) * 0.292
    street = ((x % apart < width) | (y % apart < width)) & (np.minimum(x, y) >= 0) & (np.maximum(x, y) < size)
    labels = street.astype(np.uint8)
    return max(joined(polygonize(grid_of(labels, Affine(1, 0, 0, 0, -1, 0)), 1, reader(labels))).geometry, key=shapely.area)


def assert_same_lines(one, other, step_m):
    assert len(one) == len(other)
    for line, twin in zip(one, other, strict=True):
        assert shapely.equals_exact(line.geometry, twin.geometry, 1e-2 * step_m)
        assert line.length_m == pytest.approx(twin.length_m, rel=1e-3)
        assert line.width_m == pytest.approx(twin.width_m, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.4, 4.0),
    st.floats(-1.0, 0.5),
    st.sampled_from([(0.5, 0.0), (10.0, 0.0), (1.0, 17.0), (0.3, 45.0)]),
    st.sampled_from([30, 70, 150, 400]),
)
def test_tiles_change_no_line(seed, blur, threshold, pixels, tile_points):
    step_m, turn = pixels
    transform = Affine.translation(500_000, 5_400_000) @ Affine.rotation(turn) @ Affine.scale(step_m, -step_m)
    for polygon in pixel_objects(seed, blur, threshold, transform):
        assert_same_lines(centre_lines(polygon, step_m), centre_lines(polygon, step_m, tile_points=tile_points), step_m)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([30, 200, 20_000]))
def test_the_axis_is_the_centres_of_circles_that_touch_the_outline_from_inside(seed, tile_points):
    for polygon in pixel_objects(seed, 2.0, 0.3, Affine(1, 0, 0, 0, -1, 0)):
        axis = medial_axis(polygon, 1.0, tile_points)
        outline = shapely.multipoints(shapely.get_coordinates(shapely.segmentize(polygon.boundary, 1.0)))
        np.testing.assert_allclose(shapely.distance(shapely.points(axis.points), outline), axis.radius, atol=2e-3)
        assert shapely.distance(shapely.points(axis.points), polygon).max(initial=0) < 1e-3


@pytest.mark.parametrize("tile_points", [100, 1000])
def test_a_lake_with_rivers_is_drawn_as_in_one_piece_from_tiles_far_smaller_than_it(tile_points):
    lake = shapely.union_all([shapely.box(0, 0, 3000, 1000), shapely.box(-2000, 480, 10, 500), shapely.box(1500, 990, 1530, 2400)])
    lines = centre_lines(lake, 1.0)
    drawn = shapely.union_all([line.geometry for line in lines])
    for river in (shapely.LineString([(-1990, 490), (-10, 490)]), shapely.LineString([(1515, 1010), (1515, 2390)])):
        assert shapely.hausdorff_distance(shapely.intersection(drawn, river.buffer(8, cap_style="flat")), river) < 16
    assert_same_lines(lines, centre_lines(lake, 1.0, tile_points=tile_points), 1.0)


def test_what_a_tile_is_drawn_from_does_not_grow_with_the_network(monkeypatch):
    seen = []
    near = medial_axis_module._near

    def watched(*args):
        found = near(*args)
        seen.append(len(found[0]))
        return found

    monkeypatch.setattr(medial_axis_module, "_near", watched)
    for streets in (4, 12):
        polygon = blocks_of_streets(streets)
        drawing = draw(polygon, 1.0, tile_points=1000)
        assert drawing.whole
        assert sum(line.length_m for line in drawing.lines) == pytest.approx(2 * streets * (streets - 1) * 50, rel=0.05)
        assert max(seen) < 4000
    assert len(seen) > 20


def test_where_an_object_is_too_wide_there_is_no_line_and_elsewhere_there_is(monkeypatch):
    monkeypatch.setattr(medial_axis_module, "_MOST_POINTS", 3000)
    lake = shapely.union(shapely.box(0, 0, 2000, 2000), shapely.box(-1000, 990, 10, 1010))
    drawing = draw(lake, 1.0, tile_points=200)
    assert not drawing.whole
    river = shapely.LineString([(-900, 1000), (-100, 1000)])
    assert min(shapely.hausdorff_distance(shapely.intersection(line.geometry, river.buffer(2)), river) for line in drawing.lines) < 5


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])  # exact: nothing is decided by rounding
def test_lines_do_not_depend_on_the_unit(scale):
    for polygon in pixel_objects(3, 2.0, 0.2, Affine(1, 0, 0, 0, -1, 0)):
        scaled = shapely.transform(polygon, lambda points: points * scale)
        lines = [line._replace(geometry=shapely.transform(line.geometry, lambda p: p / scale)) for line in centre_lines(scaled, scale)]
        lines = [line._replace(length_m=line.length_m / scale, width_m=line.width_m / scale) for line in lines]
        assert_same_lines(centre_lines(polygon, 1.0), lines, 1.0)


def random_graph(seed):
    """A plane graph with branches and rings, its vertices' limits, and no two branches of one length."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 10, (40, 2))
    corners = spatial.Delaunay(points).simplices
    edges = np.unique(np.sort(corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    return points, edges[rng.random(len(edges)) < 0.4].astype(np.int64), rng.uniform(0, 6, len(points))


def pruned_one_by_one(points, edges, limit):
    """The shortest of all branches that are too short, again and again."""
    graph = defaultdict(set)
    for one, other in edges.tolist():
        graph[one].add(other)
        graph[other].add(one)
    while True:
        spurs = []
        for end in [vertex for vertex in graph if len(graph[vertex]) == 1]:
            way = [end, *graph[end]]
            while len(graph[way[-1]]) == 2:
                way += graph[way[-1]] - {way[-2]}
            length = sum(np.linalg.norm(points[a] - points[b]) for a, b in pairwise(way))
            if len(graph[way[-1]]) > 2 and length < limit[way[-1]]:
                spurs.append((length, way))
        if not spurs:
            return {tuple(sorted((one, other))) for one in graph for other in graph[one]}
        for one, other in pairwise(min(spurs)[1]):
            graph[one].remove(other)
            graph[other].remove(one)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000))
def test_branches_are_cut_as_one_by_one_from_the_shortest(seed):
    points, edges, limit = random_graph(seed)
    left = prune(points, edges, limit, np.zeros(len(points), np.bool_), 1e-9)
    assert {tuple(edge) for edge in np.sort(left, axis=1).tolist()} == pruned_one_by_one(points, edges, limit)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000), st.floats(0, 0.5))
def test_chains_hold_each_edge_once_and_turn_back_at_crossings_ends_and_fixed_vertices_alone(seed, share):
    points, edges, _ = random_graph(seed)
    fixed = np.random.default_rng(seed).random(len(points)) < share
    path, starts = chains(edges, fixed)
    degree = np.bincount(edges.ravel(), minlength=len(points))
    found = []
    for chain in np.split(path, starts[1:])[: len(starts)]:
        found += [tuple(sorted(pair)) for pair in pairwise(chain.tolist())]
        assert ((degree[chain[1:-1]] == 2) & ~fixed[chain[1:-1]]).all()
        ends_there = (degree[chain[[0, -1]]] != 2) | fixed[chain[[0, -1]]]
        assert ends_there.all() or chain[0] == chain[-1]
    assert sorted(found) == sorted(map(tuple, edges.tolist()))


def two_roads(second):
    """Features of one class, the second of which may be anything."""
    shapes = pa.array(shapely.to_wkb([ROAD, second, shapely.box(0, 50, 3, 53)]), pa.binary())
    columns = {name: np.zeros(3) for name in Features._fields} | {"value": np.ones(3, np.uint8), "id": np.array([4, 9, 12])}
    return Features(**columns | {"geometry": shapes})


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the NaN
@pytest.mark.parametrize(
    "second", [shapely.Polygon(), shapely.Polygon([(0, 0), (9, 0), (0, 0)]), shapely.Polygon([(0, 0), (np.nan, 1), (2, 2)])]
)
def test_an_object_that_cannot_be_drawn_is_counted_and_ends_no_run(second, tmp_path):
    grid = grid_of(np.zeros((4, 4), np.uint8))
    summary = write_lines(tmp_path / "lines.gpkg", grid, [ROAD_CLASS], [two_roads(second)])["road"]
    assert (summary.count, summary.failed, summary.compact, summary.partial) == (1, 1, 1, 0)
    assert gpd.read_file(tmp_path / "lines.gpkg", layer="road_lines")["object"].tolist() == [4]


def test_an_outline_without_a_diagram_is_counted_and_ends_no_run(tmp_path, monkeypatch):
    delaunay = spatial.Delaunay

    def fails_far_off(points):
        if len(points) > 1000:
            raise spatial.QhullError("QH6154")
        return delaunay(points)

    monkeypatch.setattr(spatial, "Delaunay", fails_far_off)
    grid = grid_of(np.zeros((4, 4), np.uint8))
    roads = two_roads(shapely.box(0, 100, 900, 104))
    summary = write_lines(tmp_path / "lines.gpkg", grid, [ROAD_CLASS], [roads])["road"]
    assert (summary.count, summary.failed, summary.compact) == (1, 1, 1)


def test_planning_counts_the_memory_of_lines(make_scene, settings_for):
    scene = make_scene()
    plain, with_lines = (plan_run(settings_for(scene, **{"vectors.lines": lines})).estimate for lines in ((), ("road",)))
    assert with_lines.memory_bytes - plain.memory_bytes == pytest.approx(300e6, rel=0.01)
    assert with_lines.disk_bytes == plain.disk_bytes
