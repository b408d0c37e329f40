"""Class layers that open styled in QGIS: a GeoPackage of all of them, and files of other formats beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pyproj import CRS

from rs_pipeline.classes import ClassSet
from rs_pipeline.config import FormatName
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.geopackage import write_geopackage
from rs_pipeline.grid import Grid
from rs_pipeline.layer_metadata import LayerAbout, write_metadata
from rs_pipeline.layer_tables import (
    CLASS_SCHEMA,
    COVERAGE_SCHEMA,
    SCENES_SCHEMA,
    SceneFootprint,
    class_table,
    coverage_table,
    scene_columns,
    scenes_table,
)
from rs_pipeline.moved_rows import rows_in_crs
from rs_pipeline.spool import GEOMETRY_COLUMN, LayerRows, Spool, as_output_error, scratch_beside
from rs_pipeline.styles import class_style, coverage_style, scenes_style, write_styles
from rs_pipeline.vector_formats import file_names, write_vector_file
from rs_pipeline.vectorize import COVERAGE_STATES, OBSERVED, UNOBSERVED, Features

COVERAGE_LAYER = "coverage"
"""Name of the layer that says where the grid was observed."""
SCENES_LAYER = "scenes"
"""Name of the layer that says where the scenes lie."""


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
    with scratch_beside(path) as scratch:
        with as_output_error(path):
            spool = _empty_layers(scratch, classes, geometry_type)
        columns = scene_columns(scenes)
        for batch in features:
            tally.add(batch)
            for item in classes:
                chosen = np.flatnonzero(batch.value == item.value)
                if len(chosen):
                    with as_output_error(path):
                        spool.add(item.name, class_table(batch, chosen, item.name, columns))
        for batch in coverage:
            with as_output_error(path):
                spool.add(COVERAGE_LAYER, coverage_table(batch))
        summaries = dict(zip(classes.names, tally.summaries(), strict=True))
        with as_output_error(path):
            spool.add(SCENES_LAYER, scenes_table(scenes, grid))
            rows = spool.close()
            beside = _write_beside(scratch, {name: rows[name] for name in classes.names}, grid, delivery)
            _write_package(scratch / path.name, rows, grid, _styles(classes, summaries), delivery)
            for name in (*beside, path.name):
                (scratch / name).replace(path.parent / name)
    return summaries


def _empty_layers(scratch: Path, classes: ClassSet, geometry_type: str) -> Spool:
    """All layers, in their order; their rows are in the grid's CRS."""
    spool = Spool(scratch)
    for name in classes.names:
        spool.create(name, CLASS_SCHEMA, geometry_type)
    spool.create(COVERAGE_LAYER, COVERAGE_SCHEMA, "Polygon")
    spool.create(SCENES_LAYER, SCENES_SCHEMA, "MultiPolygon")
    return spool


def _write_beside(folder: Path, layers: Mapping[str, LayerRows], grid: Grid, delivery: Delivery) -> list[str]:
    """Write the files of other formats; gives the names of those that there are."""
    crs = delivery.crs or grid.crs
    return [
        file
        for name, layer in layers.items()
        for chosen, file in zip(delivery.formats, file_names(delivery.formats, (name,)), strict=True)
        if write_vector_file(folder / file, chosen, layer, grid, crs)
    ]


def _write_package(package: Path, layers: Mapping[str, LayerRows], grid: Grid, styles: Mapping[str, str], delivery: Delivery) -> None:
    """Write the GeoPackage down to the disk; the rows are gone then."""
    crs = delivery.crs or grid.crs
    write_geopackage(package, {name: rows_in_crs(layer, grid, crs, "multi") for name, layer in layers.items()}, crs)
    for layer in layers.values():
        layer.remove()
    write_styles(package, GEOMETRY_COLUMN, styles)
    write_metadata(package, delivery.about)
    with package.open("rb") as file:
        os.fsync(file.fileno())


def _styles(classes: ClassSet, summaries: Mapping[str, LayerSummary]) -> dict[str, str]:
    """QML by layer."""
    styles = {c.name: class_style("class", c.name, c.colour, summaries[c.name].area_m2) for c in classes}
    styles[COVERAGE_LAYER] = coverage_style("state", COVERAGE_STATES[OBSERVED], COVERAGE_STATES[UNOBSERVED])
    styles[SCENES_LAYER] = scenes_style()
    return styles


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
        if name.lower() in taken:
            raise UsageError("class names that can be layers", f"{name!r}, which is the name of another", "Choose another word.")
        if name.lower().startswith(("gpkg", "rtree_", "sqlite_")):
            raise UsageError("class names that can be layers", f"{name!r}, whose beginning is reserved", "Choose another word.")
        taken.add(name.lower())
