"""A GeoPackage of what was gained and lost, styled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from rs_pipeline.geopackage import write_geopackage
from rs_pipeline.grid import Grid
from rs_pipeline.spool import GEOMETRY_COLUMN, GEOMETRY_FIELD, Spool, as_output_error, scratch_beside
from rs_pipeline.styles import class_style, coverage_style, write_styles
from rs_pipeline.vectorize import OBSERVED, Features

Change = Literal["gained", "lost"]
COVERAGE_LAYER = "coverage"
COMPARED, NOT_COMPARED = "compared", "not compared"
_COLOURS: dict[Change, tuple[int, int, int]] = {"gained": (0, 114, 178), "lost": (213, 94, 0)}
"""Blue and vermilion, which people who are colour-blind tell apart (Okabe & Ito, "Color universal design", 2008)."""
_CHANGE_SCHEMA = pa.schema(
    [
        GEOMETRY_FIELD,
        ("id", pa.int64()),
        ("class", pa.string()),
        ("change", pa.string()),
        ("area_m2", pa.float64()),
        ("edge_not_compared", pa.float64()),
    ]
)
_COVERAGE_SCHEMA = pa.schema([GEOMETRY_FIELD, ("state", pa.string()), ("area_m2", pa.float64())])


@dataclass(slots=True)
class Changed:
    """What a class gained, or lost."""

    polygons: int = 0
    pixels: int = 0


def change_layer(name: str, change: Change) -> str:
    """Name of the layer of what a class gained or lost."""
    return f"{name} {change}"


def write_change_layers(
    path: Path,
    grid: Grid,
    names: Mapping[int, str],
    changes: Mapping[Change, Iterable[Features]],
    coverage: Iterable[Features],
    geometry_type: Literal["Polygon", "MultiPolygon"] = "Polygon",
) -> dict[str, Changed]:
    """Write a layer of what each class gained and one of what it lost, and the layer `coverage`; gives their sums by layer.

    Batches are written as they come: memory does not grow with their number. Layers that stay empty are there too.

    Parameters
    ----------
    path: the GeoPackage to make; must not exist.
    grid: that the changes were traced on.
    names: class by `Features.value`.
    coverage: OBSERVED is compared, anything else not.
    geometry_type: of `changes`.

    Raises
    ------
    OutputError: the file cannot be written.
    """
    sums = {change_layer(name, change): Changed() for name in names.values() for change in changes}
    with scratch_beside(path) as scratch:
        spool = Spool(scratch)
        for layer in sums:
            spool.create(layer, _CHANGE_SCHEMA, geometry_type)
        spool.create(COVERAGE_LAYER, _COVERAGE_SCHEMA, "Polygon")
        for batch in coverage:
            states = np.where(batch.value == OBSERVED, COMPARED, NOT_COMPARED)
            with as_output_error(path):
                spool.add(COVERAGE_LAYER, pa.table([batch.geometry, pa.array(states), batch.area_m2], schema=_COVERAGE_SCHEMA))
        for change, batches in changes.items():
            for batch in batches:
                with as_output_error(path):
                    _add(spool, batch, change, names, sums)
        with as_output_error(path):
            write_geopackage(path, spool.close(), grid.crs)
            write_styles(path, GEOMETRY_COLUMN, _styles(grid, names, sums))
    return sums


def _styles(grid: Grid, names: Mapping[int, str], sums: Mapping[str, Changed]) -> dict[str, str]:
    """QML by layer."""
    styles = {COVERAGE_LAYER: coverage_style("state", COMPARED, NOT_COMPARED)}
    for name in names.values():
        for change, colour in _COLOURS.items():
            layer = change_layer(name, change)
            styles[layer] = class_style("change", change, colour, sums[layer].pixels * abs(grid.transform.determinant))
    return styles


def _add(spool: Spool, batch: Features, change: Change, names: Mapping[int, str], sums: Mapping[str, Changed]) -> None:
    for value in np.unique(batch.value).tolist():
        chosen, layer = np.flatnonzero(batch.value == value), change_layer(names[value], change)
        columns = [
            batch.geometry.take(pa.array(chosen)),
            batch.id[chosen],
            [names[value]] * len(chosen),
            [change] * len(chosen),
            batch.area_m2[chosen],
            batch.edge_not_observed[chosen],
        ]
        spool.add(layer, pa.table(columns, schema=_CHANGE_SCHEMA))
        sums[layer].polygons += len(chosen)
        sums[layer].pixels += int(batch.pixels[chosen].sum())
