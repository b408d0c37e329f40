"""Class layers that open styled in QGIS: a GeoPackage of all of them, and files of other formats beside it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from rs_pipeline.classes import NOT_OBSERVED, ClassSet
from rs_pipeline.config import FormatName
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.geopackage import write_geopackage
from rs_pipeline.grid import Grid
from rs_pipeline.layer_metadata import LayerAbout, write_metadata
from rs_pipeline.reproject import EDGE_PX, Reprojection
from rs_pipeline.spool import GEOMETRY_COLUMN, LayerRows, Spool, as_output_error
from rs_pipeline.styles import class_style, coverage_style, scenes_style, write_styles
from rs_pipeline.vector_formats import file_names, write_vector_file
from rs_pipeline.vectorize import COVERAGE_STATES, OBSERVED, UNOBSERVED, Features

COVERAGE_LAYER = "coverage"
"""Name of the layer that says where the grid was observed."""
SCENES_LAYER = "scenes"
"""Name of the layer that says where the scenes lie."""

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
_SCENES_SCHEMA = pa.schema(
    [
        _GEOMETRY,
        ("id", pa.string()),
        ("datetime", pa.timestamp("ms", tz="UTC")),
        ("gsd_m", pa.float64()),
        ("href", pa.string()),
        ("item", pa.string()),
        ("pixels", pa.int64()),
        ("area_m2", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class SceneFootprint:
    """A scene as the layer `scenes` shows it."""

    id: str
    datetime: str | None
    """ISO 8601; a time without zone is UTC."""
    gsd_m: float
    """Metres per pixel of the scene itself."""
    href: str
    """Path or URL of the image."""
    item: str | None
    """Path or URL of its STAC item."""
    outline: BaseGeometry
    """Of its pixels, in the grid's CRS; an empty one makes no feature."""
    pixels: int
    """Pixels of the grid that were taken from it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is asked for beside a GeoPackage in the grid's CRS."""

    crs: CRS | None = None
    """Of the layers; None: the grid's."""
    formats: tuple[FormatName, ...] = ()
    """Written beside the GeoPackage, a file per class."""
    about: Mapping[str, LayerAbout] = field(default_factory=dict)
    """What layers say of themselves, by name."""


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
    grid: Grid,
    classes: ClassSet,
    features: Iterable[Features],
    coverage: Iterable[Features],
    scenes: Sequence[SceneFootprint],
    geometry_type: Literal["Polygon", "MultiPolygon"] = "Polygon",
    delivery: Delivery = Delivery(),
) -> dict[str, LayerSummary]:
    """Write one layer per class, named as the class, and the layers `coverage` and `scenes`; gives a summary of each class by name.

    Batches are written as they come: memory does not grow with their number. Layers that stay empty are there too. In another CRS than
    the grid's all layers are multipolygons, since the antimeridian may cut one in two, and areas stay those of the pixels.

    Parameters
    ----------
    path: the GeoPackage to make; must not exist. Files of other formats come into its folder.
    grid: that the features were traced on.
    classes: names and colours; `Features.value` counts them from 1.
    features: objects of the classes.
    coverage: polygons of `polygonize_coverage`.
    scenes: by `Features.source`.
    geometry_type: of `features`.

    Raises
    ------
    OutputError: the file exists or cannot be written, or the CRS cannot express the place; UsageError: two layers would get one name.
    """
    if path.exists():
        raise OutputError("a new file for the layers", f"{path}, which exists", "Choose another output folder.")
    check_layer_names(classes)
    tally = _Tally(len(classes))
    with _scratch_beside(path) as scratch:
        layers = _Layers(scratch, path, grid, delivery.crs)
        for name in classes.names:
            layers.create(name, _CLASS_SCHEMA, geometry_type)
        layers.create(COVERAGE_LAYER, _COVERAGE_SCHEMA, "Polygon")
        layers.create(SCENES_LAYER, _SCENES_SCHEMA, "MultiPolygon")
        columns = _scene_columns(scenes)
        for batch in features:
            tally.add(batch)
            for item in classes:
                chosen = np.flatnonzero(batch.value == item.value)
                if len(chosen):
                    layers.add(item.name, _class_table(batch, chosen, item.name, columns))
        for batch in coverage:
            layers.add(COVERAGE_LAYER, _coverage_table(batch))
        layers.add(SCENES_LAYER, _scenes_table(scenes, grid))
        summaries = dict(zip(classes.names, tally.summaries(), strict=True))
        layers.write(scratch / path.name, _styles(classes, summaries), classes, delivery)
        with as_output_error(path):
            for name in (*file_names(delivery.formats, classes.names), path.name):
                if (scratch / name).exists():
                    (scratch / name).replace(path.parent / name)
    return summaries


