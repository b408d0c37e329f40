import pytest
import shapely
from affine import Affine
from conftest import random_pixels
from pyproj import CRS, Transformer

from rs_pipeline.aoi import Aoi, read_aoi
from rs_pipeline.catalog import find_scenes
from rs_pipeline.errors import AoiError
from rs_pipeline.extent import build_grid, choose_crs, choose_gsd
from rs_pipeline.grid import Grid
from rs_pipeline.query import Query
from rs_pipeline.segmenter import ModelInfo

INFO = ModelInfo("m", "0", gsd_m=0.5, gsd_range_m=(0.1, 2.0), tile_px=64, vocabulary=None)


def scene_at(make_scene, name="scene.tif", **facts):
    (scene,) = find_scenes([str(make_scene(name, **facts))], Query())
    return scene


def test_a_metric_projection_is_kept(make_scene):
    scene = scene_at(make_scene)
    assert choose_crs(scene, scene.info.footprint) == (scene.info.crs, None)


@pytest.mark.parametrize(
    ("crs", "transform", "utm", "why"),
    [
        ("EPSG:4326", Affine(5e-6, 0, 10.0, 0, -5e-6, 47.0), 32632, "degrees"),
        ("EPSG:3857", Affine(0.7, 0, 1_113_000, 0, -0.7, 5_900_000), 32632, "times the true ones"),
        ("EPSG:2263", Affine(1.6, 0, 990_000, 0, -1.6, 200_000), 32618, "units of US survey foot"),
        ("EPSG:4326", Affine(5e-6, 0, 10.0, 0, -5e-6, -47.0), 32732, "degrees"),
    ],
)
def test_degrees_feet_and_stretched_metres_become_utm_and_say_so(make_scene, crs, transform, utm, why):
    scene = scene_at(make_scene, crs=crs, transform=transform)
    chosen, note = choose_crs(scene, scene.info.footprint)
    assert chosen == CRS(utm)
    assert why in note


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:3413", Affine(10, 0, -3000, 0, -10, 3000)), ("EPSG:4326", Affine(0.04, 0, 0, 0, -0.04, 60))],
)
def test_where_no_zone_is_true_an_equal_area_projection_of_the_place_is(make_scene, crs, transform):
    scene = scene_at(make_scene, pixels=random_pixels(600, 600), crs=crs, transform=transform)
    chosen, note = choose_crs(scene, scene.info.footprint)
    assert "equal-area" in note
    grid = build_grid(chosen, 1000.0 if crs == "EPSG:4326" else 10.0, None, [scene])
    assert Grid.from_dict(grid.to_dict()).shape == grid.shape


def test_a_south_up_scene_keeps_its_pixels(make_scene):
    scene = scene_at(make_scene, transform=Affine(0.5, 0, 500_000, 0, 0.5, 5_300_000))
    grid = build_grid(scene.info.crs, choose_gsd(None, INFO, [scene])[0], None, [scene])
    assert grid.shape == (scene.info.height, scene.info.width)
    assert grid.bounds == pytest.approx((500_000, 5_300_000, 500_085, 5_300_075))


def test_a_scene_across_the_antimeridian_has_a_small_grid(make_scene):
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(180, 10)
    scene = scene_at(make_scene, crs="EPSG:32660", transform=Affine(1, 0, x - 85, 0, -1, y))
    crs, _ = choose_crs(scene, scene.info.footprint)
    grid = build_grid(crs, 1.0, read_aoi("179.9999,9.9992,-179.9995,9.9998").near(scene.info.footprint), [scene])
    assert grid.width < 100
    assert grid.height < 100


def test_the_resolution_is_the_model_s_never_finer_than_the_scene_unless_asked(make_scene):
    fine, coarse = scene_at(make_scene, "fine.tif", gsd=0.2), scene_at(make_scene, "coarse.tif", gsd=1.0)
    assert choose_gsd(None, INFO, [fine]) == (0.5, [])
    gsd, notes = choose_gsd(None, INFO, [coarse])
    assert gsd == pytest.approx(1.0, rel=1e-2)
    assert notes == []
    gsd, notes = choose_gsd(0.5, INFO, [coarse])
    assert gsd == 0.5
    assert "upsampled to 0.5 m" in notes[0]
    gsd, notes = choose_gsd(None, INFO, [fine, coarse])
    assert gsd == 0.5
    assert notes[0].startswith("coarse")


def test_a_resolution_the_model_does_not_know_is_a_warning(make_scene):
    gsd, notes = choose_gsd(None, INFO, [scene_at(make_scene, gsd=10.0)])
    assert gsd == pytest.approx(10, rel=1e-2)
    assert "outside the 0.1…2 m" in notes[0]


def test_at_its_own_resolution_the_grid_is_the_scene_s_own_pixels(make_scene):
    scene = scene_at(make_scene, gsd=0.597164035, origin=(500_000.123, 5_300_000.456))
    grid = build_grid(scene.info.crs, choose_gsd(None, INFO, [scene])[0], None, [scene])
    assert grid.shape == (scene.info.height, scene.info.width)
    assert grid.transform.almost_equals(scene.info.transform, precision=1e-6)
    minx, maxy = scene.info.transform @ (40, 30)
    aoi = Aoi(shapely.box(minx + 0.01, maxy - 10, minx + 10, maxy - 0.01), scene.info.crs)
    part = build_grid(scene.info.crs, scene.info.gsd_m, aoi, [scene])
    col, row = ~scene.info.transform @ (part.transform.c, part.transform.f)
    assert (row, col) == pytest.approx((30, 40), abs=1e-3)


def test_the_grid_covers_the_aoi_where_scenes_are(make_scene):
    scene = scene_at(make_scene)
    minx, miny, maxx, maxy = 500_010.2, 5_299_950.3, 500_400.0, 5_299_990.7
    grid = build_grid(scene.info.crs, 0.5, Aoi(shapely.box(minx, miny, maxx, maxy), scene.info.crs), [scene])
    left, bottom, right, top = grid.bounds
    assert left <= minx < left + 0.5
    assert bottom <= miny < bottom + 0.5
    assert top - 0.5 < maxy <= top
    assert right == pytest.approx(500_000 + 170 * 0.5)


def test_an_aoi_of_less_than_a_pixel_is_one_pixel_or_two(make_scene):
    scene = scene_at(make_scene)
    aoi = Aoi(shapely.box(500_010.1, 5_299_950.1, 500_010.2, 5_299_950.2), scene.info.crs)
    assert build_grid(scene.info.crs, 0.5, aoi, [scene]).shape == (1, 1)


def test_an_aoi_beside_the_scene_is_refused(make_scene):
    scene = scene_at(make_scene)
    with pytest.raises(AoiError, match="meets a scene"):
        build_grid(scene.info.crs, 0.5, read_aoi("9.5,47.8,9.6,47.9"), [scene])


def test_two_scenes_share_one_grid(make_scene):
    a = scene_at(make_scene, "a.tif")
    b = scene_at(make_scene, "b.tif", crs="EPSG:32633", transform=Affine(0.5, 0, 59_500, 0, -0.5, 5_315_300))
    grid = build_grid(a.info.crs, 0.5, None, [a, b])
    for scene in (a, b):
        outline = Aoi(scene.info.footprint, CRS(4326)).in_crs(grid.crs)
        assert shapely.box(*grid.bounds).buffer(0.01).contains(outline)
