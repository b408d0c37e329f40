"""A Prefect server of the tests' own, with a home and a database that are gone afterwards."""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from test_workers import free_port

PREFECT = str(Path(sys.executable).with_name("prefect"))


@contextmanager
def prefect_server(home):
    """Gives the environment of processes that are to find it."""
    port = free_port()
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }
    with (home / "server.log").open("w") as log:
        command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/health", process, home / "server.log")
            yield environment
        finally:
            stop(process)


def stop(process):
    """With manners; where SIGTERM is not heard (a shell's background job passes that on), without."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(url, process, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@contextmanager
def worker(pool, environment, folder, log):
    """A process worker of a pool, at work in a folder."""
    command, environment = (
        [PREFECT, "worker", "start", "--pool", pool, "--type", "process"],
        environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
    )
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=file)
        try:
            yield process
        finally:
            stop(process)
