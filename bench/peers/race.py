"""Racers, each a process of its own, in turn over several rounds; medians, ratios and a table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LIMIT_S = 3600


@dataclass(frozen=True, slots=True)
class Racer:
    """A program that is raced."""

    name: str
    python: Path
    """Interpreter with the racer's packages."""
    script: str
    """File of this folder; takes the input and where to put the product, prints `measure.measured`'s line last."""
    product: str
    """Name of the file or folder it makes."""
    ours: bool = False
    floor: bool = False
    """True for what is measured beside and is no peer."""
    missing: str | None = None
    """Why it cannot be run at all."""
    needs_gb: float = 0.0
    """Memory without which it is not started: it would take other work on the machine with it."""


@dataclass(slots=True)
class Result:
    """What a racer did."""

    rounds: list[dict[str, Any]] = field(default_factory=list)
    check: dict[str, Any] | None = None
    failed: str | None = None

    def median(self, key: str) -> float:
        """Over the rounds."""
        return float(np.median([r[key] for r in self.rounds]))


Check = Callable[[str, Path], dict[str, Any] | None]
"""Name of a racer and its product to what is to be said of it; asked in the first round."""


def race(racers: Sequence[Racer], source: Path, scratch: Path, rounds: int, check: Check) -> dict[str, Result]:
    """Run the racers one after the other, all of them in each round; one that fails is not run again."""
    results = {racer.name: Result(failed=racer.missing) for racer in racers}
    for turn in range(rounds):
        for racer in racers:
            result, product = results[racer.name], scratch / racer.product
            if result.failed:
                continue
            print(f"round {turn + 1} of {rounds}: {racer.name} …", file=sys.stderr, flush=True)
            try:
                result.rounds.append(_run(racer, source, product))
                if turn == 0:
                    result.check = check(racer.name, product)
            except Exception as error:  # noqa: BLE001 - whatever a peer does, it is told in the table and the race goes on
                result.failed = f"{type(error).__name__}: {error}"
            _remove(product)
    return results


def _run(racer: Racer, source: Path, product: Path) -> dict[str, Any]:
    if racer.needs_gb > (free := _free_gb()):
        raise MemoryError(f"needs some {racer.needs_gb:.0f} GB of memory, {free:.0f} GB are free")
    command = [str(racer.python), str(HERE / racer.script), str(source), str(product)]
    env = {**os.environ, "TQDM_DISABLE": "1"}  # nobody looks at the peers' progress bars
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=env, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"exit {done.returncode}: {said[-1][:200]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _free_gb() -> float:
    """Memory that can be had without swapping; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable"))


def _remove(product: Path) -> None:
    if product.is_dir():
        shutil.rmtree(product)
    for path in product.parent.glob(f"{product.name}*"):
        path.unlink()


def ratios(racers: Sequence[Racer], results: dict[str, Result], ours: str) -> dict[str, float]:
    """Time of `ours` over that of each peer, and over the best of each round (`best`): medians over the rounds."""
    if results[ours].failed:
        return {}
    own = [r["seconds"] for r in results[ours].rounds]
    peers = {r.name: results[r.name].rounds for r in racers if not (r.ours or r.floor or results[r.name].failed)}
    found = {name: float(np.median([a / b["seconds"] for a, b in zip(own, theirs, strict=True)])) for name, theirs in peers.items()}
    if peers:
        best = [min(theirs[i]["seconds"] for theirs in peers.values()) for i in range(len(own))]
        found["best"] = float(np.median([a / b for a, b in zip(own, best, strict=True)]))
    return {name: round(ratio, 4) for name, ratio in found.items()}


def print_table(racers: Sequence[Racer], results: dict[str, Result], ours: str, describe: Callable[[dict[str, Any]], str]) -> None:
    """One line per racer; `describe` says what the check found."""
    own = results[ours].median("seconds") if results[ours].rounds else float("nan")
    print(f"{'':30} {'wall':>8} {'CPU':>8} {'peak':>8} {'x ours':>7}")
    for racer in racers:
        result = results[racer.name]
        if result.failed:
            print(f"{racer.name:30} failed: {result.failed}")
            continue
        wall, cpu, peak = (result.median(key) for key in ("seconds", "cpu_s", "peak_gb"))
        print(f"{racer.name:30} {wall:6.1f} s {cpu:6.1f} s {peak:5.2f} GB {wall / own:7.2f}  {describe(result.check or {})}")


def as_json(results: dict[str, Result]) -> dict[str, Any]:
    """Medians, rounds, check and failure of each racer."""
    found = {}
    for name, result in results.items():
        keys = [key for key, value in result.rounds[0].items() if isinstance(value, float)] if result.rounds else []
        medians = {key: round(result.median(key), 3) for key in keys}
        found[name] = {**medians, "check": result.check, "failed": result.failed, "rounds": result.rounds}
    return found


def verdict(met: bool | None) -> str:
    """How a goal is printed."""
    return "not known" if met is None else "met" if met else "MISSED"
