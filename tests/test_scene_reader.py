"""What reading images costs in memory, and the short way of reading them."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.vrt import WarpedVRT

from rs_pipeline.grid import Grid, Window
from rs_pipeline.raster import describe
from rs_pipeline.scene_reader import BlockCache, SceneReader

HEIGHT, WIDTH, BANDS = 1024, 40_000, 4


@pytest.fixture
def cache_bytes():
    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", 64_000_000)
    yield lambda: get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", before)


@pytest.mark.parametrize(("tiled", "expected"), [(False, (512 + 1) * WIDTH * BANDS * 2), (True, 64_000_000)])
def test_a_row_of_blocks_of_an_image_in_strips_fits_gdal_s_cache(tmp_path, cache_bytes, tiled, expected):
    path, transform = tmp_path / "wide.tif", Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    shape = {"count": BANDS, "height": HEIGHT, "width": WIDTH, "dtype": "uint16", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", tiled=tiled, interleave="pixel", sparse_ok=True, **shape):
        pass
    info = describe(str(path))
    with SceneReader(info, (1, 2, 3), Grid(info.crs, transform, HEIGHT, WIDTH), None, BlockCache()):
        assert cache_bytes() == expected


@settings(max_examples=60, deadline=None)
@given(
    down=st.integers(-70, 40),
    right=st.integers(-60, 50),
    dtype=st.sampled_from(["uint8", "int16", "float32"]),
    nodata=st.sampled_from([None, 0, 3]),
    told=st.sampled_from([None, 2]),
    data=st.data(),
)
def test_where_pixels_coincide_an_image_is_read_as_gdal_would_warp_it(tmp_path_factory, down, right, dtype, nodata, told, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    path, own = tmp_path_factory.mktemp("scene") / "scene.tif", Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    pixels = rng.integers(0, 5, (3, 48, 40)).astype(dtype)
    if dtype == "float32":
        pixels[rng.random(pixels.shape) < 0.1] = np.nan
    shape = {"count": 3, "height": 48, "width": 40, "dtype": dtype, "crs": "EPSG:32632", "transform": own, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.write(pixels)
    info = describe(str(path))
    if told is not None:
        info = replace(info, nodata=float(told))
    grid = Grid(info.crs, own @ Affine.translation(right, down), 64, 64)
    with SceneReader(info, (3, 1, 2), grid, None, BlockCache()) as reader:
        values, valid = reader.read(Window(5, 0, 50, 64))
    src_nodata = info.nodata if info.nodata is not None else (float("nan") if dtype == "float32" else None)
    options = {"add_alpha": True} if src_nodata is None else {"src_nodata": src_nodata, "nodata": src_nodata}
    with (
        rasterio.open(path) as file,
        WarpedVRT(file, crs=file.crs, transform=grid.transform, height=64, width=64, resampling=Resampling.nearest, **options) as warped,
    ):
        expected = warped.read((3, 1, 2))[:, 5:55]
        masks = (warped.read([4]) if src_nodata is None else warped.read_masks((3, 1, 2)))[:, 5:55] > 0
    seen = masks.any(axis=0) if dtype == "uint8" else masks.all(axis=0) & np.isfinite(expected).all(axis=0)
    np.testing.assert_array_equal(valid, seen)
    np.testing.assert_array_equal(values[:, valid], expected[:, valid])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_nothing_is_seen_beside_an_image_nor_where_its_mask_says_so(tmp_path, dtype, masked, shift):
    path, own = tmp_path / "scene.tif", Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    shape = {"count": 3, "height": 48, "width": 40, "dtype": dtype, "crs": "EPSG:32632", "transform": own}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.write(np.ones((3, 48, 40), dtype))
        if masked:
            file.write_mask(np.arange(40) >= np.full((48, 1), 10))
    info = describe(str(path))
    with SceneReader(info, (1, 2, 3), Grid(info.crs, own @ Affine.translation(shift, 0), 64, 64), None, BlockCache()) as reader:
        _, valid = reader.read(Window(0, 0, 64, 64))
    expected = np.zeros((64, 64), np.bool_)
    expected[:48, 10 if masked else 0 : 40] = True
    np.testing.assert_array_equal(valid, expected)
