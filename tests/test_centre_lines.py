"""Centre lines: of shapes whose answer is known, and whatever the blocks."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_vectorize import grid_of, joined, reader

from rs_pipeline.centre_lines import centre_lines
from rs_pipeline.errors import UsageError
from rs_pipeline.run import run
from rs_pipeline.vectorize import Outlines, polygonize

ROAD = shapely.box(0, 0, 100, 4)


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
    summary = run(settings_for(make_scene(), **common, **{"vectors.lines": ("road",), "vectors.crs": "EPSG:4326"}))
    path = tmp_path / "o" / "run" / "lines.gpkg"
    assert "lines.gpkg" in summary["files"]
    lines = gpd.read_file(path, layer="road_lines")
    assert lines.crs == 4326
    assert len(lines) > 0
    np.testing.assert_allclose(lines.to_crs(32632).length, lines["length_m"], rtol=1e-3)
    assert set(lines["object"]) <= set(gpd.read_file(path.parent / "layers.gpkg", layer="road")["id"])
    assert set(gpd.list_layers(path)["name"]) == {"road_lines", "layer_styles"}
