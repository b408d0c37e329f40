"""What the tests share: small scenes on disk, settings, and the folder of real imagery where it is there."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings
from web_server import serving

from rs_pipeline import fingerprints
from rs_pipeline.catalog_write import add_scenes
from rs_pipeline.config import load_settings

TESTS = Path(__file__).parent
SHARED_DATA = TESTS.parent.parent / "shared" / "data"
# The same examples at every run of CI; new ones at every run by hand.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
# Worker processes import the fake segmenters by name.
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real imagery; skips where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real imagery (../shared/data) is not here")
    return SHARED_DATA


@pytest.fixture
def make_scene(tmp_path):
    """Writes a GeoTIFF and gives its path."""

    def make(name="scene.tif", pixels=None, *, crs="EPSG:32632", origin=(500_000.0, 5_300_000.0), gsd=0.5, transform=None, **profile):
        pixels = random_pixels() if pixels is None else pixels
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        transform = transform or Affine(gsd, 0, origin[0], 0, -gsd, origin[1])
        count, height, width = pixels.shape
        shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
        with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **profile) as file:
            file.write(pixels)
        return path

    return make


def random_pixels(height=150, width=170, dtype=np.uint8, bands=3, seed=0):
    """Smooth random bands that use the whole range of small values, with objects of several pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 200, (bands, -(-height // 8), -(-width // 8)))
    return np.kron(coarse, np.ones((1, 8, 8), int))[:, :height, :width].astype(dtype)


@pytest.fixture
def settings_for(tmp_path):
    """Settings of a run with the fake segmenter, below the test's folder."""

    def make(source, *, sets=(), **flags):
        base = {
            "source": (str(source),),
            "classes": ("road", "water", "building"),
            "model": "fake_segmenter:pointwise",
            "out": str(tmp_path / "outputs" / "run"),
            "workers.cluster": "in-process",
        }
        return load_settings(None, base | flags, sets)

    return make


@pytest.fixture
def dated_archive(make_scene, tmp_path):
    """Settings of an archive of three dated scenes in a catalog; its products go there too."""
    for k, date in enumerate(("20240101", "20240201", "20240301")):
        make_scene(f"images/s_{date}.tif", random_pixels(seed=k), nodata=0)
    catalog = str(tmp_path / "cat" / "catalog.json")
    add_scenes(tmp_path / "cat" / "catalog.json", [str(tmp_path / "images")], None)
    run = {"source": [catalog], "classes": ["road", "water"], "model": "fake_segmenter:pointwise", "outputs": str(tmp_path / "runs")}
    return {"name": "test-archive", "run": run | {"workers": {"cluster": "in-process"}}, "products": catalog}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of the folder `web`, below the test's."""
    monkeypatch.setattr(fingerprints, "_asked", {})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        yield server
