from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo import cog_validate

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.errors import OutputError
from rs_pipeline.raster_looks import LOOKS, write_looks
from rs_pipeline.run import run

CLASSES = ClassSet((Class(1, "road", ("road",), (228, 87, 46), 0.3), Class(2, 'a & "b" <水>', ("b",), (0, 1, 2), 0.5)))


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.tif"
    place = Affine(1, 0, 500_000, 0, -1, 5_300_000)
    with rasterio.open(path, "w", driver="GTiff", height=2, width=2, count=1, dtype="uint8", nodata=255, transform=place) as file:
        file.write(np.array([[[0, 1], [2, 255]]], np.uint8))
    write_looks(path, CLASSES)
    return path


def test_the_style_has_names_and_colours_and_hides_all_else(labels):
    root = ET.fromstring(labels.with_suffix(".qml").read_text().split("\n", 1)[1])  # noqa: S314
    (renderer,) = root.iter("rasterrenderer")
    assert renderer.get("type") == "paletted"
    entries = [tuple(entry.get(key) for key in ("value", "color", "alpha", "label")) for entry in root.iter("paletteEntry")]
    assert entries == [
        ("1", "#e4572e", "255", "road"),
        ("2", "#000102", "255", 'a & "b" <水>'),
        ("0", "#000000", "0", "background"),
        ("255", "#000000", "0", "not observed"),
    ]


def test_gdal_reads_the_names_of_the_values(labels):
    root = ET.fromstring(Path(f"{labels}.aux.xml").read_text())  # noqa: S314
    assert [entry.text for entry in root.iter("Category")] == ["background", *CLASSES.names]
    with rasterio.open(labels) as file:
        assert file.files == [str(labels), f"{labels}.aux.xml"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OutputError, match="room to write the products"):
        write_looks(tmp_path / "nowhere" / "labels.tif", CLASSES)


def test_the_rasters_of_a_run_are_cloud_optimized_and_have_looks(make_scene, settings_for):
    summary = run(settings_for(make_scene()))
    out = Path(summary["out"])
    for name in ("labels.tif", "scores.tif"):
        assert cog_validate(out / name, strict=True) == (True, [], [])
        with rasterio.open(out / name) as file:
            assert all("STATISTICS_MEAN" in file.tags(band) for band in file.indexes)
            assert summary["model"]["weights_sha256"] in file.tags()["RS_SEG_MODEL"]
    assert {f"labels{suffix}" for suffix in LOOKS} <= set(summary["files"])
