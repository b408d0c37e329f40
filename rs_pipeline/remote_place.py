"""Tiles on an object store, through fsspec: one PUT for each, one listing for all of them, no locks.

Names say what is in them, so whoever writes a file that is there already writes the same bytes: two runs may share a store.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.errors import RsSegError, StoreError
from rs_pipeline.places import damaged

T = TypeVar("T")
CACHE_BYTES = 256_000_000
"""Tiles that a process keeps after it read them: stitching looks at most of them four times."""


class _Recent:
    """The tiles that were read last, up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes, self._lock = most_bytes, 0, threading.Lock()
        self._arrays: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def get(self, url: str) -> NDArray[np.uint8] | None:
        with self._lock:
            if url in self._arrays:
                self._arrays.move_to_end(url)
            return self._arrays.get(url)

    def put(self, url: str, array: NDArray[np.uint8]) -> None:
        with self._lock:
            self._drop(url)
            self._arrays[url] = array
            self._bytes += array.nbytes
            while self._bytes > self._most:
                self._drop(next(iter(self._arrays)))

    def forget(self, url: str) -> None:
        with self._lock:
            self._drop(url)

    def _drop(self, url: str) -> None:
        gone = self._arrays.pop(url, None)
        self._bytes -= gone.nbytes if gone is not None else 0


_RECENT = _Recent(CACHE_BYTES)


def connect(url: str) -> RemotePlace:
    """The place of a URL.

    Raises
    ------
    StoreError: nothing installed knows the scheme.
    """
    from fsspec.core import url_to_fs

    try:
        files, _ = url_to_fs(url)
    except ImportError as error:
        fix = "Install it, for s3:// with pip install 'rs-seg[s3]'."
        raise StoreError("the package that reads the store's URL", f"{url} ({error})", fix) from error
    except ValueError as error:
        raise StoreError("a path, or a URL such as s3://bucket/prefix", f"{url} ({error})", "Mend the setting `store`.") from error
    return RemotePlace(url.rstrip("/"), files)


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """A prefix of an object store; see `Place`."""

    where: str
    files: Any = field(compare=False, repr=False)
    """The fsspec file system."""
    has_locks = False

    @property
    def name(self) -> str:
        """Last part of the prefix."""
        return self.where.rpartition("/")[2]

    def at(self, name: str) -> RemotePlace:
        """See `Place`."""
        return RemotePlace(f"{self.where}/{name}", self.files)

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """See `Place`: one PUT."""
        _RECENT.forget(f"{self.where}/{name}")
        self._ask(lambda: self.files.pipe_file(self._path(name), b"".join(parts)))

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            data: bytes = self._ask(lambda: self.files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return data

    def load(self, name: str) -> NDArray[np.uint8] | None:
        """See `Place`: read whole, and kept for a while."""
        url = f"{self.where}/{name}"
        array = _RECENT.get(url)
        if array is None:
            data = self.read(name)
            if data is None:
                return None
            try:
                array = np.load(io.BytesIO(data), allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise damaged(url, error) from error
            _RECENT.put(url, array)
        return array

    def names(self) -> Iterator[str]:
        """See `Place`: one listing."""
        yield from self._found()

    def folders(self) -> list[str]:
        """See `Place`."""
        self.files.invalidate_cache()
        try:
            entries = self._ask(lambda: self.files.ls(self._path(), detail=True))
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")

    def size(self) -> int:
        """See `Place`."""
        return sum(self._found().values())

    def remove(self, name: str = "") -> None:
        """See `Place`."""
        self.files.invalidate_cache()
        try:
            self._ask(lambda: self.files.rm(self._path(name), recursive=True))
        except FileNotFoundError:
            return

    def remove_empty(self) -> None:
        """See `Place`: what is empty is not there."""

    @contextmanager
    def hold(self, *, shared: bool = False) -> Iterator[None]:  # noqa: ARG002 - as `Place` has it
        """Nobody is kept off."""
        yield

    def is_held(self) -> bool:
        """Nobody knows."""
        return False

    def _found(self) -> dict[str, int]:
        """Relative name to bytes of everything below."""
        self.files.invalidate_cache()
        try:
            entries = self._ask(lambda: self.files.find(self._path(), detail=True))
        except FileNotFoundError:
            return {}
        start = len(self._path()) + 1
        return {path[start:]: entry["size"] or 0 for path, entry in entries.items()}

    def _path(self, name: str = "") -> str:
        path: str = self.files._strip_protocol(f"{self.where}/{name}")  # noqa: SLF001 - what fsspec's own open calls
        return path.rstrip("/")

    def _ask(self, call: Callable[[], T]) -> T:
        """What a call of the file system gives.

        Raises
        ------
        FileNotFoundError: not there.
        StoreError: whatever else the network and its libraries raise.
        """
        try:
            return call()
        except (FileNotFoundError, RsSegError):
            raise
        except Exception as error:
            came = f"{self.where} ({type(error).__name__}: {' '.join(str(error).split())})"
            raise StoreError("a tile store that answers", came, "Check the network and run again: what is done stays.") from error
