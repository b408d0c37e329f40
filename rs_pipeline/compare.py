"""Two finished runs over one place, of two dates or two models: what each class gained and lost."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline import __version__
from rs_pipeline.arguments import as_path
from rs_pipeline.change_layers import Change, Changed, write_change_layers
from rs_pipeline.change_rules import Rules
from rs_pipeline.change_summary import describe_areas, describe_oddities, describe_run
from rs_pipeline.changes import find_gained, margin_px
from rs_pipeline.changes_folder import LAYERS, PRODUCT, SUMMARY, has_layers, read_changes
from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.cog import BlockRaster, Look, little_cache
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.keys import digest
from rs_pipeline.labels import Labels, values_of
from rs_pipeline.products import sizes_of, staged
from rs_pipeline.reporting import Reporter, Silent
from rs_pipeline.run_folder import RunFolder, read_run
from rs_pipeline.shared_grid import grow_grid
from rs_pipeline.spool import as_output_error
from rs_pipeline.vectorize import OBSERVED, Features, Outlines, polygonize, polygonize_coverage

__all__ = ["FORMAT", "Comparison", "Rules", "compare_runs"]

FORMAT = 2
"""Raised whenever the same runs would give other changes than before."""
_LABELS = "labels.tif"


def compare_runs(
    run_a: str | Path,
    run_b: str | Path,
    out: str | Path | None = None,
    rules: Rules | None = None,
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Change from one run to another, on the pixels of the first as far as either reaches; classes are matched by name.

    Writes a folder with `changes.gpkg`, layers of what each class gained and lost, and `changes.json`, areas. A comparison that is there
    already is not done again, unless its layers are lost.

    Parameters
    ----------
    run_a, run_b: run folders, before and after.
    out: folder to make; None: `changes-A-B` beside the first run.
    rules: None: those of `Rules()`.
    overwrite: replace a folder that holds another comparison.

    Returns
    -------
    The content of `changes.json`.

    Raises
    ------
    OutputError: a folder holds no finished run, or `out` cannot be written.
    UsageError: the runs do not overlap or have no class in common, the rules make no sense, or an argument is no path.
    RasterError: the labels of a run are damaged.
    """
    a, b = read_run(as_path(run_a, "run_a")), read_run(as_path(run_b, "run_b"))
    folder = as_path(out, "out").absolute() if out is not None else a.path.parent / f"changes-{a.path.name}-{b.path.name}"
    comparison = Comparison(a, b, rules if rules is not None else Rules())
    key = comparison.key()
    there = read_changes(folder)
    sizes = (there or {}).get("bytes", {})
    if there is not None and there["key"] == key and has_layers(folder, comparison.names.values(), sizes.get(LAYERS, 0)):
        return {**there, "out": str(folder)}  # it may have been moved
    if there is not None and there["key"] != key and not overwrite:
        fix = "Choose another --out, or say --overwrite."
        raise OutputError("a free name, or a folder of this very comparison", f"{folder} with another one", fix)
    start = time.perf_counter()
    with staged(folder, replace=overwrite or there is not None) as aside:
        found = comparison.write(aside, reporter or Silent())
        summary = {
            "product": PRODUCT,
            "version": __version__,
            "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "out": str(folder),
            "key": key,
            **found,
            "bytes": sizes_of(aside, (LAYERS,)),
            "seconds": round(time.perf_counter() - start, 3),
        }
        with as_output_error(folder / SUMMARY):
            (aside / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


class Comparison:
    """Two runs and what of them can be compared.

    Raises
    ------
    UsageError: as `compare_runs`.
    """

    def __init__(self, a: RunFolder, b: RunFolder, rules: Rules) -> None:
        self.a, self.b, self.rules = a, b, rules
        whole = grow_grid(a.grid, b.grid)
        self.grid = whole or a.grid
        self._beyond = [b.grid] if whole is None else []
        self.tolerance_px = rules.tolerance_px(a.grid)
        common = [name for name in a.classes.names if name in b.classes.names]
        if not common:
            came = f"{', '.join(a.classes.names)} and {', '.join(b.classes.names)}"
            raise UsageError("two runs with a class in common", came, "Compare runs of the same class names.")
        self.names = dict(enumerate(common, 1))
        values = {name: value for value, name in self.names.items()}
        self._before = Labels(str(a.path / _LABELS), a.grid, values_of(a.classes, values))
        self._after = Labels(str(b.path / _LABELS), b.grid, values_of(b.classes, values))

    def key(self) -> str:
        """Digest of everything that decides the changes."""
        runs = [[str(run.path), run.manifest["run_key"], run.manifest["finished"]] for run in (self.a, self.b)]
        return digest(
            {
                "format": FORMAT,
                "runs": runs,
                "tolerance_px": self.tolerance_px,
                "rules": {**asdict(self.rules), "block_px": 0, "tolerance": ""},
            }
        )

    def write(self, folder: Path, reporter: Reporter) -> dict[str, Any]:
        """Write `changes.gpkg` into a folder.

        Returns
        -------
        What `changes.json` says of the runs and their changes.
        """
        rules, threads = self.rules, len(os.sched_getaffinity(0))
        outlines = Outlines(rules.connectivity, rules.min_area_m2)
        reporter.stage("compare", sum(_count_blocks(grid, rules.block_px) for grid in [self.grid] * 3 + self._beyond))
        scratch = folder / "after.part.tif"
        with little_cache(), closing(BlockRaster(scratch, self.grid, 1, Look(NOT_OBSERVED, ("class",), {}))) as placed:
            counts = self._place(placed, reporter)
            changes: dict[Change, Iterator[Features]] = {
                change: polygonize(self.grid, len(self.names), _Reader(self, placed, change, reporter), rules.block_px, outlines, threads)
                for change in ("gained", "lost")
            }
            sums = write_change_layers(
                folder / LAYERS,
                self.grid,
                self.names,
                changes,
                self._coverage(placed, threads),
                "Polygon" if rules.connectivity == 4 else "MultiPolygon",
            )
        scratch.unlink()
        return self._describe(counts, sums, self._measure_beyond(reporter))

    def _place(self, placed: BlockRaster, reporter: Reporter) -> NDArray[np.int64]:
        """Bring the second run onto the grid; (256, 256) pixels by label before and after."""
        counts = np.zeros((256, 256), np.int64)
        for window in _blocks(self.grid, self.rules.block_px):
            before, after = self._before.read_on(self.grid, window), self._after.read_on(self.grid, window)
            placed.write(window, after[None])
            counts += np.bincount(before.ravel().astype(np.int64) * 256 + after.ravel(), minlength=256 * 256).reshape(256, 256)
            reporter.advance(1)
        if not counts[:NOT_OBSERVED, :NOT_OBSERVED].any():
            came = f"{self.a.path} and {self.b.path}, which share no observed pixel"
            raise UsageError("two runs over one place", came, "Compare runs whose areas overlap.")
        return counts

    def _measure_beyond(self, reporter: Reporter) -> float:
        """What the second run observed beyond a grid that could not hold it, square metres."""
        area = 0.0
        for grid in self._beyond:
            for window in _blocks(grid, self.rules.block_px):
                area += self._after.observed_beyond(self.grid, window) * abs(grid.transform.determinant)
                reporter.advance(1)
        return area

    def read_pair(self, placed: BlockRaster, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels (h, w) before and after, in a window that may reach beyond the grid."""
        after = np.full(window.shape, NOT_OBSERVED, np.uint8)
        inside = self.grid.window.intersection(window)
        if inside is not None:
            after[inside.slices(window)] = placed.read(inside)[0]
        return self._before.read_on(self.grid, window), after

    def _coverage(self, placed: BlockRaster, threads: int) -> Iterator[Features]:
        """Where either run observed something: OBSERVED where both did."""

        def read_states(window: Window) -> NDArray[np.uint8]:
            before, after = self.read_pair(placed, window)
            return np.where((before == NOT_OBSERVED) | (after == NOT_OBSERVED), np.uint8(NOT_OBSERVED), np.uint8(OBSERVED))

        def read_inside(window: Window) -> NDArray[np.bool_]:
            before, after = self.read_pair(placed, window)
            inside: NDArray[np.bool_] = (before != NOT_OBSERVED) | (after != NOT_OBSERVED)
            return inside

        return polygonize_coverage(self.grid, read_states, read_inside, self.rules.block_px, threads)

    def _describe(self, counts: NDArray[np.int64], sums: dict[str, Changed], uncounted_m2: float) -> dict[str, Any]:
        rules, tolerance_px = asdict(self.rules), self.tolerance_px
        return {
            "a": describe_run(self.a),
            "b": describe_run(self.b),
            "rules": {**rules, "tolerance_px": tolerance_px, "tolerance_m": tolerance_px * self.grid.gsd_m},
            "grid": self.grid.to_dict(),
            **describe_areas(counts, self.names, sums, abs(self.grid.transform.determinant)),
            "observed_in_b_uncounted_m2": uncounted_m2,
            "notes": describe_oddities(self.a, self.b, self.grid, uncounted_m2),
        }


@dataclass(frozen=True, slots=True)
class _Reader:
    """Blocks of what was gained, or lost, as `polygonize` reads them."""

    comparison: Comparison
    placed: BlockRaster
    change: Change
    reporter: Reporter

    def __call__(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        tolerance_px = self.comparison.tolerance_px
        margin = margin_px(tolerance_px)
        wider = Window(window.row_off - margin, window.col_off - margin, window.height + 2 * margin, window.width + 2 * margin)
        before, after = self.comparison.read_pair(self.placed, wider)
        if self.change == "lost":
            before, after = after, before
        changed = find_gained(before, after, tolerance_px)[window.slices(wider)]
        nothing = np.zeros(window.shape, np.uint8)
        self.reporter.advance(1)
        return changed, nothing, nothing


def _count_blocks(grid: Grid, size: int) -> int:
    return -(-grid.height // size) * -(-grid.width // size)


def _blocks(grid: Grid, size: int) -> Iterator[Window]:
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))
