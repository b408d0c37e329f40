"""Web map tiles of a run's rasters, read from their overviews by rio-tiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rs_pipeline.errors import UsageError
from rs_pipeline.fingerprints import has_changed
from rs_pipeline.raster import open_image

try:
    from rio_tiler.errors import EmptyMosaicError, TileOutsideBounds
    from rio_tiler.io import Reader
    from rio_tiler.models import ImageData
    from rio_tiler.mosaic import mosaic_reader
except ImportError as error:
    raise UsageError("what `rs-seg view` needs", f"no rio-tiler ({error})", "Install it: pip install 'rs-seg[view]'.") from error

_SAME_S = 60.0
"""An image behind a server is asked for so often whether it is the same."""
MAX_ZOOM = 24
"""Deepest tiles; their pixels are about a centimetre."""


class RunTiles:
    """Tiles of 256 × 256 pixels in Web Mercator, as PNGs, by zoom, column and row; None where a tile shows nothing.

    Raises
    ------
    RasterioError, OSError, RasterError: from every method, where an image cannot be read any more.
    """

    def __init__(self, folder: Path, summary: Mapping[str, Any]) -> None:
        self._labels = folder / "labels.tif"
        self._colours = {c["value"]: (*c["colour"], 255) for c in summary["classes"]}
        self._scenes = summary["scenes"]
        nodata = summary["settings"]["nodata"]
        self._nodata = {} if nodata is None else {"nodata": nodata}
        self.kinds: dict[str, Callable[[int, int, int], bytes | None]] = {"scenes": self.scenes, "labels": self.labels}

    def labels(self, zoom: int, column: int, row: int) -> bytes | None:
        """The classes in their colours; all else is transparent."""
        try:
            with Reader(str(self._labels)) as labels:
                tile = labels.tile(column, row, zoom, tilesize=256, indexes=1, resampling_method="nearest", reproject_method="nearest")
        except TileOutsideBounds:
            return None
        return _png(tile, colormap=self._colours)

    def scenes(self, zoom: int, column: int, row: int) -> bytes | None:
        """The scenes of the run as the model saw them, the first on top."""
        try:
            tile, _ = mosaic_reader(self._scenes, self._scene, column, row, zoom, threads=0)
        except EmptyMosaicError:
            return None
        return _png(tile)

    def _scene(self, scene: Mapping[str, Any], column: int, row: int, zoom: int) -> ImageData:
        # A run folder may be somebody else's: what its manifest names is opened if it is the very image, and a TIFF, and nothing else.
        if not scene["fingerprint"] or has_changed(scene["href"], scene["fingerprint"], max_age_s=_SAME_S):
            raise TileOutsideBounds("no longer the image of the run")
        with open_image(scene["href"], scene["fingerprint"], tiff=True) as image, Reader(None, dataset=image) as reader:
            tile = reader.tile(column, row, zoom, tilesize=256, indexes=scene["bands"], **self._nodata)
        low, high = scene["stretch"]["low"], scene["stretch"]["high"]
        stretched: ImageData = tile.rescale([(least, max(most, least + 1e-6)) for least, most in zip(low, high, strict=True)])
        return stretched


def _png(tile: ImageData, **options: Any) -> bytes:
    data: bytes = tile.render(img_format="PNG", **options)
    return data
