"""`rs-seg`, as a process of its own."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys

from rs_pipeline.cli import main

_M_ARENA_MAX = -8
"""A parameter of glibc's mallopt(3)."""


def command() -> None:
    """Run the command and leave at once: taking the models' libraries apart, module by module, would take two seconds more."""
    share_one_heap()
    try:
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    atexit._run_exitfuncs()  # noqa: SLF001 - what libraries asked to be done at the end is done
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def share_one_heap() -> None:
    """One heap for all threads, before there are any, and for the worker processes that are started.

    The heaps that glibc gives to threads hold no large blocks: every tensor of a model in a thread would be mapped afresh and cleared by
    the kernel, a tenth of a run's CPU time. Elsewhere than on glibc, nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


if __name__ == "__main__":
    command()
