"""What a comparison says: areas of each class, from counts of pixels, the runs, and what is odd about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.change_layers import Changed, change_layer
from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED
from rs_pipeline.grid import Grid
from rs_pipeline.labels import whole_pixel_offset
from rs_pipeline.run_folder import RunFolder


def describe_areas(counts: NDArray[np.int64], names: Mapping[int, str], sums: Mapping[str, Changed], pixel_m2: float) -> dict[str, Any]:
    """Areas of a comparison, square metres, JSON-ready.

    Parameters
    ----------
    counts: (256, 256) pixels by label before and after.
    names: class by label.
    sums: of the layers, by `change_layer`.
    """
    seen = counts[:NOT_OBSERVED, :NOT_OBSERVED]
    pairs = zip(*(index.tolist() for index in np.nonzero(seen)), strict=True)
    called = {BACKGROUND: None, **names}
    return {
        "compared_m2": float(seen.sum() * pixel_m2),
        "observed_in_a_only_m2": float(counts[:NOT_OBSERVED, NOT_OBSERVED].sum() * pixel_m2),
        "observed_in_b_only_m2": float(counts[NOT_OBSERVED, :NOT_OBSERVED].sum() * pixel_m2),
        "classes": [_describe_class(value, name, counts, sums, pixel_m2) for value, name in names.items()],
        # Every pixel that differs, tolerance and least area not applied.
        "transitions": [{"from": called[a], "to": called[b], "area_m2": float(seen[a, b] * pixel_m2)} for a, b in pairs if a != b],
    }


def _describe_class(value: int, name: str, counts: NDArray[np.int64], sums: Mapping[str, Changed], pixel_m2: float) -> dict[str, Any]:
    """Areas of a class: in A = unchanged + lost + lost_ignored + not_comparable_a, in B = unchanged + gained + …; to the pixel."""
    gained, lost = sums[change_layer(name, "gained")], sums[change_layer(name, "lost")]
    unchanged = counts[value, value]
    pixels = {
        "a_m2": counts[value].sum(),
        "b_m2": counts[:, value].sum(),
        "gained_m2": gained.pixels,
        "gained_ignored_m2": counts[:NOT_OBSERVED, value].sum() - unchanged - gained.pixels,
        "lost_m2": lost.pixels,
        "lost_ignored_m2": counts[value, :NOT_OBSERVED].sum() - unchanged - lost.pixels,
        "unchanged_m2": unchanged,
        "not_comparable_a_m2": counts[value, NOT_OBSERVED],
        "not_comparable_b_m2": counts[NOT_OBSERVED, value],
    }
    areas = {key: float(count * pixel_m2) for key, count in pixels.items()}
    return {"name": name, **areas, "gained_polygons": gained.polygons, "lost_polygons": lost.polygons}


def describe_run(run: RunFolder) -> dict[str, Any]:
    """What a comparison says of a run, JSON-ready."""
    facts = run.manifest
    return {
        "out": str(run.path),
        "run_key": facts["run_key"],
        "status": facts["status"],
        "model": facts["model"],
        "dates": run.dates[:: max(1, len(run.dates) - 1)],
        "gsd_m": run.grid.gsd_m,
    }


def describe_oddities(a: RunFolder, b: RunFolder, grid: Grid, uncounted_m2: float) -> list[str]:
    """What the reader of a comparison should know.

    Parameters
    ----------
    grid: of the comparison.
    uncounted_m2: what the second run observed beyond it.
    """
    notes = []
    for run, other in ((a, b), (b, a)):
        alone = [name for name in run.classes.names if name not in other.classes.names]
        if alone:
            notes.append(f"{', '.join(alone)} is in {run.path.name} only: not compared, and background there")
        if run.manifest["status"] != "complete":
            notes.append(f"{run.path.name} has failed tiles, which are not observed and not compared")
    if whole_pixel_offset(grid, b.grid) is None:
        sizes = f"{b.grid.gsd_m:.3g} m in {b.grid.crs.to_string()}, {grid.gsd_m:.3g} m in {grid.crs.to_string()}"
        notes.append(f"{b.path.name} was brought onto the grid of {a.path.name} ({sizes}), nearest neighbour")
    if grid != a.grid:
        notes.append(f"{b.path.name} reaches beyond {a.path.name}, whose grid was grown to hold both: {grid.height} x {grid.width} px")
    if uncounted_m2:
        far = f"{b.path.name} reaches too far beyond {a.path.name} for one grid of both"
        notes.append(f"{far}: {uncounted_m2:,.0f} m² that were observed there are not counted")
    return notes
