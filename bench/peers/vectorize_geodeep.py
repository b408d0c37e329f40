"""GeoDeep: `mask_to_geojson`, which takes the pixels and gives the text of a GeoJSON file in degrees."""

from __future__ import annotations

import sys
from pathlib import Path

import rasterio
import rasterio.warp  # GeoDeep uses it without importing it
from geodeep.segmentation import mask_to_geojson
from measure import measured


def vectorize(source: str, target: str) -> None:
    """Read, trace, write."""
    with rasterio.open(source) as file:
        text = mask_to_geojson(file, file.read(1), {"classes": [], "class_names": {str(k): f"c{k}" for k in range(1, 7)}})
    Path(target).write_text(text)


if __name__ == "__main__":
    measured(lambda: vectorize(sys.argv[1], sys.argv[2]), "geodeep")
