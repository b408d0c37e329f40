"""What reading images costs in memory."""

import pytest
import rasterio
from affine import Affine
from rasterio.env import get_gdal_config, set_gdal_config

from rs_pipeline.grid import Grid
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
