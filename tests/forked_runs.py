"""Runs in processes that cost nothing to start: forked from one that has imported everything and done nothing.

`python forked_runs.py` reads one JSON object per line: settings of a run, and what the child is to suffer. It answers with the
child's process id at once, and with how the run ended when it has.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path


class Child:
    """A run in a process of its own."""

    def __init__(self, nursery, told):
        self._nursery = nursery
        nursery.stdin.write(json.dumps(told) + "\n")
        nursery.stdin.flush()
        self.pid = int(nursery.stdout.readline())
        self._handle = os.pidfd_open(self.pid)
        self.started = time.monotonic()

    def elapsed(self):
        """Seconds since it started."""
        return time.monotonic() - self.started

    def end(self):
        """Wait for it: its summary, the error it left with, or `killed`."""
        answer = json.loads(self._nursery.stdout.readline())
        os.close(self._handle)
        return answer

    def kill_after(self, seconds):
        """Kill it at a moment since it started, if it is still there; how it ended."""
        time.sleep(max(0.0, seconds - self.elapsed()))
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        return self.end()


@contextmanager
def nursery():
    """A function that starts a run of some flags: one at a time."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield lambda flags, sets=(), **suffers: Child(process, {"flags": flags, "sets": list(sets), **suffers})
        finally:
            process.kill()


def live(told):
    """What the child does; the answer goes to a file, since a killed child cannot say anything."""
    from rs_pipeline.config import load_settings
    from rs_pipeline.errors import RsSegError
    from rs_pipeline.run import run

    if "file_bytes" in told:
        resource.setrlimit(resource.RLIMIT_FSIZE, (told["file_bytes"], told["file_bytes"]))
    if told.get("mortal"):
        forget_to_be_root()
    # The run is not to know beforehand how little room there is.
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12)
    try:
        return {"summary": run(load_settings(None, told["flags"], told["sets"]))}
    except RsSegError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 - the test shall see it
        return {"error": "traceback", "message": f"{type(error).__name__}: {error}"}


def forget_to_be_root():
    """Give up the capabilities that let root write anywhere (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    for place in range(3):
        sets[place] &= ~0b1110
    assert libc.capset(header, sets) == 0


def main():
    import rs_pipeline.run  # noqa: F401 - what every child needs
    from rs_pipeline.cli import run as _  # noqa: F401

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            answer = live(json.loads(line))
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write((answer.decode() if status == 0 else json.dumps({"error": "killed", "message": str(status)})) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
