"""Locks on files and folders; the system lifts them when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_S = 0.3
"""Who only looks whether a lock is held holds it for a moment; that must refuse nobody."""
_PAUSE_S = 0.02


@contextmanager
def hold(path: Path, *, shared: bool = False, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold a folder, or a file that is made if need be: alone, or with others that hold it `shared`.

    Raises
    ------
    BlockingIOError: another process holds it.
    OSError: it cannot be opened.
    """
    handle = _take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + patience_s)
    try:
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """True where a process holds the file or folder, shared or not; nothing is made."""
    if not path.exists():
        return False
    try:
        with hold(path, patience_s=0):
            return False
    except BlockingIOError:
        return True


def _take(path: Path, kind: int, deadline: float) -> int:
    """A handle that holds what is under the name now, not what was removed from under it while we waited."""
    while True:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _is_locked(handle, kind) and _is_under(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() > deadline:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it", str(path))
        time.sleep(_PAUSE_S)


def _is_locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_under(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
