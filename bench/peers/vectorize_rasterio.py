"""No product: `rasterio.features.shapes`, shapely, pyogrio, as one would write it by hand."""

from __future__ import annotations

import sys

import numpy as np
import pyogrio
import pyogrio.raw
import rasterio
import shapely
from measure import measured
from rasterio.features import shapes


def vectorize(source: str, target: str) -> None:
    """Read, trace, write one layer."""
    with rasterio.open(source) as file:
        found = list(shapes(file.read(1), connectivity=4, transform=file.transform))
        crs = file.crs.to_wkt()
    geometry = shapely.to_wkb([shapely.geometry.shape(outline) for outline, _ in found])
    values = np.array([value for _, value in found], np.uint8)
    pyogrio.raw.write(target, geometry, [values], ["value"], driver="GPKG", geometry_type="Polygon", crs=crs)


if __name__ == "__main__":
    measured(lambda: vectorize(sys.argv[1], sys.argv[2]), "rasterio")
