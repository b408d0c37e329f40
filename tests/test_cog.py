import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.env import get_gdal_config
from rio_cogeo import cog_validate

from rs_pipeline.cog import BlockRaster, Look, little_cache
from rs_pipeline.grid import Grid, Window

SIDE = 1200
GRID = Grid(CRS.from_epsg(32632), Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000), SIDE, SIDE)


def waves():
    rows, cols = np.indices((SIDE, SIDE)) / 40
    return (100 + 60 * np.sin(rows) + 60 * np.cos(cols + rows / 3) + np.random.default_rng(0).integers(0, 2, (SIDE, SIDE))).astype(np.uint8)


def windows(block_px):
    for row in range(0, SIDE, block_px):
        for col in range(0, SIDE, block_px):
            yield Window(row, col, min(block_px, SIDE - row), min(block_px, SIDE - col))


def written(path, values, *, smooth, block_px=500):
    raster = BlockRaster(path, GRID, len(values), Look(255, ("a", "b")[: len(values)], {}, smooth=smooth))
    for window in windows(block_px):
        raster.write(window, values[:, *window.slices()])
    return raster


@pytest.mark.parametrize("smooth", [True, False])
def test_what_was_written_is_read_before_and_after_it_is_finished(tmp_path, smooth):
    values = np.stack([waves(), waves().T])
    raster = written(tmp_path / "part.tif", values, smooth=smooth)
    for window in windows(700):
        np.testing.assert_array_equal(raster.read(window), values[:, *window.slices()])
    raster.finish(tmp_path / "whole.tif", "average")
    with rasterio.open(tmp_path / "whole.tif") as file:
        np.testing.assert_array_equal(file.read(), values)
        assert file.overviews(1) == [2, 4]
        assert file.descriptions == ("a", "b")
        for band, pixels in enumerate(values, 1):
            said = {key: float(value) for key, value in file.tags(band).items() if key.startswith("STATISTICS_")}
            seen = pixels[pixels != 255]
            assert (said["STATISTICS_MINIMUM"], said["STATISTICS_MAXIMUM"]) == (seen.min(), seen.max())
            assert said["STATISTICS_MEAN"] == pytest.approx(seen.mean())
    assert cog_validate(tmp_path / "whole.tif", strict=True) == (True, [], [])


def test_a_raster_of_nothing_is_finished_too(tmp_path):
    raster = BlockRaster(tmp_path / "part.tif", GRID, 1, Look(255, ("a",), {}))
    raster.finish(tmp_path / "whole.tif", "mode")
    with rasterio.open(tmp_path / "whole.tif") as file:
        assert (file.read(1) == 255).all()


def test_smooth_values_take_less_room(tmp_path):
    for name, smooth in (("plain", False), ("smooth", True)):
        written(tmp_path / f"{name}.part.tif", waves()[None], smooth=smooth).finish(tmp_path / f"{name}.tif", "average")
    for suffix in ("part.tif", "tif"):
        plain, smooth = ((tmp_path / f"{name}.{suffix}").stat().st_size for name in ("plain", "smooth"))
        assert smooth < 0.75 * plain


def test_gdal_keeps_little_until_the_raster_is_done_and_what_it_kept_before_from_then_on():
    before = get_gdal_config("GDAL_CACHEMAX")
    with little_cache():
        assert get_gdal_config("GDAL_CACHEMAX") == 64_000_000
    assert get_gdal_config("GDAL_CACHEMAX") == before
