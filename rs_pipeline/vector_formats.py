"""Class layers as files of other formats, beside the GeoPackage: one file per class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyogrio
from pyproj import CRS

from rs_pipeline.classes import ClassSet
from rs_pipeline.config import FormatName
from rs_pipeline.errors import UsageError
from rs_pipeline.geojson import write_geojson
from rs_pipeline.geopackage import crs_text
from rs_pipeline.reproject import EDGE_PX, Reprojection
from rs_pipeline.spool import GEOMETRY_COLUMN, LayerRows

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


FORMATS: dict[FormatName, VectorFormat] = {
    "flatgeobuf": VectorFormat("fgb", "FlatGeobuf"),
    "geoparquet": VectorFormat("parquet", None),
    "geojson": VectorFormat("geojson", None, CRS.from_epsg(4326)),
    "pmtiles": VectorFormat("pmtiles", "PMTiles", CRS.from_epsg(3857)),
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


def file_names(formats: Sequence[FormatName], names: Sequence[str]) -> list[str]:
    """The files of all layers, in the order of the layers; of these, there are no vector tiles of layers without features."""
    return [f"{name}.{FORMATS[chosen].suffix}" for name in names for chosen in formats]


def write_vector_file(path: Path, chosen: FormatName, layer: LayerRows, crs: CRS, gsd_m: float) -> None:
    """Write the rows of a layer, batch by batch; into the format's own CRS where it has one. Vector tiles of no rows are no file.

    Parameters
    ----------
    crs: that the rows are in.
    gsd_m: metres per pixel of the raster they were traced from: decides how many digits and zoom levels are of use.

    Raises
    ------
    pyogrio.errors.DataSourceError, pyarrow.ArrowException, OSError: it cannot be written, or is not whole.
    OutputError: the format's CRS cannot express the place.
    """
    made = FORMATS[chosen]
    if chosen == "pmtiles" and not layer.rows:
        return
    target = made.crs or crs
    with layer.read() as stored:
        rows = stored if target == crs else _reprojected(stored, crs, target, gsd_m)
        if chosen == "geoparquet":
            from rs_pipeline.geoparquet import write_geoparquet  # Parquet takes memory that runs without it do not need

            written = write_geoparquet(path, rows, target)
        elif chosen == "geojson":
            written = write_geojson(path, rows, max(7, math.ceil(math.log10(100 * _DEGREE_M / gsd_m))))  # a hundredth of a pixel
        else:
            kind = "Unknown" if target != crs else layer.geometry_type
            pyogrio.write_arrow(
                rows,
                path,
                layer=path.stem,
                driver=made.driver,
                geometry_name=GEOMETRY_COLUMN,
                geometry_type=kind,
                crs=crs_text(target),
                **_options(chosen, gsd_m),
            )
            written = _count(path, chosen, layer.rows)
    if written != layer.rows:
        raise OSError(f"{written} of {layer.rows} features in {path.name}")


def _reprojected(rows: pa.RecordBatchReader, crs: CRS, target: CRS, gsd_m: float) -> pa.RecordBatchReader:
    move = Reprojection(crs, target, EDGE_PX * gsd_m / (1.0 if not crs.is_geographic else _DEGREE_M))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            at = batch.schema.get_field_index(GEOMETRY_COLUMN)
            yield batch.set_column(at, batch.schema.field(at), move(batch.column(at), multi=False))

    return pa.RecordBatchReader.from_batches(rows.schema, batches())


def _options(chosen: FormatName, gsd_m: float) -> dict[str, dict[str, str]]:
    """Creation options of dataset and layer."""
    if chosen == "pmtiles":
        deepest = min(22, max(0, math.ceil(math.log2(2 * _TILE_UNIT_M / gsd_m))))  # half a pixel
        return {"dataset_options": {"MINZOOM": str(max(0, deepest - _OVERVIEW_ZOOMS)), "MAXZOOM": str(deepest)}}
    return {"layer_options": {"SPATIAL_INDEX": "YES"}}


def _count(path: Path, chosen: FormatName, expected: int) -> int:
    """Features that a file holds; vector tiles are only opened: they cut features, and leave the smallest out."""
    found = int(pyogrio.read_info(path, force_feature_count=True)["features"])
    return expected if chosen == "pmtiles" else found
