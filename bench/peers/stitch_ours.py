"""rs-seg in one process: plan, tiles through the stub into the store, blended, labelled, written; nothing is vectorized.

`seconds` ends with labels and scores as tiled, compressed GeoTIFFs on disk, as the peers leave them; `publish_s` is what the rest of
the run takes after that: making them cloud-optimized, with overviews, the manifest, and waiting for the disk.
"""

from __future__ import annotations

import gc
import json
import sys
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
    from rs_pipeline.layers import LayerSummary
    from rs_pipeline.plan import plan_run
    from rs_pipeline.reporting import Silent

    marks: dict[str, dict[str, float]] = {}
    infer_tiles = run.infer_tiles

    def infer(*args: Any) -> Any:
        found = infer_tiles(*args)
        marks["tiles"] = meter.read()
        return found

    def no_vectors(plan: Any, stitched: Any, *_: Any) -> dict[str, LayerSummary]:
        stitched.labels.close()  # what is still in memory goes to disk
        stitched.scores.close()
        marks["stitch"] = meter.read()
        return {name: LayerSummary(0, 0.0, None) for name in plan.job.classes.names}

    settings = load_settings(None, settings_of(sys.argv[1], str(Path(sys.argv[2]) / "run")))
    vars(run).update(infer_tiles=infer, vectorize=no_vectors)
    meter = Meter()
    plan = plan_run(settings)
    marks["plan"] = meter.read()
    run.execute(plan, Silent())
    marks["end"] = meter.read()
    print(json.dumps(summary(marks)))


def summary(marks: dict[str, dict[str, float]]) -> dict[str, float]:
    """The parts of the time, each alone; marks count from the start."""
    stitch, end = marks["stitch"], marks["end"]
    return {
        **stitch,
        "plan_s": marks["plan"]["seconds"],
        "tiles_s": marks["tiles"]["seconds"] - marks["plan"]["seconds"],
        "stitch_s": stitch["seconds"] - marks["tiles"]["seconds"],
        "publish_s": end["seconds"] - stitch["seconds"],
        "publish_cpu_s": end["cpu_s"] - stitch["cpu_s"],
        "peak_at_end_gb": end["peak_gb"],
    }


if __name__ == "__main__":
    main()
