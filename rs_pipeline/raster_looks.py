"""How the label raster looks: names and colours of its values, for QGIS and for all that reads with GDAL.

GeoTIFF has no place for names: GDAL keeps them in a file beside it. QGIS takes a style of the same stem by itself.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, ClassSet
from rs_pipeline.errors import OutputError

LOOKS = (".qml", ".tif.aux.xml")
"""What the files that `write_looks` makes end in."""
_NOT_OBSERVED_NAME = "not observed"
_BACKGROUND_NAME = "background"


def write_looks(labels: Path, classes: ClassSet) -> None:
    """Write the style and the names beside a label raster, whose name ends in .tif; what is there is replaced.

    Raises
    ------
    OutputError: they cannot be written.
    """
    texts = (_style(classes), _names(classes))
    for suffix, text in zip(LOOKS, texts, strict=True):
        path = labels.with_name(labels.stem + suffix)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError("room to write the products", f"{path} ({error})", "Free disk space, or choose another --out.") from error


def _style(classes: ClassSet) -> str:
    """QML: classes in their colours, all else transparent."""
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ET.SubElement(
        ET.SubElement(root, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ET.SubElement(renderer, "rasterTransparency")
    palette = ET.SubElement(renderer, "colorPalette")
    for item in classes:
        colour = "#{:02x}{:02x}{:02x}".format(*item.colour)
        ET.SubElement(palette, "paletteEntry", value=str(item.value), color=colour, alpha="255", label=item.name)
    for value, name in ((BACKGROUND, _BACKGROUND_NAME), (NOT_OBSERVED, _NOT_OBSERVED_NAME)):
        ET.SubElement(palette, "paletteEntry", value=str(value), color="#000000", alpha="0", label=name)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ET.tostring(root, encoding="unicode") + "\n"


def _names(classes: ClassSet) -> str:
    """GDAL's category names, from value 0 on."""
    root = ET.Element("PAMDataset")
    names = ET.SubElement(ET.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in (_BACKGROUND_NAME, *classes.names):
        ET.SubElement(names, "Category").text = name
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
