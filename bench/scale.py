"""Memory and time of a whole run by the size of its grid: `python bench/scale.py [--sizes 5000 10000 …] [--scratch DIR] [--json]`.

Every stage, in this process, five classes, over a small GeoTIFF repeated by a VRT, with a model that looks at one pixel at a time
(`bench/pattern.py`). Each size is a process of its own, watched from outside: RSS twenty times a second, apart into memory of its own
(anon) and pages of mapped files (file), which the system takes back when it needs them; disk once a second. The scratch folder of a
size is removed before the next: 40,000 px need 20 GB.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pattern

from rs_pipeline.__main__ import share_one_heap

SIZES = (5000, 10_000, 20_000, 40_000)
STAGES = ("plan", "infer", "stitch", "vectorize", "write")
MEMORY_TARGET = 1.2
_RSS_EVERY_S, _DISK_EVERY_S = 0.05, 1.0
_FIELDS = {"RssAnon": "anon", "RssFile": "file", "VmRSS": "rss", "VmHWM": "ru_maxrss"}


def run_one(folder: Path) -> None:
    """A run in this process; says on stdout which stage begins, and at the end the seconds of each and what was found."""
    from rs_pipeline import cog, plan, run
    from rs_pipeline.config import load_settings
    from rs_pipeline.reporting import Silent

    gc.set_threshold(100_000)  # as the command line does
    for stage, owner, name in (("infer", run, "infer_tiles"), ("stitch", run, "stitch"), ("vectorize", run, "vectorize")):
        _announce(stage, owner, name)
    _announce("write", cog.BlockRaster, "finish")
    flags = {
        "source": (str(folder / pattern.SOURCE),),
        "classes": pattern.CLASSES,
        "model": "pattern:provider",
        "out": str(folder / "out" / "run"),
    }
    settings = load_settings(None, flags | {"workers.cluster": "in-process", "scoring.threshold": pattern.THRESHOLD})
    start = time.perf_counter()
    _say(stage="plan")
    planned = plan.plan_run(settings)
    seconds = {"plan": time.perf_counter() - start}
    summary = run.execute(planned, Silent())
    whole = time.perf_counter() - start
    _say(seconds=seconds | summary["seconds"], whole=whole, polygons=sum(c["polygons"] for c in summary["classes"]), tiles=planned.tiles)


def _announce(stage: str, owner: Any, name: str) -> None:
    inner: Callable[..., Any] = getattr(owner, name)

    def announced(*args: Any, **kwargs: Any) -> Any:
        _say(stage=stage)
        return inner(*args, **kwargs)

    setattr(owner, name, announced)


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def watch_one(size_px: int, folder: Path) -> dict[str, Any]:
    """Run one size in a process of its own and watch it."""
    pattern.write_source(folder, size_px)
    command = [sys.executable, __file__, "--one", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = {"stage": "start"}
    listener = threading.Thread(target=_listen, args=(process, told))
    listener.start()
    peaks: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    disk, next_look = 0, 0.0
    while process.poll() is None:
        stage = told["stage"]
        for key, megabytes in _memory(process.pid).items():
            peaks[stage][key] = max(peaks[stage][key], megabytes)
        if time.monotonic() >= next_look:
            disk, next_look = max(disk, _disk_bytes(folder)), time.monotonic() + _DISK_EVERY_S
        time.sleep(_RSS_EVERY_S)
    listener.join()
    if process.returncode:
        raise SystemExit(f"the run of {size_px} px failed")
    whole = {key: max(peak[key] for peak in peaks.values()) for key in _FIELDS.values()}
    return {
        "size_px": size_px,
        "seconds": told["seconds"] | {"whole": round(told["whole"], 2)},
        "ns_per_px": {stage: round(s * 1e9 / size_px**2, 1) for stage, s in (told["seconds"] | {"whole": told["whole"]}).items()},
        "peak_mb": {stage: {key: round(mb) for key, mb in peaks[stage].items()} for stage in STAGES} | {"whole": whole},
        "disk_gb": round(disk / 1e9, 2),
        "polygons": told["polygons"],
        "tiles": told["tiles"],
    }


def _listen(process: subprocess.Popen[str], told: dict[str, Any]) -> None:
    for line in process.stdout or ():
        told.update(json.loads(line))


def _memory(pid: int) -> dict[str, float]:
    """Megabytes of a process by kind; nothing once it has ended."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {_FIELDS[line[0][:-1]]: int(line[1]) / 1000 for line in lines if line[0][:-1] in _FIELDS}


def _disk_bytes(folder: Path) -> int:
    """Blocks that a folder's files take."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_blocks * 512
            except OSError:  # renamed meanwhile
                continue
    return total


def show(found: dict[str, Any]) -> None:
    """A line per stage."""
    print(f"{found['size_px']} px squared: {found['tiles']} tiles, {found['polygons']} polygons, {found['disk_gb']} GB of disk")
    for stage in (*STAGES, "whole"):
        peak = found["peak_mb"][stage]
        memory = "  ".join(f"{key} {peak.get(key, 0):6.0f}" for key in ("rss", "anon", "file"))
        print(f"  {stage:10} {found['seconds'][stage]:8.1f} s {found['ns_per_px'][stage]:8.1f} ns/px   peak MB {memory}")


def main() -> None:
    """Prints a table per size, what grew, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--scratch", type=Path, help="folder for sources, tiles and products; default: the system's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # what the bench starts itself with, in a fresh process
    args = parser.parse_args()
    if args.one:
        share_one_heap()  # as the command does
        run_one(args.one)
        return
    rounds = []
    for size_px in args.sizes:
        folder = Path(mkdtemp(prefix="rs-seg-scale-", dir=args.scratch))
        try:
            rounds.append(watch_one(size_px, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        show(rounds[-1])
    first, last = rounds[0], rounds[-1]
    grown = {key: round(last["peak_mb"]["whole"][key] / first["peak_mb"]["whole"][key], 2) for key in ("rss", "anon")}
    slower = round(last["ns_per_px"]["whole"] / first["ns_per_px"]["whole"], 2)
    print(f"{first['size_px']} to {last['size_px']} px: peak RSS x {grown['rss']} (target {MEMORY_TARGET}), anon x {grown['anon']}")
    print(f"time per pixel x {slower}")
    if args.json:
        print(json.dumps({"sizes": rounds, "rss_growth": grown["rss"], "anon_growth": grown["anon"], "ns_per_px_growth": slower}))


if __name__ == "__main__":
    main()
