"""A GeoPackage of centre lines, styled: roads as a network wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS, Transformer

from rs_pipeline.centre_lines import CentreLine, draw
from rs_pipeline.classes import Class
from rs_pipeline.geopackage import write_geopackage
from rs_pipeline.grid import Grid
from rs_pipeline.spool import GEOMETRY_COLUMN, GEOMETRY_FIELD, Spool, as_output_error, scratch_beside
from rs_pipeline.styles import write_styles
from rs_pipeline.vectorize import Features

LINES = "lines.gpkg"
_POINT_BYTES = 120
"""Of a point of an outline: its share of the axis, and the polygon itself (`bench/centre_lines.py`)."""
_CITY_POINTS_PER_M = 0.12
"""Points of outlines per pixel and metre of its side, both sides of the streets, and stairs as long as they can be."""
_WIDEST_TILE_BYTES = 300e6
_SCHEMA = pa.schema(
    [
        GEOMETRY_FIELD,
        ("class", pa.string()),
        ("object", pa.int64()),
        ("length_m", pa.float64()),
        ("width_m", pa.float64()),
    ]
)


@dataclass(slots=True)
class LinesSummary:
    """What a layer of lines holds."""

    count: int = 0
    length_m: float = 0.0
    compact: int = 0
    """Objects without a line: less than twice as long as they are wide."""
    partial: int = 0
    """Objects too wide in places for a line there (`medial_axis`)."""
    failed: int = 0
    """Objects without a line: their outline has no diagram."""


def lines_bytes(grid: Grid) -> float:
    """Memory that lines take at the most, bytes: of one network of all streets of a dense city, 40 km in each square kilometre."""
    points = grid.height * grid.width * min(1.0, _CITY_POINTS_PER_M * grid.gsd_m)
    return _WIDEST_TILE_BYTES + _POINT_BYTES * points


def line_layer(name: str) -> str:
    """Name of the layer of a class's centre lines."""
    return f"{name}_lines"


def write_lines(
    path: Path, grid: Grid, classes: Sequence[Class], features: Iterable[Features], min_hole_m2: float = 0.0, crs: CRS | None = None
) -> dict[str, LinesSummary]:
    """Write a layer of centre lines of each class; gives their sums by class. Layers that stay empty are there too.

    Attributes: `object`, id of the polygon of pixels that share sides; `length_m`; `width_m`, its mean.

    Parameters
    ----------
    path: the GeoPackage to make; one that is there is replaced.
    grid: metric; its pixels were traced.
    features: objects of pixels that share sides, not simplified; others than of `classes` are passed over.
    min_hole_m2: smaller holes are filled first.
    crs: of the layers; None: the grid's.

    Raises
    ------
    OutputError: the file cannot be written.
    """
    names = {item.value: item.name for item in classes}
    sums = {name: LinesSummary() for name in names.values()}
    moving = Transformer.from_crs(grid.crs, crs, always_xy=True) if crs is not None and crs != grid.crs else None
    with as_output_error(path):
        path.unlink(missing_ok=True)
    with scratch_beside(path) as scratch:
        spool = Spool(scratch)
        for name in sums:
            spool.create(line_layer(name), _SCHEMA, "LineString")
        for batch in features:
            for value in set(names) & set(np.unique(batch.value).tolist()):
                numbers, lines = _lines(batch, value, grid.gsd_m, min_hole_m2, sums[names[value]])
                shapes = [line.geometry for line in lines]
                moved = shapely.transform(shapes, lambda p: np.column_stack(moving.transform(*p.T))) if moving is not None else shapes
                lengths, widths = [line.length_m for line in lines], [line.width_m for line in lines]
                columns = [pa.array(shapely.to_wkb(moved), pa.binary()), [names[value]] * len(lines), numbers, lengths, widths]
                with as_output_error(path):
                    spool.add(line_layer(names[value]), pa.table(columns, schema=_SCHEMA))
        with as_output_error(path):
            write_geopackage(path, spool.close(), crs or grid.crs)
            write_styles(path, GEOMETRY_COLUMN, {line_layer(item.name): _line_style(item.colour) for item in classes})
    return sums


def _lines(batch: Features, value: int, step_m: float, min_hole_m2: float, summary: LinesSummary) -> tuple[list[int], list[CentreLine]]:
    """The centre lines of a class in a batch, and the id of the object of each. One object that cannot be drawn ends no run."""
    from scipy.spatial import QhullError  # late, as in `medial_axis`

    chosen = np.flatnonzero(batch.value == value)
    polygons = shapely.from_wkb(batch.geometry.take(pa.array(chosen)).to_numpy(zero_copy_only=False))
    numbers, lines = [], []
    for number, polygon in zip(batch.id[chosen].tolist(), polygons, strict=True):
        try:
            found = draw(polygon, step_m, min_hole_m2)
        except (QhullError, shapely.errors.GEOSException, ValueError):
            summary.failed += 1
            continue
        summary.compact += not found.lines and found.whole
        summary.partial += not found.whole
        numbers += [number] * len(found.lines)
        lines += found.lines
    summary.count += len(lines)
    summary.length_m += sum(line.length_m for line in lines)
    return numbers, lines


def _line_style(colour: tuple[int, int, int]) -> str:
    """QML: a line of the class's colour, half a millimetre wide."""
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ET.SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0", enableorderby="0", forceraster="0")
    symbol = ET.SubElement(
        ET.SubElement(renderer, "symbols"), "symbol", type="line", name="0", alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleLine", "enabled": "1", "locked": "0", "pass": "0"})
    options = ET.SubElement(layer, "Option", type="Map")
    settings = {"line_color": f"{','.join(map(str, colour))},255", "line_style": "solid", "line_width": "0.5", "line_width_unit": "MM"}
    for key, text in settings.items():
        ET.SubElement(options, "Option", type="QString", name=key, value=text)
        ET.SubElement(layer, "prop", k=key, v=text)  # read by QGIS before 3.26
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ET.tostring(root, encoding="unicode")
