"""Draws maps with their legends as QGIS shows them, headless: `/usr/bin/python3 qgis_pictures.py < SPECIFICATION`.

Runs in QGIS's own Python, which has none of this project. The specification is a JSON list of pictures: `path`; `extent`, west, south,
east and north in `crs`; `layers`, the uppermost first, each with `source` as QGIS takes it, `name`, and perhaps `band`, to show it alone,
and `legend`. Styles are those that come with the files.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsCoordinateReferenceSystem,
    QgsLayerTree,
    QgsLayout,
    QgsLayoutExporter,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsLegendStyle,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsSingleBandGrayRenderer,
    QgsUnitTypes,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QFont

WIDTH_MM, HEIGHT_MM, LEGEND_MM, DPI = 170, 105, 58, 130


def opened(wanted):
    raster = wanted["source"].endswith(".tif")
    layer = QgsRasterLayer(wanted["source"], wanted["name"]) if raster else QgsVectorLayer(wanted["source"], wanted["name"], "ogr")
    if not layer.isValid():
        raise SystemExit(f"QGIS cannot open {wanted['source']}")
    if "band" in wanted:
        grey = QgsSingleBandGrayRenderer(layer.dataProvider(), wanted["band"])
        stretch = QgsContrastEnhancement(layer.dataProvider().dataType(wanted["band"]))
        stretch.setContrastEnhancementAlgorithm(QgsContrastEnhancement.StretchToMinimumMaximum)
        stretch.setMinimumValue(0)
        stretch.setMaximumValue(254)
        grey.setContrastEnhancement(stretch)
        layer.setRenderer(grey)
    return layer


def draw(picture):
    project = QgsProject()
    crs = QgsCoordinateReferenceSystem(picture["crs"])
    project.setCrs(crs)
    layers = [opened(wanted) for wanted in picture["layers"]]
    project.addMapLayers(layers)
    layout = QgsLayout(project)
    layout.initializeDefaults()
    layout.pageCollection().page(0).setPageSize(QgsLayoutSize(WIDTH_MM, HEIGHT_MM, QgsUnitTypes.LayoutMillimeters))

    sheet = QgsLayoutItemMap(layout)
    sheet.attemptMove(QgsLayoutPoint(0, 0))
    sheet.attemptResize(QgsLayoutSize(WIDTH_MM - LEGEND_MM, HEIGHT_MM))
    sheet.setCrs(crs)
    sheet.setLayers(layers)
    sheet.zoomToExtent(QgsRectangle(*picture["extent"]))
    layout.addLayoutItem(sheet)

    tree = QgsLayerTree()
    for layer, wanted in zip(layers, picture["layers"], strict=True):
        if wanted.get("legend", True):
            tree.addLayer(layer)
    legend = QgsLayoutItemLegend(layout)
    legend.setAutoUpdateModel(False)
    legend.model().setRootGroup(tree)
    for kind in (QgsLegendStyle.Title, QgsLegendStyle.Group, QgsLegendStyle.Subgroup, QgsLegendStyle.SymbolLabel):
        style = legend.style(kind)
        font = style.font()
        font.setFamily("DejaVu Sans")
        font.setPointSizeF(8)
        style.setFont(QFont(font))
        legend.setStyle(kind, style)
    legend.attemptMove(QgsLayoutPoint(WIDTH_MM - LEGEND_MM + 2, 2))
    layout.addLayoutItem(legend)

    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = DPI
    if QgsLayoutExporter(layout).exportToImage(picture["path"], settings) != QgsLayoutExporter.Success:
        raise SystemExit(f"QGIS cannot write {picture['path']}")


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    for picture in json.load(sys.stdin):
        draw(picture)
    sys.stdout.flush()
    os._exit(0)  # QGIS crashes when Python tears it down
