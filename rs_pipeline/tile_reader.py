"""The scenes of a plan, read tile by tile: composited, stretched, resampled to the grid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.job import SceneJob
from rs_pipeline.scene_reader import BlockCache, SceneReader
from rs_pipeline.tiles import Tile, TilePlan

_OPEN_SCENES = 16


@dataclass(frozen=True, slots=True)
class SeenTile:
    """What of a tile was seen, and where."""

    tile: Tile
    valid: NDArray[np.bool_]
    """(H, W) of the tile's context."""
    sources: NDArray[np.uint8]
    """(H, W) index of the scene each pixel comes from; 255 is none."""


class TileReader:
    """Tiles of a plan with the files of its scenes open, for one thread at a time.

    Parameters
    ----------
    scenes: on top first.
    """

    def __init__(self, plan: TilePlan, scenes: Sequence[SceneJob]) -> None:
        self._plan, self._scenes = plan, scenes
        self._cache = BlockCache()
        self._readers: OrderedDict[int, SceneReader] = OrderedDict()
        reach = [2 * max(plan.grid.gsd_m, s.info.gsd_m) for s in scenes]
        self._footprints = [s.info.outline(plan.grid.crs).buffer(r) for s, r in zip(scenes, reach, strict=True)]
        """Outlines in the grid's CRS, two pixels wider, so that resampling at their edge is not cut; empty ones may be anywhere."""

    def read_tile(self, tile: Tile) -> tuple[SeenTile, NDArray[np.float32]]:
        """The scenes composited over a tile's context: the first of the scenes that saw a pixel gives it.

        Returns
        -------
        What was seen, and the image (3, H, W) float32, stretched to [0, 1].
        """
        window = tile.context
        outline = shapely.box(*self._plan.grid.crop(window).bounds)
        image = np.zeros((3, *window.shape), np.float32)
        sources = np.full(window.shape, NOT_OBSERVED, np.uint8)
        for index, scene in enumerate(self._scenes):
            footprint = self._footprints[index]
            if not (footprint.is_empty or footprint.intersects(outline)):
                continue
            values, valid = self._reader(index).read(window)
            fresh = valid & (sources == NOT_OBSERVED)
            stretched = scene.stretch.apply(values, fresh)
            image = stretched if fresh.all() else np.where(fresh, stretched, image)
            sources[fresh] = index
            if (sources != NOT_OBSERVED).all():
                break
        return SeenTile(tile, sources != NOT_OBSERVED, sources), image

    def close(self) -> None:
        """Close all files; they are opened again when they are needed."""
        while self._readers:
            self._readers.popitem()[1].close()
        self._cache = BlockCache()

    def _reader(self, index: int) -> SceneReader:
        if index in self._readers:
            self._readers.move_to_end(index)
            return self._readers[index]
        scene = self._scenes[index]
        self._readers[index] = SceneReader(scene.info, scene.bands, self._plan.grid, scene.opaque, self._cache)
        if len(self._readers) > _OPEN_SCENES:
            self._readers.popitem(last=False)[1].close()
        return self._readers[index]
