"""A label raster into vector layers, beside what others do: `python bench/vectorize.py [--dense] [--rounds N] [--peers] [--json]`.

The raster is made up: 10,000 x 10,000 pixels of 0.5 m in six classes, every pixel of some class; some 31,000 polygons, or 440,000
(`--dense`). Ours reads it from disk in windows, traces it, and writes a GeoPackage with a layer per class; scores and sources are
constants, and the coverage layer is left empty. Peers read the same file and write all into one layer. Each is a process of its own;
imports are not timed, but count in the peak memory. `--peers` installs them on first use (several GB, into bench/.cache/peers).
What each makes is compared with `rasterio.features.shapes`: as many polygons of each class, as many square metres.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers.environment import peers_python
from peers.inputs import class_raster, warm
from peers.race import Racer, as_json, print_table, race, ratios, verdict
from peers.vector_check import check_vectors

CACHE = Path(__file__).parent / ".cache"
OURS = "ours"
PEERS = (
    ("geoai", "vectorize_geoai.py", "geoai.gpkg", "geoai-py"),
    ("samgeo", "vectorize_samgeo.py", "samgeo.gpkg", "segment-geospatial"),
    ("geodeep", "vectorize_geodeep.py", "geodeep.geojson", "geodeep"),
    ("rasterio, shapely, pyogrio", "vectorize_rasterio.py", "plain.gpkg", "rasterio"),
)
GOAL_RATIO, GOAL_GB = 1 / 3, 0.4
GEODEEP_GB = {False: 4.0, True: 15.5}
"""What GeoDeep takes, by `--dense`."""


def racers(args: argparse.Namespace) -> list[Racer]:
    """Ours, and the peers where they are asked for."""
    found = [Racer(OURS, Path(sys.executable), "vectorize_ours.py", "ours.gpkg", ours=True)]
    if args.peers:
        python, failed = peers_python(args.peers_venv)
        for name, script, product, package in PEERS:
            missing = next((f"not installed: {why}" for line, why in failed.items() if line.startswith(package)), None)
            needs_gb = GEODEEP_GB[args.dense] if name == "geodeep" else 0.0
            found.append(Racer(name, python, script, product, missing=missing, needs_gb=needs_gb))
    return found


def describe(check: dict[str, Any]) -> str:
    """What the table says of a product."""
    state = "same count, same areas" if check["same"] else "DIFFERS"
    return f"{check['polygons']:,} polygons: {state}{check['note']}"


def main() -> None:
    """Prints a table, and JSON last if asked; exit code 1 where ours is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", action="store_true", help="some 440,000 polygons")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="race the peers too")
    parser.add_argument("--peers-venv", type=Path, default=CACHE / "peers")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    field = racers(args)
    source, truth = class_raster(CACHE, dense=args.dense)
    warm(source)
    with TemporaryDirectory(dir=CACHE) as scratch:
        results = race(field, source, Path(scratch), args.rounds, lambda _, product: check_vectors(product, truth))
    ratio = ratios(field, results, OURS)
    print(f"{source.name}: {sum(truth['polygons']):,} polygons, {truth['vertices']:,} vertices; {args.rounds} rounds, medians")
    print_table(field, results, OURS, describe)
    own = results[OURS]
    peak = own.median("peak_gb") if own.rounds else None
    goals = {"time": ratio["best"] <= GOAL_RATIO if "best" in ratio else None, "memory": peak <= GOAL_GB if peak else None}
    print(f"time over the best peer's: {ratio.get('best', 'run with --peers')} (goal {GOAL_RATIO:.3f}): {verdict(goals['time'])}")
    print(f"peak: {peak} GB (goal {GOAL_GB} GB): {verdict(goals['memory'])}")
    if args.json:
        print(json.dumps({"truth": truth, "rounds": args.rounds, "results": as_json(results), "ratios": ratio, "goals_met": goals}))
    if own.failed or not (own.check and own.check["same"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
