"""docs/outputs.md says what a run leaves: all of it, and nothing else."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
from affine import Affine
from conftest import random_pixels

from rs_pipeline.config import load_settings
from rs_pipeline.run import run

PAGE = Path(__file__).parent.parent / "docs" / "outputs.md"
CLASSES = ("road", "water", "building")


def documented(heading):
    """Names in the first column of the table below a heading."""
    lines = iter(PAGE.read_text().splitlines())
    assert heading in lines
    below = list(takewhile(lambda line: not line.startswith("#"), lines))
    return [name for line in below if line.startswith("| `") for name in re.findall("`([^`]+)`", line.split("|")[1])]


def keys_of(manifest):
    """Keys one and two levels deep; settings, and what is named by classes or files, have tables of their own."""
    for key, value in manifest.items():
        yield key
        if isinstance(value, dict) and key not in {"settings", "bytes"}:
            yield from (f"{key}.{below}" for below in value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from (f"{key}[].{below}" for below in value[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with every format; gives its folder."""
    folder = tmp_path_factory.mktemp("outputs")
    pixels = random_pixels()
    place = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)}
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    with rasterio.open(folder / "scene.tif", "w", driver="GTiff", dtype="uint8", **place, **shape) as file:
        file.write(pixels)
    flags = {
        "source": (str(folder / "scene.tif"),),
        "classes": CLASSES,
        "model": "fake_segmenter:pointwise",
        "out": str(folder / "run"),
        "workers.cluster": "in-process",
        "vectors.lines": ("road",),
        "vectors.square": ("building",),
        "vectors.formats": ("flatgeobuf", "geoparquet", "geojson", "pmtiles"),
    }
    return Path(run(load_settings(None, flags))["out"])


def test_every_file_is_on_the_page_and_every_file_of_the_page_is_there(finished):
    names = {re.sub(f"^({'|'.join(CLASSES)})\\.", "CLASS.", path.name) for path in finished.iterdir()}
    assert names == set(documented("## Files"))
    assert {path.name for path in finished.iterdir()} - {"run.json"} == set(json.loads((finished / "run.json").read_text())["files"])


@pytest.mark.parametrize(("layer", "heading"), [("road", "### Class layers"), *((n, f"### Layer `{n}`") for n in ("coverage", "scenes"))])
def test_every_field_is_on_the_page_in_order(finished, layer, heading):
    assert documented(heading) == pyogrio.read_info(finished / "layers.gpkg", layer=layer)["fields"].tolist()


def test_every_field_of_the_centre_lines_is_on_the_page_in_order(finished):
    assert documented("### Layers of `lines.gpkg`") == pyogrio.read_info(finished / "lines.gpkg", layer="road_lines")["fields"].tolist()


def test_every_field_of_the_squared_outlines_is_on_the_page_in_order(finished):
    found = pyogrio.read_info(finished / "squares.gpkg", layer="building_squares")["fields"].tolist()
    assert documented("### Layers of `squares.gpkg`") == found


def test_other_formats_have_the_same_fields(finished):
    fields = documented("### Class layers")
    for suffix in ("fgb", "geojson"):
        assert pyogrio.read_info(finished / f"road.{suffix}")["fields"].tolist() == fields
    assert pq.read_schema(finished / "road.parquet").names == ["geometry", *fields, "bbox"]


def test_every_key_of_the_manifest_is_on_the_page(finished):
    found = list(keys_of(json.loads((finished / "run.json").read_text())))
    assert sorted(found) == sorted(documented("## run.json"))
