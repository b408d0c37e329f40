import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import random_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.warp import Resampling, reproject

from rs_pipeline.errors import RasterError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import burn_mask, choose_bands, describe, ground_sampling_distance, read_sample
from rs_pipeline.scene_reader import BlockCache, SceneReader

OWN = (1, 2, 3)


def own_grid(info):
    return Grid(info.crs, info.transform, info.height, info.width)


def read_all(path, grid=None, window=None, bands=OWN):
    info = describe(str(path))
    opaque = read_sample(info, bands, 512).opaque
    grid = grid or own_grid(info)
    with SceneReader(info, bands, grid, opaque, BlockCache()) as reader:
        return reader.read(window or grid.window)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_on_its_own_grid_an_image_is_read_as_rasterio_reads_it(make_scene, dtype):
    pixels = random_pixels(dtype=dtype)
    values, valid = read_all(make_scene(pixels=pixels))
    assert valid.all()
    assert np.array_equal(values, pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint16", 65535), ("int16", -9999), ("float32", -9999.0), ("float32", np.nan)]
)
def test_nodata_is_not_valid_in_any_dtype(make_scene, dtype, nodata):
    pixels = random_pixels(dtype=dtype)
    pixels[:, 20:50, 30:60] = nodata
    _, valid = read_all(make_scene(pixels=pixels, nodata=nodata))
    expected = np.ones(pixels.shape[1:], bool)
    expected[20:50, 30:60] = False
    assert np.array_equal(valid, expected)


def test_nan_without_a_declared_nodata_is_not_valid(make_scene):
    pixels = random_pixels(dtype="float32")
    pixels[0, 5, 6] = np.nan
    _, valid = read_all(make_scene(pixels=pixels))
    assert not valid[5, 6]
    assert valid.sum() == valid.size - 1


def test_a_zero_of_red_is_a_colour_but_a_mark_outside_the_values_is_not(make_scene):
    pixels = random_pixels()
    pixels[0, 5, 6] = 0
    _, valid = read_all(make_scene(pixels=pixels, nodata=0))
    assert valid.all()
    pixels = random_pixels(dtype="int16")
    pixels[0, :, :80] = -9999
    path = make_scene("signed.tif", pixels, nodata=-9999)
    _, valid = read_all(path)
    assert not valid[:, :80].any()
    assert valid[:, 80:].all()
    assert np.array_equal(read_sample(describe(str(path)), OWN, 512).valid, valid)


def test_only_the_bands_in_use_decide_what_is_valid(make_scene):
    pixels = random_pixels(dtype="int16", bands=4)
    pixels[:3, :, :80] = -9999
    _, valid = read_all(make_scene(pixels=pixels, nodata=-9999))
    assert not valid[:, :80].any()
    assert valid[:, 80:].all()


@pytest.mark.parametrize("alpha", ["mask", "near infrared"])
def test_nodata_counts_beside_a_band_called_alpha(make_scene, alpha):
    pixels = random_pixels(bands=4)
    pixels[3] = 255 if alpha == "mask" else pixels[3]
    pixels[:3, :, :80] = 0
    path = make_scene(pixels=pixels, photometric="RGB", alpha="YES", nodata=0)
    _, valid = read_all(path)
    assert not valid[:, :80].any()
    assert valid[:, 80:].mean() > 0.99
    assert np.array_equal(read_sample(describe(str(path)), OWN, 512).valid, valid)


@pytest.mark.parametrize("top", [255, 65535])
def test_alpha_is_the_mask_whatever_its_largest_value(make_scene, top):
    pixels = random_pixels(dtype="uint16", bands=4)
    pixels[3] = top
    pixels[3, :, :40] = 0
    path = make_scene(pixels=pixels, photometric="RGB", alpha="YES")
    _, valid = read_all(path)
    assert not valid[:, :40].any()
    assert valid[:, 40:].all()


def test_near_infrared_called_alpha_is_not_a_mask(make_scene):
    pixels = random_pixels(bands=4)
    pixels[3, 40:, :] = 0
    path = make_scene(pixels=pixels, photometric="RGB", alpha="YES")
    info = describe(str(path))
    assert info.colours[3] == "alpha"
    assert read_sample(info, OWN, 512).opaque is None
    values, valid = read_all(path)
    assert valid.all()
    assert np.array_equal(values, pixels[:3])


