"""samgeo: `raster_to_vector`."""

from __future__ import annotations

import sys

from measure import measured
from samgeo.common import raster_to_vector

if __name__ == "__main__":
    measured(lambda: raster_to_vector(sys.argv[1], sys.argv[2]), "segment-geospatial")