class _Layers:
    """The layers in the making, in the CRS that they are delivered in."""

    def __init__(self, scratch: Path, path: Path, grid: Grid, crs: CRS | None) -> None:
        self._path, self._grid = path, grid
        self._crs = crs or grid.crs
        self._move = None if self._crs == grid.crs else Reprojection(grid.crs, self._crs, EDGE_PX * grid.gsd_m)
        self._spool = Spool(scratch)

    def create(self, layer: str, schema: pa.Schema, geometry_type: str) -> None:
        with as_output_error(self._path):
            self._spool.create(layer, schema, geometry_type if self._move is None else "MultiPolygon")

    def add(self, layer: str, table: pa.Table) -> None:
        if self._move is not None and len(table):
            at = table.schema.get_field_index(GEOMETRY_COLUMN)
            geometry = self._move(table.column(at), multi=True)
            table = table.set_column(at, table.schema.field(at), geometry)
        with as_output_error(self._path):
            self._spool.add(layer, table)

    def write(self, package: Path, styles: Mapping[str, str], classes: ClassSet, delivery: Delivery) -> None:
        with as_output_error(self._path):
            rows = self._spool.close()
            for name in classes.names:
                self._write_beside(package.parent, name, rows[name], delivery)
            write_geopackage(package, rows, self._crs)
            for layer in rows.values():
                layer.remove()
            write_styles(package, GEOMETRY_COLUMN, styles)
            write_metadata(package, delivery.about)
            with package.open("rb") as file:
                os.fsync(file.fileno())

    def _write_beside(self, folder: Path, name: str, layer: LayerRows, delivery: Delivery) -> None:
        for chosen, file in zip(delivery.formats, file_names(delivery.formats, (name,)), strict=True):
            write_vector_file(folder / file, chosen, layer, self._crs, self._grid.gsd_m)


def _styles(classes: ClassSet, summaries: Mapping[str, LayerSummary]) -> dict[str, str]:
    """QML by layer."""
    styles = {c.name: class_style("class", c.name, c.colour, summaries[c.name].area_m2) for c in classes}
    styles[COVERAGE_LAYER] = coverage_style("state", COVERAGE_STATES[OBSERVED], COVERAGE_STATES[UNOBSERVED])
    styles[SCENES_LAYER] = scenes_style()
    return styles


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
    taken = {COVERAGE_LAYER, SCENES_LAYER, "layer_styles"}
    for name in classes.names:
        if not name[0].isalnum():  # GDAL refuses them as layers
            raise UsageError("class names that begin with a letter or a digit", repr(name), "Choose another word.")
        if name.lower() in taken or name.lower().startswith(("gpkg_", "rtree_", "sqlite_")):
            raise UsageError("class names that can be layers", f"{name!r}, which is the name of another", "Choose another word.")
        taken.add(name.lower())


def _scene_columns(scenes: Sequence[SceneFootprint]) -> tuple[NDArray[np.object_], NDArray[np.datetime64]]:
    """Scene ids and times by source index; None and NaT where there is no scene."""
    ids = np.full(NOT_OBSERVED + 1, None, dtype=object)
    times = np.full(NOT_OBSERVED + 1, np.datetime64("NaT"), "datetime64[ms]")
    for index, scene in enumerate(scenes):
        ids[index] = scene.id
        if scene.datetime is not None:
            moment = dt.datetime.fromisoformat(scene.datetime)
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


def _scenes_table(scenes: Sequence[SceneFootprint], grid: Grid) -> pa.Table:
    _, times = _scene_columns(scenes)
    frame = shapely.box(*grid.bounds)
    cut = [shapely.intersection(scene.outline, frame) for scene in scenes]
    rows = [
        {
            GEOMETRY_COLUMN: shapely.to_wkb(shapely.multipolygons(shapely.get_parts(shape))),
            "id": scene.id,
            "datetime": times[index].item(),
            "gsd_m": scene.gsd_m,
            "href": scene.href,
            "item": scene.item,
            "pixels": scene.pixels,
            "area_m2": scene.pixels * abs(grid.transform.determinant),
        }
        for index, (scene, shape) in enumerate(zip(scenes, cut, strict=True))
        if shape.area > 0
    ]
    return pa.Table.from_pylist(rows, schema=_SCENES_SCHEMA)
