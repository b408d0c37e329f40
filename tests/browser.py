"""A headless Chromium for tests, driven through its DevTools protocol; it finds no host but this one."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_WAIT_S = 30


class Page:
    """The one page of a browser."""

    def __init__(self, socket):
        self._socket, self._ids = socket, itertools.count(1)
        self.requests, self.complaints = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_WAIT_S))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(event["params"]["exceptionDetails"])
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.complaints.append(event["params"]["entry"])

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.wait_for("document.documentElement?.dataset.ready === 'true'")

    def js(self, code):
        answer = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, code):
        for _ in range(10 * _WAIT_S):
            if self.js(code):
                return
            time.sleep(0.1)
        raise AssertionError(f"never: {code}")

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=" " if key == " " else "")

    def picture(self):
        """The bytes of a PNG of what is shown."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser_page(folder: Path):
    """A page of a browser that keeps its own files in `folder`; skips where no browser is installed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    from websockets.sync.client import connect

    process = subprocess.Popen([program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort", process)
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            address = next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")
        with connect(address, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(_WAIT_S)


def _port(file, process):
    for _ in range(10 * _WAIT_S):
        if file.is_file() and (lines := file.read_text().split()):
            return int(lines[0])
        assert process.poll() is None, "the browser ended"
        time.sleep(0.1)
    raise AssertionError("the browser did not start")
