"""geoai: `raster_to_vector`."""

from __future__ import annotations

import sys

from geoai.utils.raster import raster_to_vector
from measure import measured

if __name__ == "__main__":
    measured(lambda: raster_to_vector(sys.argv[1], sys.argv[2], min_area=0), "geoai-py")
