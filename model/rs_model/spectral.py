"""Labels from the near infrared: what four-band imagery says of itself about green, wet and dry ground.

Plants reflect the near infrared that they do not use, water swallows it (NDVI: Rouse et al. 1974; NDWI: McFeeters 1996). The
model sees red, green and blue alone; the fourth band only labels. What lies between the cuts is left unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from rs_model.labels import CLASSES, DRY, IGNORE
from rs_model.scenes import Scene, find_files, stretch
from rs_pipeline.errors import TrainingError

GREEN_NDVI = 0.18
DRY_NDVI, DRY_NDWI = 0.06, 0.02
"""Below both of them ground is neither green nor wet."""
WET_NDVI, WET_NDWI, WET_INFRARED = -0.1, 0.25, 50
"""Water lies below the first, above the second, and is darker than the third in the near infrared (digital numbers): concrete
passes the ratios, but is bright."""
LAND, VEGETATION, WATER = (CLASSES.index(name) for name in ("land", "vegetation", "water"))
FARMLAND = "naip_nd_timeseries"
"""Lakes and fields at 5 m, ten dates: what is dry there is bare soil."""
SINGLE_BANDS = "naip_small/NAIP-VA-b{}.tiff"
CROPS = ("m_3211605_ne_11_060_20200415.tif", "m_3607717_sw_18_1_20160620_subset.tif", "m_3607824_se_17_1_20160620_subset.tif")
"""Of naip_small, those at 0.6 and 1 m with all four bands: a desert highway, a shore, a forest."""


def read_spectral(root: Path) -> Iterator[Scene]:
    """NAIP scenes of red, green, blue and near infrared, labelled by their own bands."""
    for path in find_files(root / FARMLAND, "*.tif"):
        yield _scene(f"farmland {path.stem}", _read(path), dry=LAND)
    lake = np.concatenate([_read(root / SINGLE_BANDS.format(band)) for band in (1, 2, 3, 4)])
    yield _scene("forest lake", lake, dry=DRY)
    for name in CROPS:
        yield _scene(name, _read(root / "naip_small" / name), dry=DRY)


def label(bands: NDArray[np.uint8], dry: int) -> NDArray[np.uint8]:
    """(4, H, W) uint8 red, green, blue, near infrared → (H, W) codes; `dry` is the code of what is neither green nor wet."""
    red, green, _, infrared = bands.astype(np.float32)
    ndvi, ndwi = (infrared - red) / (infrared + red + 1), (green - infrared) / (green + infrared + 1)
    codes = np.full(red.shape, IGNORE, np.uint8)
    codes[ndvi > GREEN_NDVI] = VEGETATION
    codes[(ndvi < DRY_NDVI) & (ndwi < DRY_NDWI)] = dry
    codes[(ndvi < WET_NDVI) & (ndwi > WET_NDWI) & (infrared < WET_INFRARED)] = WATER
    codes[(bands == 0).all(0)] = IGNORE
    return codes


def _scene(name: str, bands: NDArray[np.uint8], dry: int) -> Scene:
    return Scene(f"spectral {name}", stretch(np.moveaxis(bands[:3], 0, -1)), label(bands, dry))


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with rasterio.open(path) as image:
            return np.asarray(image.read(), np.uint8)
    except RasterioIOError as error:
        raise TrainingError("a readable image", f"{path} ({error})", "Fetch the data set again.") from error
