"""A GeoPackage of layers, each written in one go."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyogrio
from pyproj import CRS

from rs_pipeline.spool import GEOMETRY_COLUMN, Rows

# QGIS up to 3.28 warns about GeoPackage 1.4.
_VERSION = "1.3"
_PLAIN_NAME = re.compile(r"[\w .,+=@-]+")
_PLAIN_FOLDER = re.compile(r"(?!/vsi|//)[\w .,+=@/-]+")


def write_geopackage(path: Path, layers: Mapping[str, Rows], crs: CRS) -> None:
    """Write layers, in their order, each with a spatial index; a file that is there gets more of them.

    Raises
    ------
    OutputError: rows cannot be made; pyogrio.errors.DataSourceError, OSError, sqlite3.Error: it cannot be written, or rows or index are
        not whole.
    """
    with _without_syncing(), plain_path(path) as plain:
        for name, layer in layers.items():
            with layer.read() as rows:
                _write(plain, name, rows, layer.geometry_type, crs)
    _check(path, layers)


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A path to the same file, absolute and without characters that pyogrio and GDAL read something into.

    To pyogrio, `!` parts an archive from its member, what follows `;` is no name, and tabs are nothing; no form of a path escapes them.
    So where there are any, the way goes through a symbolic link: to the folder, or to the file itself where its own name has them.

    Parameters
    ----------
    path: of a file to read or to write. A new file of such a name of its own gets GDAL's scratch files, if any, in the system's
        temporary folder.

    Raises
    ------
    OSError: a link is needed and there is no room for it.
    """
    path = path.absolute()
    has_plain_name = _PLAIN_NAME.fullmatch(path.name) is not None
    if has_plain_name and _PLAIN_FOLDER.fullmatch(str(path.parent)):
        yield path
        return
    with TemporaryDirectory(prefix="rs-seg-") as folder:
        link = Path(folder, "to" if has_plain_name else f"to{path.suffix}")
        link.symlink_to(path.parent if has_plain_name else path)
        yield link / path.name if has_plain_name else link


def crs_text(crs: CRS) -> str:
    """A CRS as GDAL takes it: its code, else its WKT."""
    return str(crs.to_string() if crs.to_authority() else crs.to_wkt())


def quoted(name: str) -> str:
    """A table's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _check(path: Path, layers: Mapping[str, Rows]) -> None:
    """GDAL may fail to build an index when it closes the file, and nobody is told."""
    with closing(sqlite3.connect(path)) as connection:
        for name, layer in layers.items():
            for table in (name, f"rtree_{name}_{GEOMETRY_COLUMN}"):
                ((rows,),) = connection.execute(f"SELECT count(*) FROM {quoted(table)}")  # noqa: S608 - quoted
                if rows != layer.rows:
                    raise sqlite3.DatabaseError(f"{rows} of {layer.rows} rows in {table}")


def _write(path: Path, layer: str, rows: pa.RecordBatchReader, geometry_type: str, crs: CRS) -> None:
    pyogrio.write_arrow(
        rows,
        path,
        layer=layer,
        driver="GPKG",
        geometry_name=GEOMETRY_COLUMN,
        geometry_type=geometry_type,
        crs=crs_text(crs),
        append=path.exists(),
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
