"""The pictures of docs/qgis.md: `python tests/qgis_walkthrough.py` draws them anew, over a small demo scene, as QGIS shows its runs."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
from rasterio.windows import Window

from rs_pipeline.compare import Rules, compare_runs
from rs_pipeline.config import load_settings
from rs_pipeline.demo import write_demo
from rs_pipeline.run import run

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "qgis"
SIDE_PX = 1024
LAKE, ORCHARD = Window(240, 600, 130, 110), Window(560, 230, 130, 110)
"""Where the scene of a later date has water that was not there: columns, rows, width and height."""


def make_runs(folder):
    """Two runs and what changed between them; gives their extent and CRS."""
    write_demo(folder / "demo", size_px=SIDE_PX)
    first, later = folder / "demo" / "scene.tif", folder / "later.tif"
    with rasterio.open(first) as scene:
        pixels, profile, bounds, crs = scene.read(), scene.profile, scene.bounds, scene.crs.to_string()
    rows, cols = (slice(start, start + length) for start, length in ((LAKE.row_off, LAKE.height), (LAKE.col_off, LAKE.width)))
    top, left = ORCHARD.row_off, ORCHARD.col_off
    pixels[:, top : top + ORCHARD.height, left : left + ORCHARD.width] = pixels[:, rows, cols]
    with rasterio.open(later, "w", **profile) as scene:
        scene.write(pixels)
    common = {"classes": ("road", "water", "building"), "workers.cluster": "in-process", "report": False}
    derived = {"vectors.lines": ("road",), "vectors.square": ("building",)}
    for name, source, more in (("run", first, derived), ("later", later, {})):
        run(load_settings(None, {**common, **more, "source": (str(source),), "out": str(folder / name)}))
    compare_runs(folder / "run", folder / "later", folder / "changes", Rules("2m", 50))
    return bounds, crs


def describe(folder, target, bounds, crs):
    """What `qgis_pictures.py` is to draw."""
    middle = (bounds.left + 50, bounds.bottom + 112, bounds.left + 350, bounds.bottom + 412)
    scene = {"source": str(folder / "demo" / "scene.tif"), "name": "scene", "legend": False}
    later = {**scene, "source": str(folder / "later.tif")}

    def layer(name, file="run/layers.gpkg"):
        return {"source": f"{folder / file}|layername={name}", "name": name}

    pictures = {
        "layers": [layer("road"), layer("building"), layer("water"), scene],
        "labels": [{"source": str(folder / "run" / "labels.tif"), "name": "labels"}, scene],
        "scores": [{"source": str(folder / "run" / "scores.tif"), "name": "scores", "band": 2}],
        "derived": [layer("road_lines", "run/lines.gpkg"), layer("building_squares", "run/squares.gpkg"), scene],
        "changes": [layer("water gained", "changes/changes.gpkg"), layer("water lost", "changes/changes.gpkg"), later],
    }
    return [{"path": str(target / f"{name}.jpg"), "layers": of, "extent": middle, "crs": crs} for name, of in pictures.items()]


def draw(target):
    """Make the runs and the pictures of them."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wanted = describe(folder, target, *make_runs(folder))
        asked = [PYTHON, HERE / "qgis_pictures.py"]
        subprocess.run(asked, input=json.dumps(wanted), text=True, check=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    draw(PICTURES)
    sys.stdout.write("".join(f"{path}\n" for path in sorted(PICTURES.iterdir())))
