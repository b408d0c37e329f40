"""`rs-seg`, as a process of its own."""

from __future__ import annotations

import atexit
import os
import sys

from rs_pipeline.cli import main
from rs_pipeline.heap import share_one_heap


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


if __name__ == "__main__":
    command()
