"""Rows of layers, kept aside until all are there: they come in any order, and files are written layer by layer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from rs_pipeline.errors import OutputError

GEOMETRY_COLUMN = "geometry"
GEOMETRY_FIELD = pa.field(GEOMETRY_COLUMN, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
"""Of every schema: WKB."""
_BATCH_BYTES = 2**20
_TABLE_BYTES = 8192
"""What a table takes at the least, however few its rows."""


class Rows(Protocol):
    """Rows of one layer, all of the same columns; `geometry` holds WKB."""

    @property
    def rows(self) -> int:
        """How many."""

    @property
    def geometry_type(self) -> str:
        """GDAL's name of what the geometries are, Unknown where they are of several types."""

    def read(self) -> AbstractContextManager[pa.RecordBatchReader]:
        """All rows, from the first; as often as wanted."""


class LayerRows:
    """Rows of one layer, in Arrow's own format on disk.

    A layer that is written in one go gets its spatial index in one go, which takes half the time that it takes row by row.
    """

    def __init__(self, path: Path, schema: pa.Schema, geometry_type: str) -> None:
        self.rows = 0
        self.schema = schema
        self.geometry_type = geometry_type
        self._path = path
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

    @contextmanager
    def read(self) -> Iterator[pa.RecordBatchReader]:
        """All rows, in the order in which they came, once they are closed."""
        with pa.OSFile(str(self._path), "rb") as file, pa.ipc.open_stream(file) as rows:
            yield rows

    def remove(self) -> None:
        """Nobody reads them again."""
        self._path.unlink()

    def _flush(self) -> None:
        if self._pending:
            self._stream.write_table(pa.concat_tables(self._pending).combine_chunks())
        self._pending, self._pending_bytes = [], 0


class Spool:
    """The rows of several layers in a scratch folder; a layer is there even if nothing is added. Its column `geometry` holds WKB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layers: dict[str, LayerRows] = {}

    def create(self, layer: str, schema: pa.Schema, geometry_type: str) -> None:
        """Announce a layer."""
        self._layers[layer] = LayerRows(self._folder / f"{len(self._layers)}.arrows", schema, geometry_type)

    def add(self, layer: str, table: pa.Table) -> None:
        """Take rows for a layer."""
        self._layers[layer].add(table)

    def close(self) -> dict[str, LayerRows]:
        """No more rows.

        Returns
        -------
        The layers by name, in the order in which they were created.
        """
        for layer in self._layers.values():
            layer.close()
        return self._layers


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder for what a file is made of, on its disk, that goes away in the end.

    Raises
    ------
    OutputError: there is no room for it.
    """
    with as_output_error(path):
        folder = TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
    with folder:
        yield Path(folder.name)


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Failures to write, told as an OutputError."""
    try:
        yield
    except (DataSourceError, DataLayerError, FieldError, FeatureError, GeometryError, sqlite3.Error, pa.ArrowException, OSError) as error:
        raise OutputError(f"a writable file {path}", str(error), "Check the folder's permissions and free space.") from error
