"""rs-seg in one process: plan, tiles through the stub into the store, blended, labelled, written; nothing is vectorized.

`seconds` ends with labels and scores as tiled, compressed GeoTIFFs on disk, as the peers leave them; `cog_seconds` is what making
them cloud-optimized, with overviews, takes after that.
"""

from __future__ import annotations

import gc
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measure import Meter
from stub import CLASSES

from rs_pipeline.__main__ import share_one_heap

TILE_PX, OVERLAP_PX = 1024, 128


def settings_of(source: str, out: str) -> dict[str, Any]:
    """Flags: the stub's tiles, the highest class whatever its score, the stretch 0…128 of the whole scene."""
    return {
        "source": (source,),
        "classes": tuple(f"c{k}" for k in range(1, CLASSES + 1)),
        "model": "stub_model:provider",
        "out": out,
        "tile_px": TILE_PX,
        "overlap_px": OVERLAP_PX,
        "scoring.threshold": 0.0,
        "radiometry.low_percent": 0.0,
        "radiometry.high_percent": 100.0,
        "workers.cluster": "in-process",
    }


def main() -> None:
    """Input and output on the command line."""
    share_one_heap()  # both as the command line does
    gc.set_threshold(100_000)
    from rs_pipeline import run
    from rs_pipeline.config import load_settings
    from rs_pipeline.plan import plan_run
    from rs_pipeline.reporting import Silent
    from rs_pipeline.store import TileStore

    out, marks = Path(sys.argv[2]) / "run", {}
    settings = load_settings(None, settings_of(sys.argv[1], str(out)))
    meter = Meter()
    plan = plan_run(settings)
    marks["plan"] = meter.read()
    out.mkdir(parents=True)
    with TileStore(plan.job.store).lock():
        run.infer_tiles(plan, None, Silent())
        marks["tiles"] = meter.read()
        with ExitStack() as scratch:
            stitched = run.stitch(plan, out, scratch, Silent())
        marks["stitch"] = meter.read()
    stitched.labels.finish(out / "labels.tif", "mode")
    stitched.scores.finish(out / "scores.tif", "average")
    marks["cog"] = meter.read()
    print(json.dumps(summary(marks)))


def summary(marks: dict[str, dict[str, float]]) -> dict[str, float]:
    """The parts of the time, each alone; marks count from the start."""
    end, cog = marks["stitch"], marks["cog"]
    return {
        **end,
        "plan_s": marks["plan"]["seconds"],
        "tiles_s": marks["tiles"]["seconds"] - marks["plan"]["seconds"],
        "stitch_s": end["seconds"] - marks["tiles"]["seconds"],
        "cog_seconds": cog["seconds"] - end["seconds"],
        "cog_cpu_s": cog["cpu_s"] - end["cpu_s"],
        "peak_with_cog_gb": cog["peak_gb"],
    }


if __name__ == "__main__":
    main()
