"""A source of any size that is small on disk and full of objects, and a model that finds them pixel by pixel. For `bench/scale.py`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from rs_pipeline.classes import ClassSet
from rs_pipeline.options import ModelOptions
from rs_pipeline.segmenter import ModelInfo

SOURCE = "source.vrt"
PERIOD_PX = 2500
BLUR_PX = 12.0
"""Of the noise: blobs of about this radius, some 500 objects per megapixel."""
THRESHOLD = 0.85
"""Least score of every class: each covers a few percent, so that no object crosses the whole source."""
CLASSES = ("road", "water", "building", "vegetation", "land")


def write_source(folder: Path, size_px: int) -> None:
    """Write SOURCE into a folder: `size_px` squared, 0.5 m pixels, a seeded GeoTIFF repeated whose pattern has no seam."""
    period = folder / "period.tif"
    _write_period(period)
    repeat(period, folder / SOURCE, size_px, size_px)


def repeat(image: Path, target: Path, height: int, width: int) -> None:
    """Write a GDAL VRT of `height` x `width` pixels that is a uint8 RGB image again and again, from its upper left corner."""
    with rasterio.open(image) as source:
        shape, blocks = (source.height, source.width), source.block_shapes[0]
        place = f"<SRS>{source.crs.to_string()}</SRS><GeoTransform>{', '.join(map(repr, source.transform.to_gdal()))}</GeoTransform>"
    file = (
        f"<SourceFilename>{image.resolve()}</SourceFilename><SourceBand>BAND</SourceBand>"
        f'<SourceProperties RasterXSize="{shape[1]}" RasterYSize="{shape[0]}" DataType="Byte" '
        f'BlockXSize="{blocks[1]}" BlockYSize="{blocks[0]}"/>'
    )
    parts = []
    for row, col in product(range(0, height, shape[0]), range(0, width, shape[1])):
        size = f'xSize="{min(shape[1], width - col)}" ySize="{min(shape[0], height - row)}"'
        rectangles = f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{col}" yOff="{row}" {size}/>'
        parts.append(f"<SimpleSource>{file}{rectangles}</SimpleSource>")
    sources = "".join(parts)
    bands = (
        f'<VRTRasterBand dataType="Byte" band="{i}"><ColorInterp>{name}</ColorInterp>{sources.replace("BAND", str(i))}</VRTRasterBand>'
        for i, name in enumerate(("Red", "Green", "Blue"), 1)
    )
    target.write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{place}{"".join(bands)}</VRTDataset>')


def _write_period(path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, PERIOD_PX, PERIOD_PX), np.float32)
    smooth = gaussian_filter(noise, (0, BLUR_PX, BLUR_PX), mode="wrap")
    pixels = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    shape = {"count": 3, "height": PERIOD_PX, "width": PERIOD_PX, "dtype": "uint8", "tiled": True, "compress": "zstd"}
    place = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)}
    with rasterio.open(path, "w", driver="GTiff", blockxsize=512, blockysize=512, photometric="rgb", **shape, **place) as file:
        file.write(pixels)
        file.build_overviews([2, 4, 8, 16, 32], rasterio.enums.Resampling.nearest)  # a sample then has the values of the whole


class Pointwise:
    """Classes are where red is high, red is low, green is high, green is low, blue is high."""

    def segment(self, images: NDArray[np.float32], valid: NDArray[np.bool_], classes: ClassSet) -> NDArray[np.float32]:  # noqa: ARG002 - the protocol's
        """Scores (N, K, H, W) of the first K of five."""
        red, green, blue = images[:, 0], images[:, 1], images[:, 2]
        return np.stack([red, 1 - red, green, 1 - green, blue][: len(classes)], axis=1)


@dataclass(frozen=True)
class Provider:
    """Of `Pointwise`."""

    description = "where bands are high or low"

    def info(self) -> ModelInfo:
        """Tiles as rs-tiny's."""
        return ModelInfo(
            name="pattern",
            weights_sha256="0" * 64,
            gsd_m=0.5,
            gsd_range_m=(0.25, 2.0),
            tile_px=512,
            vocabulary=None,
            fuller_model=None,
        )

    def load(self, options: ModelOptions, threads: int | None) -> Pointwise:  # noqa: ARG002 - the protocol's
        """At once."""
        return Pointwise()


def provider(folder: Path | None) -> Provider:  # noqa: ARG001 - the protocol's
    """What `--model pattern:provider` names."""
    return Provider()
