import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from rs_pipeline.outline import lon_lat_outline, outline


@given(st.floats(-179, 179), st.floats(-80, 80), st.floats(-60, 60))
@settings(max_examples=40, deadline=None)
def test_every_pixel_lies_in_the_outline_wherever_the_image_is(lon, lat, angle):
    crs = CRS.from_proj4(f"+proj=tmerc +lon_0={lon} +lat_0={lat} +datum=WGS84 +units=m +type=crs")
    transform = Affine.translation(-400, 300) @ Affine.rotation(angle) @ Affine.scale(1.0, -1.0)
    place = lon_lat_outline(crs, transform, 600, 800)
    assert place.is_valid
    cols, rows = np.meshgrid(np.linspace(1, 799, 9), np.linspace(1, 599, 9))
    x, y = transform.a * cols + transform.b * rows + transform.c, transform.d * cols + transform.e * rows + transform.f
    lons, lats = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    assert shapely.contains_xy(place, lons, lats).all()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (32660, Affine(100, 0, 780_000, 0, -100, 1_000_000)),
        (4326, Affine(0.001, 0, 179.8, 0, -0.001, 9)),
        (4326, Affine(0.001, 0, -180.2, 0, -0.001, 9)),
    ],
)
def test_across_the_antimeridian_there_are_two_parts(crs, transform):
    place = lon_lat_outline(CRS(crs), transform, 400, 600)
    assert len(shapely.get_parts(place)) == 2
    assert place.area < 1.0
    assert place.bounds[0] == -180
    assert place.bounds[2] == 180


def test_longitudes_from_0_to_360_are_wrapped():
    place = lon_lat_outline(CRS(4326), Affine(0.01, 0, 250, 0, -0.01, 40), 100, 100)
    assert place.bounds == pytest.approx((-110, 39, -109, 40))


@pytest.mark.parametrize(("crs", "sign"), [(3413, 1), (3031, -1)])
def test_around_a_pole_there_is_a_cap(crs, sign):
    place = lon_lat_outline(CRS(crs), Affine(1000, 0, -300_000, 0, -1000, 300_000), 600, 600)
    assert shapely.contains_xy(place, 12.0, sign * 89.9)
    assert shapely.contains_xy(place, -170.0, sign * 88)


def test_another_datum_is_moved_to_wgs84():
    tokyo = lon_lat_outline(CRS(4301), Affine(1e-4, 0, 139.7, 0, -1e-4, 35.7), 100, 100)
    lon, lat = Transformer.from_crs(4301, 4326, always_xy=True).transform(139.705, 35.695)
    assert tokyo.centroid.x == pytest.approx(lon, abs=1e-5)
    assert tokyo.centroid.y == pytest.approx(lat, abs=1e-5)
    assert abs(tokyo.centroid.x - 139.705) > 1e-3


def test_in_its_own_crs_the_outline_is_the_pixels_edge():
    transform = Affine(0.5, 0.1, 500_000, 0.1, -0.5, 5_300_000)
    crs = CRS(32632)
    corners = [transform @ p for p in ((0, 0), (80, 0), (80, 60), (0, 60))]
    assert outline(crs, transform, 60, 80, crs).symmetric_difference(shapely.Polygon(corners)).area < 1e-6
