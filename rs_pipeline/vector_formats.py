"""Class layers as files of other formats, beside the GeoPackage: one file per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyogrio
from pyproj import CRS

from rs_pipeline.classes import ClassSet
from rs_pipeline.config import FormatName
from rs_pipeline.errors import UsageError
from rs_pipeline.geojson import write_geojson
from rs_pipeline.geopackage import crs_text, plain_path
from rs_pipeline.grid import Grid
from rs_pipeline.moved_rows import Form, rows_in_crs
from rs_pipeline.reproject import check_place
from rs_pipeline.spool import GEOMETRY_COLUMN, Rows

_MAX_NAME_BYTES = 255
_DEGREE_M = 111_320.0
_TILE_UNIT_M = 2 * 20037508.342789244 / 4096
"""A step of the coordinates in the one vector tile of zoom 0."""
_OVERVIEW_ZOOMS = 6


@dataclass(frozen=True, slots=True)
class VectorFormat:
    """A format of class layers."""

    suffix: str
    driver: str | None
    """GDAL's; None: written without GDAL."""
    crs: CRS | None = None
    """The only one it may have."""
    form: Form = "multi"
    """Of its geometries in another CRS than the grid's."""


FORMATS: dict[FormatName, VectorFormat] = {
    "flatgeobuf": VectorFormat("fgb", "FlatGeobuf"),
    "geoparquet": VectorFormat("parquet", None),
    "geojson": VectorFormat("geojson", None, CRS.from_epsg(4326), "any"),
    "pmtiles": VectorFormat("pmtiles", "PMTiles", CRS.from_epsg(3857), "apart"),
}


def check_formats(formats: Sequence[FormatName], classes: ClassSet) -> None:
    """Refuse formats that cannot be written here, and classes whose names no file can have.

    Raises
    ------
    UsageError: what is not available, or which name.
    """
    drivers = pyogrio.list_drivers(write=True)
    for chosen in formats:
        driver = FORMATS[chosen].driver
        if driver is not None and driver not in drivers:
            came = f"{chosen}, which is not available: GDAL {'.'.join(map(str, pyogrio.__gdal_version__))} has no driver {driver}"
            raise UsageError("a format that can be written here", came, "Install a pyogrio that has it, or leave it out of --format.")
    for name in file_names(formats, classes.names):
        if "/" in name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
            raise UsageError("class names that can be files", repr(name), "Choose another word, or leave out --format.")


def check_formats_at(formats: Sequence[FormatName], grid: Grid) -> None:
    """Refuse formats whose own CRS cannot express the place of a grid: poles, and for vector tiles what lies beyond 85 degrees.

    Raises
    ------
    OutputError: which CRS cannot.
    """
    for chosen in formats:
        crs = FORMATS[chosen].crs
        if crs is not None:
            check_place(grid, crs, fix=f"Leave {chosen} out of --format.")


def file_names(formats: Sequence[FormatName], names: Sequence[str]) -> list[str]:
    """The files of all layers, in the order of the layers; of these, there are no vector tiles of layers without features."""
    return [f"{name}.{FORMATS[chosen].suffix}" for name in names for chosen in formats]


def write_vector_file(path: Path, chosen: FormatName, layer: Rows, grid: Grid, crs: CRS) -> bool:
    """Write the rows of a layer, named as the file, batch by batch; gives whether there is a file now: vector tiles of no rows are none.

    Every row becomes a feature with a geometry of its own, however thin it is in the file's CRS (`mend`); in vector tiles, where it is
    larger than a step of their coordinates, and one on both sides of the antimeridian as a feature on each.

    Parameters
    ----------
    layer: in the grid's CRS.
    grid: its pixels decide how many digits and zoom levels are of use.
    crs: of the file, where the format has none of its own.

    Raises
    ------
    pyogrio.errors.DataSourceError, pyarrow.ArrowException, OSError: it cannot be written, or is not whole.
    OutputError: the CRS cannot express the place.
    """
    made = FORMATS[chosen]
    if chosen == "pmtiles" and not layer.rows:
        return False
    # Class names may hold what GDAL reads something into, or leave no room for the endings of its scratch files.
    part = path.with_name(f".part.{made.suffix}")
    target = made.crs or crs
    moved = rows_in_crs(layer, grid, target, made.form)
    with moved.read() as rows:
        if chosen == "geoparquet":
            from rs_pipeline.geoparquet import write_geoparquet  # Parquet takes memory that runs without it do not need

            written = write_geoparquet(part, rows, target)
        elif chosen == "geojson":
            written = write_geojson(part, rows, max(7, math.ceil(math.log10(100 * _DEGREE_M / grid.gsd_m))))  # a hundredth of a pixel
        else:
            with plain_path(part) as plain:
                pyogrio.write_arrow(
                    rows,
                    plain,
                    layer=path.stem,
                    driver=made.driver,
                    geometry_name=GEOMETRY_COLUMN,
                    geometry_type=moved.geometry_type,
                    crs=crs_text(target),
                    **_options(chosen, path.stem, grid.gsd_m),
                )
                written = _count(plain, chosen, layer.rows)
    if written != layer.rows:
        raise OSError(f"{written} of {layer.rows} features in {path.name}")
    part.replace(path)
    return True


def _options(chosen: FormatName, name: str, gsd_m: float) -> dict[str, dict[str, str]]:
    """Creation options of dataset and layer."""
    if chosen == "pmtiles":
        deepest = min(22, max(0, math.ceil(math.log2(2 * _TILE_UNIT_M / gsd_m))))  # half a pixel
        return {"dataset_options": {"NAME": name, "MINZOOM": str(max(0, deepest - _OVERVIEW_ZOOMS)), "MAXZOOM": str(deepest)}}
    return {"layer_options": {"SPATIAL_INDEX": "YES"}}


def _count(path: Path, chosen: FormatName, expected: int) -> int:
    """Features that a file holds; vector tiles are only opened: they cut features, and leave the smallest out."""
    found = int(pyogrio.read_info(path, force_feature_count=True)["features"])
    return expected if chosen == "pmtiles" else found
