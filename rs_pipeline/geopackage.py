"""A GeoPackage written layer by layer, from rows that come in any order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FieldError, GeometryError
from pyproj import CRS

from rs_pipeline.errors import OutputError

GEOMETRY_COLUMN = "geometry"
# QGIS up to 3.28 warns about GeoPackage 1.4.
_VERSION = "1.3"
_BATCH_BYTES = 2**20
_TABLE_BYTES = 8192
"""What a table takes at the least, however few its rows."""


class LayerFile:
    """Rows of one layer, kept aside in Arrow's own format until all are there.

    A layer that is written in one go gets its spatial index in one go, which takes half the time that it takes row by row.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def add(self, table: pa.Table) -> None:
        """Take rows."""
        self.rows += len(table)
        self._pending.append(table)
        self._pending_bytes += max(table.nbytes, _TABLE_BYTES)
        if self._pending_bytes >= _BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        """No more rows."""
        self._flush()
        self._stream.close()
        self._file.close()

    def _flush(self) -> None:
        if self._pending:
            self._stream.write_table(pa.concat_tables(self._pending).combine_chunks())
        self._pending, self._pending_bytes = [], 0


class GeoPackage:
    """A GeoPackage in the making: the file appears when it is finished. What it is made from lies in a scratch folder until then.

    Raises
    ------
    OutputError: it cannot be written.
    """

    def __init__(self, path: Path, crs: CRS, scratch: Path) -> None:
        self._path, self._scratch = path, scratch
        self._crs = crs.to_string() if crs.to_authority() else crs.to_wkt()
        self._layers: dict[str, LayerFile] = {}
        self._types: dict[str, str] = {}

    def create(self, layer: str, schema: pa.Schema, geometry_type: str) -> None:
        """Announce a layer, which is written even if nothing is added; its column `geometry` holds WKB."""
        self._types[layer] = geometry_type
        with as_output_error(self._path):
            self._layers[layer] = LayerFile(self._scratch / f"{len(self._layers)}.arrows", schema)

    def add(self, layer: str, table: pa.Table) -> None:
        """Take rows for a layer."""
        with as_output_error(self._path):
            self._layers[layer].add(table)

    def finish(self) -> None:
        """Write all layers, in the order in which they were created."""
        with as_output_error(self._path), _without_syncing():
            for name, layer in self._layers.items():
                layer.close()
                with pa.OSFile(str(layer.path), "rb") as file, pa.ipc.open_stream(file) as rows:
                    self._write(name, rows)
                layer.path.unlink()
            self._check()

    def _check(self) -> None:
        """GDAL may fail to build an index when it closes the file, and nobody is told."""
        with closing(sqlite3.connect(self._path)) as connection:
            for name, layer in self._layers.items():
                for table in (name, f"rtree_{name}_{GEOMETRY_COLUMN}"):
                    quoted = table.replace('"', '""')
                    ((rows,),) = connection.execute(f'SELECT count(*) FROM "{quoted}"')  # noqa: S608 - quoted
                    if rows != layer.rows:
                        raise sqlite3.DatabaseError(f"{rows} of {layer.rows} rows in {table}")

    def _write(self, layer: str, rows: pa.RecordBatchReader) -> None:
        pyogrio.write_arrow(
            rows,
            self._path,
            layer=layer,
            driver="GPKG",
            geometry_name=GEOMETRY_COLUMN,
            geometry_type=self._types[layer],
            crs=self._crs,
            append=self._path.exists(),
            dataset_options={"VERSION": _VERSION},
            layer_options={"GEOMETRY_NAME": GEOMETRY_COLUMN, "SPATIAL_INDEX": "YES"},
        )


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
def as_output_error(path: Path) -> Iterator[None]:
    """Failures to write, told as an OutputError."""
    try:
        yield
    except (DataSourceError, DataLayerError, FieldError, GeometryError, sqlite3.Error, pa.ArrowException, OSError) as error:
        raise OutputError(f"a writable GeoPackage {path}", str(error), "Check the folder's permissions and free space.") from error
