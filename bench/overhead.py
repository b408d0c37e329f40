"""What a whole `rs-seg run` costs beside its model: `python bench/overhead.py [--model NAME] [--threads N] [--json]`.

`ratio` is the wall time of `rs-seg run` in a fresh process, as a user starts it, over that of `Segmenter.segment` alone on the same
batches, in memory already, the model loaded and one batch seen. `ratio_warm` leaves out what a process pays once: the interpreter,
imports, and its end. The scene is the demo's, whole (`rs-seg demo` first). Medians of rounds, each with a run, a warm run and the model
alone, so that a noisy machine is noisy to all. Steps overlap: their busy seconds do not add up to the run's.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from rs_pipeline.__main__ import share_one_heap

if TYPE_CHECKING:
    from rs_pipeline.plan import RunPlan
    from rs_pipeline.segmenter import Segmenter

SCENE = Path(__file__).parent.parent / "data_catalog" / "demo" / "scene.tif"
TARGET = 1.10


class Watch:
    """Busy seconds of steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start

    def over(self, step: str, owner: Any, name: str) -> None:
        """Time a function or method from now on."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(step):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)


def time_command(args: argparse.Namespace, out: Path) -> float:
    """Seconds of `rs-seg run`, a process of its own."""
    flags = ["--source", str(args.source), "--classes", args.classes, "--model", args.model, "--cluster", "in-process", "--out", str(out)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rs_pipeline", "run", *flags], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_parts(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Start-up and imports of this fresh process, a run after them step by step, and the model alone on the batches of the run."""
    watch = Watch()
    watch.seconds["interpreter"] = time.time() - args.parts
    gc.set_threshold(100_000)  # as the command line does
    with watch("import pipeline"):
        from rs_pipeline import cli, cog, inference, plan, run, store  # noqa: F401 - cli is what a user's run imports first
        from rs_pipeline.config import load_settings
        from rs_pipeline.reporting import Silent
    flags = {"source": (str(args.source),), "classes": tuple(args.classes.split(",")), "model": args.model, "out": str(out)}
    settings = load_settings(None, flags | {"workers.cluster": "in-process"})
    planned = plan.plan_run(settings)
    job = planned.job
    model = job.model, job.weights_sha256, job.options
    with watch("import model"):
        first = inference.load_segmenter(*model, job.threads)
    inference.load_segmenter.cache_clear()
    for step, owner, name in (
        ("plan", plan, "plan_run"),
        ("model load", inference, "load_segmenter"),
        ("read", inference, "_read_batch"),
        ("segment", type(first), "segment"),
        ("write tiles", store.TileStore, "write"),
        ("stitch", run, "stitch"),
        ("vectorize", run, "vectorize"),
        ("write", cog.BlockRaster, "finish"),
    ):
        watch.over(step, owner, name)
    start = time.perf_counter()
    run.execute(plan.plan_run(settings), Silent())
    warm = time.perf_counter() - start
    watch.seconds["import model"] -= watch.seconds["model load"]
    steps = dict(watch.seconds)
    threads = args.threads or job.threads
    return {
        "model": time_model(inference.load_segmenter(*model, threads), planned),
        "warm": warm,
        "steps": {step: round(seconds, 3) for step, seconds in steps.items()},
        "tiles": planned.tiles,
        "threads": threads,
        "megapixels": round(job.plan.grid.height * job.plan.grid.width / 1e6, 2),
    }


def time_model(segmenter: Segmenter, planned: RunPlan) -> float:
    """Seconds of the model on all batches of a run, which lie in memory; the first one is seen once before."""
    from rs_pipeline.inference import OpenJob

    opened, tiles = OpenJob(planned.job), list(planned.job.plan.tiles())
    size = planned.settings.workers.batch_size
    read = [[opened.read_tile(tile) for tile in tiles[i : i + size]] for i in range(0, len(tiles), size)]
    batches = [(np.stack([image for _, image in batch]), np.stack([seen.valid for seen, _ in batch])) for batch in read]
    segmenter.segment(*batches[0], planned.job.classes)
    start = time.perf_counter()
    for images, valid in batches:
        segmenter.segment(images, valid, planned.job.classes)
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One round."""
    with TemporaryDirectory(prefix="rs-seg-overhead-") as scratch:
        whole = time_command(args, Path(scratch) / "cold" / "run")
        again = [sys.executable, __file__, *sys.argv[1:], "--parts", str(time.time()), "--out", str(Path(scratch) / "warm" / "run")]
        parts = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE).stdout)
    return {**parts, "whole": whole, "ratio": whole / parts["model"], "ratio_warm": parts["warm"] / parts["model"]}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    found = {key: float(np.median([r[key] for r in rounds])) for key in ("ratio", "ratio_warm", "whole", "warm", "model")}
    steps = {step: float(np.median([r["steps"][step] for r in rounds])) for step in rounds[0]["steps"]}
    megapixels = rounds[0]["megapixels"]
    overhead = float(np.median([r["whole"] - r["model"] for r in rounds])) / megapixels
    return {
        **{key: round(value, 3) for key, value in found.items()},
        "steps": {step: round(seconds, 3) for step, seconds in steps.items()},
        "overhead_s_per_megapixel": round(overhead, 3),
        "model_s_per_megapixel": round(found["model"] / megapixels, 3),
        "model_s_per_megapixel_for_target": round(overhead / (TARGET - 1), 2),
        "target": TARGET,
        **{key: rounds[0][key] for key in ("tiles", "threads", "megapixels")},
        "rounds": len(rounds),
    }


def main() -> None:
    """Prints a table, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rs-tiny")
    parser.add_argument("--classes", default="road,water")
    parser.add_argument("--source", type=Path, default=SCENE)
    parser.add_argument("--threads", type=int, help="threads of the model alone; default: those of the run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parts", type=float, help=argparse.SUPPRESS)  # what the bench starts itself with, in a fresh process
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    share_one_heap()  # as the command does
    if args.parts is not None:
        print(json.dumps(time_parts(args, args.out)))
        return
    if not args.source.is_file():
        parser.error(f"{args.source} is not there: make it with `rs-seg demo`")
    found = summary([measure(args) for _ in range(args.rounds)])
    print(f"{found['tiles']} tiles, {found['megapixels']:.1f} MP, {args.model}, {found['threads']} threads, {found['rounds']} rounds")
    for step, seconds in found["steps"].items():
        print(f"  {step:16} {seconds:6.2f} s busy")
    for name in ("model", "warm", "whole"):
        print(f"{name:18} {found[name]:6.2f} s")
    print(f"ratio {found['ratio']:.2f} (target {TARGET:.2f}), without start-up and imports {found['ratio_warm']:.2f}")
    enough = found["model_s_per_megapixel_for_target"]
    print(f"overhead {found['overhead_s_per_megapixel']:.3f} s/MP: {TARGET:.2f} would be reached at a model time of {enough} s/MP")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