def test_an_internal_mask_is_the_mask(make_scene):
    path = make_scene(pixels=random_pixels())
    mask = np.full((150, 170), 255, np.uint8)
    mask[100:] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    _, valid = read_all(path)
    assert np.array_equal(valid, mask > 0)


def test_jpeg_in_ycbcr_comes_out_red_green_blue(make_scene):
    pixels = np.zeros((3, 160, 160), np.uint8)
    pixels[0] = 200
    values, valid = read_all(make_scene(pixels=pixels, compress="JPEG", photometric="YCBCR", tiled=True, blockxsize=80, blockysize=80))
    assert valid.all()
    assert values.mean(axis=(1, 2)) == pytest.approx([200, 0, 0], abs=3)


def test_bands_are_found_by_colour_chosen_or_refused(make_scene):
    path = make_scene(pixels=random_pixels(bands=4))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    info = describe(str(path))
    assert choose_bands(info, None) == (3, 2, 1)
    assert choose_bands(info, (4, 3, 2)) == (4, 3, 2)
    with pytest.raises(RasterError, match=r"bands 1…4"):
        choose_bands(info, (5, 1, 1))
    grey = describe(str(make_scene("grey.tif", random_pixels(bands=1))))
    with pytest.raises(RasterError, match=r"1 band in .*bands=\[1,1,1\]"):
        choose_bands(grey, None)


def test_a_warped_image_agrees_with_rasterio_s_own_warp(make_scene):
    rows, cols = np.mgrid[:200, :220]
    pixels = np.stack([120 + 100 * np.sin(rows / (9 + k)) * np.cos(cols / 11) for k in range(3)]).astype(np.float32)
    path = make_scene(pixels=pixels)
    x, y = Transformer.from_crs(32632, 32633, always_xy=True).transform(500_020, 5_299_990)
    target = Grid(CRS(32633), Affine(0.7, 0, x, 0, -0.7, y), 180, 190)
    values, valid = read_all(path, target)
    assert 0.2 < valid.mean() < 1
    expected = np.zeros((3, *target.shape), np.float32)
    info = describe(str(path))
    reproject(
        pixels.astype(np.float32), expected, src_transform=info.transform, src_crs=info.crs.to_wkt(), dst_transform=target.transform,
        dst_crs=target.crs.to_wkt(), resampling=Resampling.bilinear, tolerance=0,
    )  # fmt: skip
    # GDAL's approximate transformer moves a pixel by up to an eighth of one; the picture's steepest slope is 11 a pixel.
    difference = np.abs(values - expected)[:, valid & (expected != 0).all(axis=0)]
    assert difference.max() < 2 * 11 / 8


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_pixel_does_not_depend_on_the_window_it_is_read_in(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "windowed.tif"
    if not path.exists():
        profile = {"driver": "GTiff", "count": 3, "height": 700, "width": 900, "dtype": "uint8", "crs": "EPSG:4326", "nodata": 0}
        with rasterio.open(path, "w", transform=Affine(7e-6, 1e-6, 10.0, 1e-6, -5e-6, 47.9), **profile) as file:
            file.write(random_pixels(700, 900))
    grid = Grid(CRS(32632), Affine(0.5, 0, 574_740, 0, -0.5, 5_305_820), 1200, 1300)
    row, col = data.draw(st.integers(0, 1199)), data.draw(st.integers(0, 1299))
    window = Window(row, col, data.draw(st.integers(1, 1200 - row)), data.draw(st.integers(1, 1300 - col)))
    values, valid = read_all(path, grid)
    part, part_valid = read_all(path, grid, window)
    assert valid.any()
    assert np.array_equal(part_valid, valid[window.slices()])
    assert np.array_equal(part[:, part_valid], values[:, *window.slices()][:, part_valid])


def test_many_pixels_become_their_mean_not_one_of_them(make_scene):
    pixels = np.zeros((3, 200, 200), np.uint8)
    pixels[:, ::2, ::2] = 200
    info_path = make_scene(pixels=pixels, gsd=0.1)
    values, valid = read_all(info_path, Grid(CRS(32632), Affine(1.0, 0, 500_000, 0, -1.0, 5_300_000), 20, 20))
    assert valid.all()
    assert values == pytest.approx(50, abs=1)


def test_overviews_are_used_where_they_are_fine_enough(make_scene):
    path = make_scene(pixels=random_pixels(1024, 1024), gsd=0.1, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
        # Full resolution is spoilt after the overviews were made: whoever reads it would see it.
        file.write(np.full((3, 1024, 1024), 7, np.uint8))
    values, _ = read_all(path, Grid(CRS(32632), Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), 200, 200))
    assert values.std() > 5


def test_ground_sampling_distance_is_metres_in_any_crs():
    square = 100, 100
    utm = ground_sampling_distance(CRS(32632), Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), *square)
    assert utm == pytest.approx(0.5, rel=1e-3)
    degrees = ground_sampling_distance(CRS(4326), Affine(1e-5, 0, 9, 0, -1e-5, 0), *square)
    assert degrees == pytest.approx(1.11, rel=1e-2)
    mercator = ground_sampling_distance(CRS(3857), Affine(1, 0, 0, 0, -1, 8_399_738), *square)
    assert mercator == pytest.approx(0.5, rel=1e-2)
    feet = ground_sampling_distance(CRS(2263), Affine(1, 0, 990_000, 0, -1, 200_000), *square)
    assert feet == pytest.approx(0.3048, rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.5])
