"""Finished tiles, keyed by content: what is there is done, and is never computed again.

One `.npy` per tile, whole or not there. A tile without data leaves an empty marker. Workers on any host write; whoever
reaches the place reads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from numpy.typing import NDArray

from rs_pipeline.errors import StoreError
from rs_pipeline.grid import Window
from rs_pipeline.places import Place, open_place
from rs_pipeline.tiles import Tile

_TILE = re.compile(r"r\d+/t(\d+)\.(npy|empty)$")
_HALF_WRITTEN = re.compile(r"(.*/)?\.[^/]+\.\d+$")


class TileStore:
    """The tiles of the classes that are computed together.

    Parameters
    ----------
    where: place, path or URL.

    Raises
    ------
    StoreError: a URL that nothing installed can read.
    """

    def __init__(self, where: Place | str | Path) -> None:
        self.place = open_place(where) if isinstance(where, str | Path) else where

    def write(self, tile: Tile, scores: NDArray[np.uint8]) -> None:
        """Keep a tile's scores, (bands, halo height, halo width) uint8. Writing twice is harmless.

        Raises
        ------
        StoreError: the store cannot be written.
        """
        if scores.shape[1:] != tile.halo.shape or scores.dtype != np.uint8:
            raise ValueError(f"tile {tile.index} holds {tile.halo.shape} uint8, got {scores.shape[1:]} {scores.dtype}")
        # As np.save would write it, without a copy.
        header, pixels = io.BytesIO(), np.ascontiguousarray(scores)
        write_array_header_1_0(header, header_data_from_array_1_0(pixels))
        self.place.write(_name(tile, "npy"), header.getvalue(), pixels.data)

    def write_empty(self, tile: Tile) -> None:
        """Keep that a tile was looked at and has no data."""
        self.place.write(_name(tile, "empty"), b"")

    def read(self, tile: Tile, part: Window) -> NDArray[np.uint8] | None:
        """(bands, H, W) uint8 of a window inside the tile's halo; None where the tile is not there or has no data.

        Raises
        ------
        StoreError: the store cannot be read, or the file is not what was written.
        """
        scores = self.place.load(_name(tile, "npy"))
        if scores is None:
            return None
        rows, cols = part.slices(tile.halo)
        return scores[:, rows, cols]

    def done(self) -> dict[int, bool]:
        """Tiles that need no more work: index to whether it holds data. One listing of the place."""
        found = (_TILE.match(name) for name in self.place.names())
        return {int(match[1]): match[2] == "npy" for match in found if match}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one run, and take away what a killed one had not finished writing.

        Raises
        ------
        StoreError: another run holds it, or it cannot be made.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.place.hold())
            except BlockingIOError as error:
                came = f"another that holds {self.place.where}"
                raise StoreError("one run at a time of the same inputs", came, "Wait for it.") from error
            if self.place.has_locks:
                for name in filter(_HALF_WRITTEN.match, list(self.place.names())):
                    self.place.remove(name)
            yield


def _name(tile: Tile, suffix: str) -> str:
    return f"r{tile.row:05d}/t{tile.index:08d}.{suffix}"
