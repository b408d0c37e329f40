"""Tiles into one picture, beside what others do: `python bench/stitch.py [--size 10000] [--rounds N] [--peers] [--json]`.

A made-up RGB scene, tiles of 1024 px that share 128, and a stub model of six classes whose scores follow from a pixel's own bands,
so that stitching is all there is to time, and its truth is known. Ours is the run's own stages in one process: plan, read, stretch,
segment, keep each tile (synced to disk), blend, label, write labels and uint8 scores as tiled, compressed GeoTIFFs. Publishing those as
cloud-optimized ones, with overviews, is timed apart: no peer does it. Nothing is vectorized. geoai and Raster Vision blend scores;
samgeo's two make hard masks, which need no blending. Each racer is a process of its own; imports are not timed, but count in the peak
memory. `--peers` installs them on first use (several GB, into bench/.cache/peers); geoai takes some 16 GB of memory at full size.
`read and score` reads the tiles, asks the stub, and drops the answer: what no racer can undercut by much.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers import raster_check
from peers.environment import peers_python
from peers.inputs import SIZE, rgb_raster, warm
from peers.race import Racer, Result, as_json, print_table, race, ratios, verdict

CACHE = Path(__file__).parent / ".cache"
OURS, FLOOR, GEOAI, RASTER_VISION, SAMGEO, SAMGEO3 = "ours", "read and score", "geoai", "raster-vision", "samgeo", "samgeo3, six prompts"
PEERS = (
    (GEOAI, "stitch_geoai.py", "geoai.tif", "geoai-py"),
    (RASTER_VISION, "stitch_rastervision.py", "rastervision", "rastervision"),
    (SAMGEO, "stitch_samgeo.py", "samgeo.tif", "segment-geospatial"),
    (SAMGEO3, "stitch_samgeo3.py", "samgeo3", "segment-geospatial"),
)
GOALS = {GEOAI: 1 / 15, SAMGEO: 1.0}
"""Ours over the peer's time, at most."""
GOAL_GB = 0.5
GEOAI_GB = 17.5
"""What geoai takes at full size."""


def racers(args: argparse.Namespace) -> list[Racer]:
    """Ours, the floor, and the peers where they are asked for."""
    here = Path(sys.executable)
    found = [Racer(OURS, here, "stitch_ours.py", "ours", ours=True), Racer(FLOOR, here, "stitch_floor.py", "floor", floor=True)]
    if args.peers:
        python, failed = peers_python(args.peers_venv)
        for name, script, product, package in PEERS:
            missing = next((f"not installed: {why}" for line, why in failed.items() if line.startswith(package)), None)
            needs_gb = GEOAI_GB * (args.size / SIZE) ** 2 if name == GEOAI else 0.0
            found.append(Racer(name, python, script, product, missing=missing, needs_gb=needs_gb))
    return found


def check(name: str, product: Path, source: Path) -> dict[str, Any] | None:
    """A product against the untiled stub."""
    readers = {
        OURS: lambda: raster_check.labels_and_scores(product / "run", top=254, first=1, nothing=255),
        RASTER_VISION: lambda: raster_check.labels_and_scores(product, top=255, first=0, nothing=6),
        GEOAI: lambda: raster_check.float_scores(product),
        SAMGEO: lambda: raster_check.hard_labels(product),
        SAMGEO3: lambda: raster_check.hard_masks(product),
    }
    return raster_check.check_rasters(source, readers[name]()) if name in readers else None


def describe(found: dict[str, Any]) -> str:
    """What the table says of a product."""
    if not found:
        return ""
    scores = "hard masks" if found["score_off"] is None else f"wrong scores {found['score_off']:.4%}"
    return f"wrong class {found['wrong']:.4%}, no value {found['empty']:.4%}, {scores}"


def print_ours(own: Result) -> None:
    """Where the time of ours goes."""
    parts = ", ".join(f"{part} {own.median(f'{part}_s'):.2f} s" for part in ("plan", "tiles", "stitch"))
    print(f"ours: {parts}; then publishing: {own.median('publish_s'):.2f} s more, peak {own.median('peak_at_end_gb'):.2f} GB")


def goals_met(ratio: dict[str, float], own: Result) -> dict[str, bool | None]:
    """By goal; None where it cannot be told."""
    met: dict[str, bool | None] = {name: ratio[name] <= goal if name in ratio else None for name, goal in GOALS.items()}
    return {**met, "memory": own.median("peak_at_end_gb") <= GOAL_GB if own.rounds else None}


def main() -> None:
    """Prints a table, and JSON last if asked; exit code 1 where ours is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=SIZE, help="side of the scene, pixels; 5000 for a quick look")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="race the peers too")
    parser.add_argument("--peers-venv", type=Path, default=CACHE / "peers")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    field = racers(args)
    source = rgb_raster(CACHE, args.size)
    warm(source)
    with TemporaryDirectory(dir=CACHE) as scratch:
        results = race(field, source, Path(scratch), args.rounds, lambda name, product: check(name, product, source))
    ratio, own = ratios(field, results, OURS), results[OURS]
    met = goals_met(ratio, own)
    print(f"{args.size} x {args.size} px, 6 classes, tiles of 1024 px that share 128; {args.rounds} rounds, medians")
    print_table(field, results, OURS, describe)
    if own.rounds:
        print_ours(own)
    for name, goal in GOALS.items():
        print(f"time over {name}'s: {ratio.get(name, 'not known')} (goal {goal:.3f}): {verdict(met[name])}")
    print(f"peak: {own.median('peak_at_end_gb') if own.rounds else 'not known'} GB (goal {GOAL_GB} GB): {verdict(met['memory'])}")
    if args.json:
        print(json.dumps({"size": args.size, "rounds": args.rounds, "results": as_json(results), "ratios": ratio, "goals_met": met}))
    if own.failed or not own.check or any(own.check.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
