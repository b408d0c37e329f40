"""A GeoPackage of class layers that opens styled in QGIS."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FieldError, GeometryError
from pyproj import CRS

from rs_pipeline.classes import NOT_OBSERVED, ClassSet
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.styles import class_style, coverage_style, write_styles
from rs_pipeline.vectorize import COVERAGE_STATES, OBSERVED, UNOBSERVED, Features

COVERAGE_LAYER = "coverage"
"""Name of the layer that says where the grid was observed."""
GEOMETRY_COLUMN = "geometry"

# QGIS up to 3.28 warns about GeoPackage 1.4.
_GEOPACKAGE_VERSION = "1.3"
_PENDING_BYTES = 32 * 2**20
_GEOMETRY = pa.field(GEOMETRY_COLUMN, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
_CLASS_SCHEMA = pa.schema(
    [
        _GEOMETRY,
        ("id", pa.int64()),
        ("class", pa.string()),
        ("area_m2", pa.float64()),
        ("score_mean", pa.float64()),
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

    Raises
    ------
    OutputError: the file exists or cannot be written, or two layers would get one name.
    """
    if path.exists():
        raise OutputError("a new file for the layers", f"{path}, which exists", "Choose another output folder.")
    check_layer_names(classes)
    writer = _Writer(path, crs)
    tally = _Tally(len(classes))
    scene_columns = _scene_columns(scenes)
    with _without_syncing():
        for name in classes.names:
            writer.create(name, _CLASS_SCHEMA)
        writer.create(COVERAGE_LAYER, _COVERAGE_SCHEMA)
        for batch in features:
            tally.add(batch)
            for item in classes:
                chosen = np.flatnonzero(batch.value == item.value)
                if len(chosen):
                    writer.add(item.name, _class_table(batch, chosen, item.name, scene_columns))
        for batch in coverage:
            writer.add(COVERAGE_LAYER, _coverage_table(batch))
        writer.flush()
    styles = {item.name: class_style(item.colour) for item in classes}
    styles[COVERAGE_LAYER] = coverage_style("state", COVERAGE_STATES[OBSERVED], COVERAGE_STATES[UNOBSERVED])
    with _as_output_error(path):
        write_styles(path, GEOMETRY_COLUMN, styles)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return dict(zip(classes.names, tally.summaries(), strict=True))


class _Writer:
    """Appends tables to the layers of one file, in few large steps."""

    def __init__(self, path: Path, crs: CRS) -> None:
        self._path = path
        self._crs = crs.to_string() if crs.to_authority() else crs.to_wkt()
        self._pending: dict[str, list[pa.Table]] = {}
        self._pending_bytes = 0

    def create(self, layer: str, schema: pa.Schema) -> None:
        """Make a layer, which the next flush writes even if nothing is added."""
        self._pending[layer] = [schema.empty_table()]

    def add(self, layer: str, table: pa.Table) -> None:
        """Take rows for a layer."""
        self._pending.setdefault(layer, []).append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes >= _PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        for layer, tables in self._pending.items():
            with _as_output_error(self._path):
                self._append(layer, tables)
        self._pending = {}
        self._pending_bytes = 0

    def _append(self, layer: str, tables: list[pa.Table]) -> None:
        # One batch is one transaction.
        pyogrio.write_arrow(
            pa.concat_tables(tables).combine_chunks(),
            self._path,
            layer=layer,
            driver="GPKG",
            geometry_name=GEOMETRY_COLUMN,
            geometry_type="Polygon",
            crs=self._crs,
            append=self._path.exists(),
            dataset_options={"VERSION": _GEOPACKAGE_VERSION},
            layer_options={"GEOMETRY_NAME": GEOMETRY_COLUMN, "SPATIAL_INDEX": "YES"},
        )


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
        shapely.to_wkb(batch.geometry[chosen]),
        batch.id[chosen],
        [name] * len(chosen),
        batch.area_m2[chosen],
        batch.score_mean[chosen],
        ids[source],
        times[source],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _CLASS_SCHEMA, strict=True)], schema=_CLASS_SCHEMA)


def _coverage_table(batch: Features) -> pa.Table:
    states = [COVERAGE_STATES[int(value)] for value in batch.value]
    return pa.table([shapely.to_wkb(batch.geometry), states, batch.area_m2], schema=_COVERAGE_SCHEMA)


@contextmanager
def _without_syncing() -> Iterator[None]:
    """Let SQLite not wait for the disk at every step: the file is of no use before its last byte, and is synced then."""
    option = "OGR_SQLITE_SYNCHRONOUS"
    before = pyogrio.get_gdal_config_option(option)
    pyogrio.set_gdal_config_options({option: "OFF"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({option: before})


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    """Failures to write, told as an OutputError."""
    try:
        yield
    except (DataSourceError, DataLayerError, FieldError, GeometryError, sqlite3.Error, OSError) as error:
        raise OutputError(f"a writable GeoPackage {path}", str(error), "Check the folder's permissions and free space.") from error
