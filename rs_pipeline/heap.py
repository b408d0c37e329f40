"""What becomes of memory that is free; on glibc, elsewhere little."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

_M_ARENA_MAX = -8
"""A parameter of glibc's mallopt(3)."""


def share_one_heap() -> None:
    """One heap for all threads, before there are any, and for the worker processes that are started.

    The heaps that glibc gives to threads hold no large blocks: every tensor of a model in a thread would be mapped afresh and cleared by
    the kernel, a tenth of a run's CPU time. Arrow's rows come from there too: a pool of its own would keep what it once had.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    glibc = _glibc()
    if glibc is not None:
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        glibc.mallopt(_M_ARENA_MAX, 1)


def give_back_free_memory() -> None:
    """Give the system what is free between blocks that are not: what comes next asks for other sizes, and would grow the heap."""
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
