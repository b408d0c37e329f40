"""Finished tiles on disk, keyed by content: what is there is done, and is never computed again.

One `.npy` per tile, written aside, synced, and renamed in, so that a file under its name is whole. A tile without data
leaves an empty marker. Workers on any host write; whoever has the folder reads.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.errors import StoreError
from rs_pipeline.grid import Window
from rs_pipeline.tiles import Tile

_NAME = re.compile(r"t(\d+)\.(npy|empty)$")


@dataclass(frozen=True)
class TileStore:
    """The tiles of one key."""

    folder: Path

    def write(self, tile: Tile, scores: NDArray[np.uint8]) -> None:
        """Keep a tile's scores, (bands, halo height, halo width) uint8. Writing twice is harmless.

        Raises
        ------
        StoreError: the folder cannot be written.
        """
        if scores.shape[1:] != tile.halo.shape or scores.dtype != np.uint8:
            raise ValueError(f"tile {tile.index} holds {tile.halo.shape} uint8, got {scores.shape[1:]} {scores.dtype}")
        self._put(self._path(tile, "npy"), scores)

    def write_empty(self, tile: Tile) -> None:
        """Keep that a tile was looked at and has no data."""
        self._put(self._path(tile, "empty"), None)

    def read(self, tile: Tile, part: Window) -> NDArray[np.uint8] | None:
        """(bands, H, W) uint8 of a window inside the tile's halo; None where the tile is not there or has no data.

        Raises
        ------
        StoreError: the file is not what was written.
        """
        path = self._path(tile, "npy")
        try:
            scores: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError("a tile as it was written", f"{path} ({error})", "Delete it and run again.") from error
        rows, cols = part.slices(tile.halo)
        return scores[:, rows, cols]

    def done(self) -> dict[int, bool]:
        """Tiles that need no more work: index to whether it holds data. One listing of the folder."""
        found: dict[int, bool] = {}
        for path in self.folder.glob("r*/t*"):
            match = _NAME.match(path.name)
            if match:
                found[int(match[1])] = match[2] == "npy"
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one run; the system lets go when the process ends, however it ends.

        Raises
        ------
        StoreError: another run holds it, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / "lock").open("w")
        except OSError as error:
            raise StoreError("a tile store that can be written", f"{self.folder} ({error})", "Check permissions and disk space.") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError("one run at a time of the same inputs", f"another that holds {self.folder}", "Wait for it.") from error
            for half_written in (*self.folder.glob("r*/.t*"), *self.folder.glob("job-*.tmp")):
                half_written.unlink(missing_ok=True)
            yield

    def _path(self, tile: Tile, suffix: str) -> Path:
        return self.folder / f"r{tile.row:05d}" / f"t{tile.index:08d}.{suffix}"

    def _put(self, path: Path, scores: NDArray[np.uint8] | None) -> None:
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                if scores is not None:
                    np.save(file, scores, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise StoreError("room to keep a tile", f"{path} ({error})", "Free disk space and run again: what is done stays.") from error
