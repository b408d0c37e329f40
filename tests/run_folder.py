"""What the tests read out of a run folder."""

import json
from pathlib import Path

import geopandas as gpd
import rasterio

UNSEEN = 255


def labels_of(folder):
    with rasterio.open(Path(folder) / "labels.tif") as file:
        return file.read(1)


def scores_of(folder):
    with rasterio.open(Path(folder) / "scores.tif") as file:
        return file.read()


def finished_tiles(out):
    """Files of the store beside a run folder; nothing else there is looked at, since it comes and goes."""
    return list((Path(out).parent / ".tiles").glob("*/*/r*/t*.npy"))


def everything(folder):
    """All that a run made, without what may differ between two runs of the same: times and paths."""
    folder = Path(folder)
    manifest = json.loads((folder / "run.json").read_text())
    for key in ("finished", "seconds", "out", "tiles", "settings", "bytes"):
        manifest.pop(key)
    layers = {}
    for name in [*(c["name"] for c in manifest["classes"]), "coverage"]:
        frame = gpd.read_file(folder / "layers.gpkg", layer=name)
        layers[name] = (frame.to_wkb().to_csv(index=False), str(frame.crs))
    return manifest, layers, (folder / "labels.tif").read_bytes(), (folder / "scores.tif").read_bytes()
