"""A GeoPackage of class layers that opens styled in QGIS."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyproj import CRS

from rs_pipeline.classes import NOT_OBSERVED, ClassSet
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.geopackage import GEOMETRY_COLUMN, GeoPackage, as_output_error
from rs_pipeline.styles import class_style, coverage_style, write_styles
from rs_pipeline.vectorize import COVERAGE_STATES, OBSERVED, UNOBSERVED, Features

COVERAGE_LAYER = "coverage"
"""Name of the layer that says where the grid was observed."""

_GEOMETRY = pa.field(GEOMETRY_COLUMN, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
_CLASS_SCHEMA = pa.schema(
    [
        _GEOMETRY,
        ("id", pa.int64()),
        ("class", pa.string()),
        ("area_m2", pa.float64()),
        ("score_mean", pa.float64()),
        ("edge_not_observed", pa.float64()),
        ("scene", pa.string()),
        ("datetime", pa.timestamp("ms", tz="UTC")),
    ]
)
_COVERAGE_SCHEMA = pa.schema([_GEOMETRY, ("state", pa.string()), ("area_m2", pa.float64())])


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """What a layer holds."""

    count: int
    """Polygons."""
    area_m2: float
    """Their area."""
    score_mean: float | None
    """Mean score, 0…1, of their pixels; None where there are none."""


def write_layers(
    path: Path,
    crs: CRS,
    classes: ClassSet,
    features: Iterable[Features],
    coverage: Iterable[Features],
    scenes: Sequence[tuple[str, str | None]],
    geometry_type: Literal["Polygon", "MultiPolygon"] = "Polygon",
) -> dict[str, LayerSummary]:
    """Write one layer per class, named as the class, and the layer `coverage`; gives a summary of each class by name.

    Batches are written as they come: memory does not grow with their number. Layers that stay empty are there too.

    Parameters
    ----------
    path: the GeoPackage to make; must not exist.
    crs: coordinate reference system of the geometries.
    classes: names and colours; `Features.value` counts them from 1.
    features: objects of the classes.
    coverage: polygons of `polygonize_coverage`.
    scenes: (id, ISO 8601 date and time or None) of each scene, by `Features.source`; a time without zone is UTC.
    geometry_type: of `features`.

    Raises
    ------
    OutputError: the file exists or cannot be written, or two layers would get one name.
    """
    if path.exists():
        raise OutputError("a new file for the layers", f"{path}, which exists", "Choose another output folder.")
    check_layer_names(classes)
    tally = _Tally(len(classes))
    scene_columns = _scene_columns(scenes)
    with _scratch_beside(path) as scratch:
        package = GeoPackage(scratch / path.name, crs, scratch)
        for name in classes.names:
            package.create(name, _CLASS_SCHEMA, geometry_type)
        package.create(COVERAGE_LAYER, _COVERAGE_SCHEMA, "Polygon")
        for batch in features:
            tally.add(batch)
            for item in classes:
                chosen = np.flatnonzero(batch.value == item.value)
                if len(chosen):
                    package.add(item.name, _class_table(batch, chosen, item.name, scene_columns))
        for batch in coverage:
            package.add(COVERAGE_LAYER, _coverage_table(batch))
        package.finish()
        styles = {item.name: class_style(item.colour) for item in classes}
        styles[COVERAGE_LAYER] = coverage_style("state", COVERAGE_STATES[OBSERVED], COVERAGE_STATES[UNOBSERVED])
        with as_output_error(path):
            write_styles(scratch / path.name, GEOMETRY_COLUMN, styles)
            with (scratch / path.name).open("rb") as file:
                os.fsync(file.fileno())
            (scratch / path.name).replace(path)
    return dict(zip(classes.names, tally.summaries(), strict=True))


@contextmanager
def _scratch_beside(path: Path) -> Iterator[Path]:
    with as_output_error(path):
        folder = TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
    with folder:
        yield Path(folder.name)


class _Tally:
    """Counts and sums per class."""

    def __init__(self, classes: int) -> None:
        self._sums = np.zeros((4, classes + 1))

    def add(self, batch: Features) -> None:
        """Count a batch."""
        weights = (None, batch.area_m2, batch.pixels, batch.pixels * batch.score_mean)
        self._sums += [np.bincount(batch.value, weight, minlength=self._sums.shape[1]) for weight in weights]

    def summaries(self) -> Iterator[LayerSummary]:
        """One per class, in order."""
        for count, area, pixels, score in self._sums.T[1:]:
            yield LayerSummary(int(count), float(area), float(score / pixels) if pixels else None)


def check_layer_names(classes: ClassSet) -> None:
    """Refuse class names that cannot be layers of one GeoPackage; SQLite tells tables apart without regard to case.

    Raises
    ------
    UsageError: a name that is taken or reserved.
    """
    taken = {COVERAGE_LAYER, "layer_styles"}
    for name in classes.names:
        if not name[0].isalnum():  # GDAL refuses them as layers
            raise UsageError("class names that begin with a letter or a digit", repr(name), "Choose another word.")
        if name.lower() in taken or name.lower().startswith(("gpkg_", "rtree_", "sqlite_")):
            raise UsageError("class names that can be layers", f"{name!r}, which is the name of another", "Choose another word.")
        taken.add(name.lower())


def _scene_columns(scenes: Sequence[tuple[str, str | None]]) -> tuple[NDArray[np.object_], NDArray[np.datetime64]]:
    """Scene ids and times by source index; None and NaT where there is no scene."""
    ids = np.full(NOT_OBSERVED + 1, None, dtype=object)
    times = np.full(NOT_OBSERVED + 1, np.datetime64("NaT"), "datetime64[ms]")
    for index, (scene, time) in enumerate(scenes):
        ids[index] = scene
        if time is not None:
            moment = dt.datetime.fromisoformat(time)
            times[index] = np.datetime64(moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment, "ms")
    return ids, times


def _class_table(
    batch: Features, chosen: NDArray[np.int64], name: str, scenes: tuple[NDArray[np.object_], NDArray[np.datetime64]]
) -> pa.Table:
    ids, times = scenes
    source = batch.source[chosen]
    columns = [
        batch.geometry.take(pa.array(chosen)),
        batch.id[chosen],
        [name] * len(chosen),
        batch.area_m2[chosen],
        batch.score_mean[chosen],
        batch.edge_not_observed[chosen],
        ids[source],
        times[source],
    ]
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, _CLASS_SCHEMA, strict=True)]
    return pa.table(arrays, schema=_CLASS_SCHEMA)


def _coverage_table(batch: Features) -> pa.Table:
    states = [COVERAGE_STATES[int(value)] for value in batch.value]
    return pa.table([batch.geometry, states, batch.area_m2], schema=_COVERAGE_SCHEMA)