def test_pixels_coincide_or_not_however_far_the_grid_s_corner_is(make_scene, shift):
    pixels = random_pixels()
    path = make_scene(pixels=pixels)
    grid = Grid(CRS(32632), Affine(0.5, 0, 500_000 - (60_000 + shift) * 0.5, 0, -0.5, 5_300_000), 150, 60_200)
    values, _ = read_all(path, grid, Window(10, 60_010, 100, 100))
    same = np.array_equal(values, pixels[:, 10:110, 10:110].astype(np.float32))
    assert same == (shift == 0)


def test_a_sidecar_that_changes_changes_the_fingerprint_and_the_key(make_scene):
    path = make_scene()
    before = describe(str(path))
    sidecar = path.with_name(path.name + ".aux.xml")
    sidecar.write_text("<PAMDataset><GeoTransform>500010, 0.5, 0, 5300000, 0, -0.5</GeoTransform></PAMDataset>")
    after = describe(str(path))
    assert after.fingerprint != before.fingerprint
    assert after.key() != before.key()


def test_a_rotated_image_has_a_rotated_footprint(make_scene):
    turned = Affine.translation(500_000, 5_300_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    info = describe(str(make_scene(transform=turned)))
    assert info.gsd_m == pytest.approx(0.5, rel=1e-3)
    box = info.footprint.envelope
    assert info.footprint.area < 0.75 * box.area


def test_longitudes_beyond_the_antimeridian_are_refused_not_half_read(make_scene):
    path = make_scene(crs="EPSG:4326", transform=Affine(0.1, 0, 175, 0, -0.1, 10))
    with pytest.raises(RasterError, match=r"longitudes in -180…180; got 175…192"):
        describe(str(path))


def test_files_that_are_no_use_are_refused_in_one_line(make_scene, tmp_path):
    whole = make_scene("whole.tif", tiled=True, blockxsize=64, blockysize=64)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    garbage = tmp_path / "garbage.tif"
    garbage.write_bytes(b"not a tiff at all")
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", width=9, height=9, count=3, dtype="uint8") as file:
            file.write(np.zeros((3, 9, 9), np.uint8))
        (tmp_path / "nowhere.tif").write_bytes(memory.read())
    cases = {
        tmp_path / "missing.tif": "an image that GDAL can read",
        garbage: "an image that GDAL can read",
        cut: "a whole file of at least",
        tmp_path / "nowhere.tif": "without a CRS",
        make_scene("complex.tif", np.zeros((3, 9, 9), np.complex64)): "bands of real numbers",
    }
    for path, message in cases.items():
        with pytest.raises(RasterError, match=message) as caught:
            describe(str(path))
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_sample_is_small_and_knows_what_is_valid(make_scene):
    pixels = random_pixels(600, 300)
    pixels[:, :300] = 0
    info = describe(str(make_scene(pixels=pixels, nodata=0)))
    sample = read_sample(info, OWN, 100)
    assert sample.image.shape == (3, 100, 50)
    assert sample.valid.mean() == pytest.approx(0.5, abs=0.02)


def test_a_burnt_mask_holds_the_pixels_whose_centres_lie_inside():
    from shapely import Point

    grid = Grid(CRS(32632), Affine(1, 0, 0, 0, -1, 20), 20, 30)
    circle = Point(10, 10).buffer(6.3)
    inside = burn_mask(circle, grid)
    expected = [[circle.contains(Point(c + 0.5, 20 - r - 0.5)) for c in range(30)] for r in range(20)]
    assert np.array_equal(inside, np.array(expected))
