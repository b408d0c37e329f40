"""How layers look in QGIS: styles kept inside the GeoPackage, in the table that QGIS itself makes and reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

_CREATE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)"""
_REGISTER = "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) VALUES ('layer_styles', 'attributes', 'layer_styles', 0)"
# QGIS looks a style up by catalog and schema too, and for files both are empty strings.
_INSERT = """
INSERT INTO layer_styles
    (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, useAsDefault, description, owner)
VALUES ('', '', ?, ?, 'default', ?, 1, '', '')"""

_FILL_ALPHA = 110
_GREY = "110,110,110"


def write_styles(path: Path, geometry_column: str, styles: Mapping[str, str]) -> None:
    """Add the table `layer_styles` with one default QML style per layer name to a GeoPackage.

    Raises
    ------
    sqlite3.Error: the file cannot be written, or has styles already.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_CREATE)
        connection.execute(_REGISTER)
        connection.executemany(_INSERT, [(layer, geometry_column, qml) for layer, qml in styles.items()])


def class_style(attribute: str, name: str, colour: tuple[int, int, int], area_m2: float) -> str:
    """QML of a class layer: its colour, half transparent, with an outline of the same colour; the legend says class and area.

    Parameters
    ----------
    attribute: that holds the class's name in every feature: a legend with a text of its own needs a category.
    """
    rgb = ",".join(map(str, colour))
    root, renderer = _document("categorizedSymbol")
    renderer.set("attr", attribute)
    categories = ET.SubElement(renderer, "categories")
    ET.SubElement(categories, "category", symbol="0", value=name, label=f"{name}, {area_m2 / 1e4:,.1f} ha", render="true")
    _add_fill(ET.SubElement(renderer, "symbols"), "0", f"{rgb},{_FILL_ALPHA}", "solid", f"{rgb},255")
    return _text(root)


def coverage_style(attribute: str, observed: str, not_observed: str) -> str:
    """QML of the coverage layer, by the value of `attribute`: an outline where observed, grey hatching where not."""
    root, renderer = _document("categorizedSymbol")
    renderer.set("attr", attribute)
    categories = ET.SubElement(renderer, "categories")
    for number, state in enumerate((observed, not_observed)):
        ET.SubElement(categories, "category", symbol=str(number), value=state, label=state, render="true")
    symbols = ET.SubElement(renderer, "symbols")
    _add_fill(symbols, "0", f"{_GREY},0", "no", f"{_GREY},255")
    _add_fill(symbols, "1", f"{_GREY},255", "b_diagonal", f"{_GREY},255")
    return _text(root)


def scenes_style() -> str:
    """QML of the scenes: dashed outlines."""
    root, renderer = _document("singleSymbol")
    _add_fill(ET.SubElement(renderer, "symbols"), "0", f"{_GREY},0", "no", f"{_GREY},255", "dash")
    return _text(root)


def _document(renderer_type: str) -> tuple[ET.Element, ET.Element]:
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling", labelsEnabled="0")
    renderer = ET.SubElement(root, "renderer-v2", type=renderer_type, symbollevels="0", enableorderby="0", forceraster="0")
    return root, renderer


def _add_fill(symbols: ET.Element, name: str, colour: str, brush: str, outline: str, line: str = "solid") -> None:
    symbol = ET.SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    options = ET.SubElement(layer, "Option", type="Map")
    settings = {
        "color": colour,
        "style": brush,
        "outline_color": outline,
        "outline_style": line,
        "outline_width": "0.26",
        "outline_width_unit": "MM",
        "joinstyle": "bevel",
    }
    for key, value in settings.items():
        ET.SubElement(options, "Option", type="QString", name=key, value=value)
        ET.SubElement(layer, "prop", k=key, v=value)  # read by QGIS before 3.26


def _text(root: ET.Element) -> str:
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ET.tostring(root, encoding="unicode")
