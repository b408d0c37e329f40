"""The small picture of a run."""

import io
import shutil

import numpy as np
import pytest
from conftest import random_pixels
from PIL import Image
from pyproj import Transformer
from run_folder import labels_of

from rs_pipeline.errors import OutputError
from rs_pipeline.plan import plan_run
from rs_pipeline.quicklook import quick_look, web_picture
from rs_pipeline.reporting import Silent
from rs_pipeline.run import execute


def look(plan, longest_px):
    with Image.open(io.BytesIO(quick_look(plan, longest_px))) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture).astype(float)


def test_classes_lie_in_their_colours_on_what_the_model_saw(make_scene, settings_for):
    pixels = random_pixels(300, 400)
    pixels[:, :, 200:] = np.array([90, 100, 110])[:, None, None]
    plan = plan_run(settings_for(make_scene(pixels=pixels), classes=("water",), sets=["scoring.threshold=0.4", "bands=[1,1,1]"]))
    execute(plan, Silent())
    picture, labels = look(plan, 400), labels_of(plan.out)
    right = picture[20:280, 240:380]
    stretch = plan.job.scenes[0].stretch
    grey = 255 * np.clip((90 - stretch.low[0]) / (stretch.high[0] - stretch.low[0]), 0, 1)
    is_water = labels[100, 300] == 1
    expected = (np.full(3, grey) + plan.job.classes.classes[0].colour) / 2 if is_water else np.full(3, grey)
    np.testing.assert_allclose(right.mean((0, 1)), expected, atol=4)


@pytest.mark.parametrize(("height", "width", "expected"), [(300, 400, (48, 64)), (30, 40, (30, 40)), (400, 20, (64, 3))])
def test_it_is_as_long_as_asked_and_never_enlarged(make_scene, settings_for, height, width, expected):
    plan = plan_run(settings_for(make_scene(pixels=random_pixels(height, width)), tile_px=64))
    execute(plan, Silent())
    assert look(plan, 64).shape[:2] == expected


def test_there_is_none_of_a_run_that_is_not_there(make_scene, settings_for):
    plan = plan_run(settings_for(make_scene()))
    execute(plan, Silent())
    shutil.rmtree(plan.out)
    with pytest.raises(OutputError, match="a finished run"):
        quick_look(plan)


@pytest.mark.parametrize(("crs", "origin"), [("EPSG:32632", (500_000.0, 5_300_000.0)), ("EPSG:32660", (833_900.0, 10_000.0))])
def test_on_a_web_map_the_scene_lies_where_it_is_also_across_the_antimeridian(make_scene, settings_for, crs, origin):
    pixels = np.full((3, 400, 400), 20, np.uint8)
    pixels[:, 100:140, 300:340] = 200
    scene = make_scene(pixels=pixels, crs=crs, origin=origin)
    picture = web_picture(plan_run(settings_for(scene, classes=("water",), sets=["radiometry.high_percent=100"])))
    west, south, east, north = picture.bounds
    assert 0 < east - west < 0.01
    image = np.asarray(Image.open(io.BytesIO(picture.jpeg)).convert("L"))
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(origin[0] + 320 / 2, origin[1] - 120 / 2)
    row, col = (north - lat) / (north - south) * image.shape[0], ((lon - west) % 360) / (east - west) * image.shape[1]
    bright = np.argwhere(image > 150)
    np.testing.assert_allclose(bright.mean(0), (row, col), atol=2)
    assert len(bright) == pytest.approx(1600, rel=0.2)


def test_there_is_no_web_map_of_a_pole(make_scene, settings_for):
    settings = settings_for(make_scene(crs="EPSG:3995", origin=(-40.0, 40.0)), classes=("water",))
    assert web_picture(plan_run(settings)) is None
