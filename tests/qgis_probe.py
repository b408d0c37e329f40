"""Opens a run folder in QGIS, headless, and prints what it shows of it as JSON: `/usr/bin/python3 qgis_probe.py FOLDER PICTURE SIDE`.

Runs in QGIS's own Python, which has none of this project. PICTURE is a map of all class layers, a pixel per pixel of labels.tif.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from osgeo import ogr
from qgis.core import (
    Qgis,
    QgsApplication,
    QgsFeatureSource,
    QgsMapRendererCustomPainterJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize, Qt
from qgis.PyQt.QtGui import QColor, QImage, QPainter


def describe_vector(layer):
    renderer = layer.renderer()
    symbols = renderer.symbols(QgsRenderContext())
    return {
        "valid": layer.isValid(),
        "features": layer.featureCount(),
        "crs": layer.crs().authid(),
        "legend": [item.label() for item in renderer.legendSymbolItems()],
        "fill": [symbol.symbolLayer(0).fillColor().getRgb() for symbol in symbols],
        "outline": [symbol.symbolLayer(0).strokeColor().getRgb() for symbol in symbols],
        "labels": layer.labelsEnabled(),
        "title": layer.metadata().title(),
        "abstract": layer.metadata().abstract(),
        "licences": layer.metadata().licenses(),
        "index": layer.hasSpatialIndex() == QgsFeatureSource.SpatialIndexPresent,
    }


def describe_raster(layer):
    return {
        "valid": layer.isValid(),
        "renderer": layer.renderer().type(),
        "bands": [layer.bandName(band) for band in range(1, layer.bandCount() + 1)],
        "legend": [[item.label, item.color.getRgb()] for item in layer.renderer().classes()] if layer.bandCount() == 1 else None,
    }


def draw(layers, extent, side, path):
    """Without smoothing: a pixel is all of one colour."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(*side))
    settings.setDestinationCrs(layers[0].crs())
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    image = QImage(QSize(*side), QImage.Format_ARGB32)
    image.fill(Qt.transparent)
    painter = QPainter(image)
    job = QgsMapRendererCustomPainterJob(settings, painter)
    job.renderSynchronously()
    painter.end()
    image.save(path)


def main(folder, picture):
    package = f"{folder}/layers.gpkg"
    names = [layer.GetName() for layer in ogr.Open(package) if layer.GetName() != "layer_styles"]
    layers = {name: QgsVectorLayer(f"{package}|layername={name}", name, "ogr") for name in names}
    labels = QgsRasterLayer(f"{folder}/labels.tif", "labels")
    scores = QgsRasterLayer(f"{folder}/scores.tif", "scores")
    side = (labels.width(), labels.height())
    for name, layer in layers.items():
        if name not in {"coverage", "scenes"}:
            draw([layer], labels.extent(), side, f"{picture}.{name}.png")
    draw([labels], labels.extent(), side, f"{picture}.labels.png")
    beside = sorted(path for path in Path(folder).iterdir() if path.suffix in {".fgb", ".geojson"})
    opened = {path.name: QgsVectorLayer(str(path), path.stem, "ogr") for path in beside}
    sys.stdout.write(
        json.dumps(
            {
                "version": Qgis.QGIS_VERSION,
                "layers": {name: describe_vector(layer) for name, layer in layers.items()},
                "labels": describe_raster(labels),
                "scores": describe_raster(scores),
                "files": {name: [layer.isValid(), layer.featureCount(), layer.crs().authid()] for name, layer in opened.items()},
            }
        )
    )


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # QGIS crashes when Python tears it down
