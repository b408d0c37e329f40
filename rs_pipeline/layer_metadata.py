"""What the layers of a GeoPackage say of themselves: in its contents, which GDAL shows, and as QGIS keeps it (extension gpkg_metadata)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

_STANDARD = "http://mrcc.com/qgis.dtd"
_EXTENSION = "http://www.geopackage.org/spec120/#extension_metadata"
# As in the GeoPackage specification, table by table.
_CREATE = """
CREATE TABLE IF NOT EXISTS gpkg_metadata (
    id INTEGER CONSTRAINT m_pk PRIMARY KEY ASC NOT NULL, md_scope TEXT NOT NULL DEFAULT 'dataset', md_standard_uri TEXT NOT NULL,
    mime_type TEXT NOT NULL DEFAULT 'text/xml', metadata TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS gpkg_metadata_reference (
    reference_scope TEXT NOT NULL, table_name TEXT, column_name TEXT, row_id_value INTEGER,
    timestamp DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')), md_file_id INTEGER NOT NULL, md_parent_id INTEGER,
    CONSTRAINT crmr_mfi_fk FOREIGN KEY (md_file_id) REFERENCES gpkg_metadata(id),
    CONSTRAINT crmr_mpi_fk FOREIGN KEY (md_parent_id) REFERENCES gpkg_metadata(id)
);
"""
_REGISTER = "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_metadata', ?, 'read-write')"
_INSERT = "INSERT INTO gpkg_metadata (id, md_scope, md_standard_uri, metadata) VALUES (?, 'dataset', ?, ?)"
_REFER = "INSERT INTO gpkg_metadata_reference (reference_scope, table_name, md_file_id) VALUES ('table', ?, ?)"


@dataclass(frozen=True, slots=True)
class LayerAbout:
    """What a layer says of itself."""

    title: str
    abstract: str
    licence: str | None = None
    """Of the data; None where nobody says."""


def write_metadata(path: Path, about: Mapping[str, LayerAbout]) -> None:
    """Add descriptions, by layer name, to a GeoPackage that has none.

    Raises
    ------
    sqlite3.Error: the file cannot be written.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_CREATE)
        connection.executemany(_REGISTER, [(table, _EXTENSION) for table in ("gpkg_metadata", "gpkg_metadata_reference")])
        for number, (layer, said) in enumerate(about.items(), 1):
            connection.execute(_INSERT, (number, _STANDARD, _qgis_metadata(layer, said)))
            connection.execute(_REFER, (layer, number))
            connection.execute("UPDATE gpkg_contents SET description = ? WHERE table_name = ?", (said.abstract, layer))


def _qgis_metadata(layer: str, said: LayerAbout) -> str:
    root = ET.Element("qgis", version="3.22.0")
    facts = {"identifier": layer, "type": "dataset", "title": said.title, "abstract": said.abstract, "license": said.licence}
    for key, value in facts.items():
        if value is not None:
            ET.SubElement(root, key).text = value
    return f"<!DOCTYPE qgis PUBLIC '{_STANDARD}' 'SYSTEM'>\n" + ET.tostring(root, encoding="unicode")
