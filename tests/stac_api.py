"""A real STAC API (rustac) of some items, for as long as the tests need it."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from socket import socket


def free_port():
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving_api(files):
    """Its address."""
    address = f"127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).with_name("rustac")), "serve", *map(str, files), "--addr", address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://{address}/")
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def wait_for(url, patience_s=30.0):
    deadline = time.monotonic() + patience_s
    while True:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.05)
        else:
            return
