"""The products in QGIS itself: the system's, headless, from its own Python."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import qgis_walkthrough
import rasterio
from conftest import random_pixels
from PIL import Image

from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.run import run

PYTHON = "/usr/bin/python3"
PROBE = Path(__file__).parent / "qgis_probe.py"


@pytest.fixture(scope="module")
def qgis():
    found = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False) if Path(PYTHON).exists() else None
    if found is None or found.returncode:
        pytest.skip("QGIS is not installed: apt-get install --no-install-recommends python3-qgis qgis-providers")


@pytest.fixture
def opened(qgis, make_scene, settings_for, tmp_path):
    """What QGIS says of a run with a part that was not observed, the run's summary, and the pictures it draws."""
    pixels = random_pixels()
    pixels[:, :40, :40] = 0
    scene = make_scene(pixels=pixels, nodata=0)
    summary = run(settings_for(scene, **{"vectors.formats": ("flatgeobuf", "geojson"), "vectors.licence": "CC-BY-4.0"}))
    asked = [PYTHON, PROBE, summary["out"], tmp_path / "map"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout), summary, tmp_path


def picture(folder, name):
    with rasterio.open(folder / f"map.{name}.png") as file:
        return file.read()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_run_opens_styled_in_qgis(opened):
    said, summary, folder = opened
    for facts in summary["classes"]:
        layer = said["layers"][facts["name"]]
        assert layer["valid"]
        assert layer["index"]
        assert (layer["features"], layer["crs"], layer["labels"]) == (facts["polygons"], "EPSG:32632", False)
        assert layer["legend"] == [f"{facts['name']}, {facts['area_m2'] / 1e4:,.1f} ha"]
        assert (layer["fill"], layer["outline"]) == ([[*facts["colour"], 110]], [[*facts["colour"], 255]])
        assert layer["title"] == facts["name"]
        assert all(word in layer["abstract"] for word in facts["prompts"])
        assert layer["licences"] == ["CC-BY-4.0"]
    assert said["layers"]["coverage"]["legend"] == ["observed", "not observed"]
    assert said["layers"]["scenes"]["features"] == 1
    assert said["scores"]["bands"] == [f"Band {number}: {facts['name']}" for number, facts in enumerate(summary["classes"], 1)]
    by_name = {facts["name"]: facts["polygons"] for facts in summary["classes"]}
    for name, count in by_name.items():
        assert said["files"][f"{name}.fgb"] == [True, count, "EPSG:32632"]
        assert said["files"][f"{name}.geojson"] == [True, count, "EPSG:4326"]

    legend = dict(said["labels"]["legend"])
    assert said["labels"]["renderer"] == "paletted"
    assert list(legend) == [*by_name, "background", "not observed"]
    assert (legend["background"][3], legend["not observed"][3]) == (0, 0)

    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        labels = file.read(1)
    assert (labels == NOT_OBSERVED).any()
    assert (labels == 0).any()
    drawn = picture(folder, "labels")
    for facts in summary["classes"]:
        mine = labels == facts["value"]
        assert mine.any()
        np.testing.assert_array_equal((drawn[:3] == np.array(facts["colour"])[:, None, None]).all(axis=0) & (drawn[3] == 255), mine)
        polygons = picture(folder, facts["name"])
        # An outline is drawn on the border of two pixels, and may colour either of them.
        np.testing.assert_array_equal(polygons[3][inside(mine)] > 0, True)
        np.testing.assert_array_equal(polygons[3][inside(~mine)] > 0, False)
        colour = polygons[:3][:, inside(mine)].astype(int)
        assert np.abs(colour - np.array(facts["colour"])[:, None]).max() <= 2  # Qt multiplies colours by their alpha and back
    np.testing.assert_array_equal(drawn[3] == 0, np.isin(labels, (0, NOT_OBSERVED)))


def inside(mask):
    """Pixels of a mask whose eight neighbours are in it."""
    framed = np.pad(mask, 1, mode="edge")
    views = [framed[row : row + mask.shape[0], col : col + mask.shape[1]] for row in range(3) for col in range(3)]
    return np.logical_and.reduce(views)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_pictures_of_the_walk_through_are_what_qgis_draws(qgis, tmp_path):
    qgis_walkthrough.draw(tmp_path)
    page = (qgis_walkthrough.PICTURES.parent / "qgis.md").read_text()
    drawn = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert sorted(re.findall(r"\(qgis/([a-z]+\.jpg)\)", page)) == drawn == sorted(path.name for path in qgis_walkthrough.PICTURES.iterdir())
    for name in drawn:
        fresh, shown = (np.asarray(Image.open(folder / name), np.float32) for folder in (tmp_path, qgis_walkthrough.PICTURES))
        assert fresh.shape == shown.shape
        legend = round(fresh.shape[1] * 2 / 3)  # fonts are the machine's own
        difference = np.abs(fresh - shown)[:, :legend].mean()
        assert difference < 6, f"{name}: draw it again with `python tests/qgis_walkthrough.py`, and look at it"
