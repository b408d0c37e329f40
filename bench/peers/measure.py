"""What one call costs: wall time, CPU time and peak memory, as one line of JSON on stdout. Standard library only."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        """Seconds and CPU seconds since the start, and the process's peak memory so far, imports included."""
        return {
            "seconds": round(time.perf_counter() - self._wall, 3),
            "cpu_s": round(cpu_seconds() - self._cpu, 3),
            "peak_gb": round(peak_bytes() / 1e9, 4),
        }


def measured(work: Callable[[], Any], package: str) -> None:
    """Do the work and print what it cost; what the work itself prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        meter = Meter()
        work()
        found = meter.read()
    print(json.dumps({**found, "version": version(package)}), flush=True)


def cpu_seconds() -> float:
    """User and system time of this process and of the children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_bytes() -> int:
    """Most memory that this process ever held, and the largest child that ended with it.

    Linux lets a process inherit `ru_maxrss` from the one that started it; the high-water mark in /proc starts at its own beginning.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + children
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) + children
