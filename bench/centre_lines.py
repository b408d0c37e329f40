"""Centre lines of one connected street network by its length: `python bench/centre_lines.py [--km 42 250 1000] [--json]`.

Streets 8 m wide, 100 m apart, both ways, turned against pixels of 1 m, so that every outline is stairs; one polygon, as the pipeline
traces it. Each length is a process of its own. Memory is the peak RSS above what the imports take, the polygon included. The lines are
compared with the streets' own length; the streets' ends and stairs make some per cent.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from peers.measure import peak_bytes
from pyproj import CRS

LENGTHS_KM = (42.0, 250.0, 1000.0)
GOAL_GB = 0.5
_WIDTH_M, _APART_M, _TURN = 8.0, 100.0, math.radians(17.0)
_PLACE = Affine(1.0, 0.0, 500_000.0, 0.0, -1.0, 5_400_000.0)
_BLOCK_PX = 2048
_COLUMNS = ("streets_km", "outline_mb", "lines", "lines_km", "seconds", "peak_mb", "mb_per_km", "s_per_km")


def write_network(path: Path, km: float) -> float:
    """The polygon of a network of about so many kilometres, as WKB; gives its streets' length in kilometres."""
    from rs_pipeline.grid import Grid, Window
    from rs_pipeline.vectorize import polygonize

    streets = round((math.sqrt(1 + 4 * km * 1e3 / (2 * _APART_M)) + 1) / 2)  # each way
    side = (streets - 1) * _APART_M
    size = math.ceil((side + _WIDTH_M) * (math.cos(_TURN) + math.sin(_TURN))) + 2

    def read_block(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        rows, cols = np.ogrid[window.row_off : window.row_stop, window.col_off : window.col_stop]
        x, y = cols + 0.5 - math.sin(_TURN) * (side + _WIDTH_M), rows + 0.5
        along = [x * math.cos(_TURN) + y * math.sin(_TURN), y * math.cos(_TURN) - x * math.sin(_TURN)]
        inside = np.logical_and(*((place >= 0) & (place < side + _WIDTH_M) for place in along))
        labels = (inside & np.logical_or(*(place % _APART_M < _WIDTH_M for place in along))).astype(np.uint8)
        nothing = np.zeros(labels.shape, np.uint8)
        return labels, nothing, nothing

    grid = Grid(CRS.from_epsg(32632), _PLACE, size, size)
    found = [shape for batch in polygonize(grid, 1, read_block, _BLOCK_PX) for shape in batch.geometry.to_pylist()]
    path.write_bytes(max(found, key=len))
    return 2 * streets * (side + _WIDTH_M) / 1e3


def draw_one(path: Path) -> None:
    """The centre lines of a polygon in this process, and what they cost, as JSON on stdout."""
    from rs_pipeline.centre_lines import centre_lines

    centre_lines(shapely.box(0, 0, 10, 1), 1.0)  # imports what it needs, which counts neither as time nor as memory
    before = peak_bytes()
    polygon = shapely.from_wkb(path.read_bytes())
    start = time.perf_counter()
    lines = centre_lines(polygon, 1.0)
    seconds = time.perf_counter() - start
    found = {"lines": len(lines), "lines_km": round(sum(line.length_m for line in lines) / 1e3, 2)}
    print(json.dumps(found | {"seconds": round(seconds, 2), "peak_mb": round((peak_bytes() - before) / 1e6, 1)}))


def measure(km: float, folder: Path) -> dict[str, Any]:
    """One length, in a process of its own."""
    path = folder / f"{km:g}.wkb"
    streets_km = write_network(path, km)
    said = subprocess.run([sys.executable, __file__, "--one", str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(said)
    per_km = {"mb_per_km": round(found["peak_mb"] / streets_km, 3), "s_per_km": round(found["seconds"] / streets_km, 4)}
    return {"streets_km": round(streets_km, 2), "outline_mb": round(path.stat().st_size / 1e6, 1)} | found | per_km


def main() -> None:
    """Prints a line per length, and JSON last if asked; exit code 1 where the lines are not the streets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--km", type=float, nargs="+", default=LENGTHS_KM)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # what the bench starts itself with, in a fresh process
    args = parser.parse_args()
    if args.one:
        draw_one(args.one)
        return
    rounds = []
    print("  ".join(key.replace("_", " ") for key in _COLUMNS))
    with TemporaryDirectory() as folder:
        for km in args.km:
            rounds.append(measure(km, Path(folder)))
            print("  ".join(f"{rounds[-1][key]:>{len(key)}}" for key in _COLUMNS), flush=True)
    met = all(found["peak_mb"] <= GOAL_GB * 1e3 for found in rounds)
    print(f"peak: {max(found['peak_mb'] for found in rounds)} MB above the imports (goal {GOAL_GB} GB): {'met' if met else 'NOT MET'}")
    if args.json:
        print(json.dumps({"rounds": rounds, "goal_met": met}))
    if any(abs(found["lines_km"] / found["streets_km"] - 1) > 0.05 for found in rounds):
        sys.exit(1)


if __name__ == "__main__":
    main()
