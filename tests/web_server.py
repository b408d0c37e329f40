"""A web server of one folder that knows ranges and ETags, as object stores do, and writes down what it is asked.

A process of its own: GDAL waits for its answers without letting other threads run. It is told what to do by files beside the folder.
"""

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    def parse_request(self):
        parsed = super().parse_request()
        folder = Path(self.directory)
        self.told = json.loads(folder.with_suffix(".told").read_text())
        with folder.with_suffix(".asked").open("a") as asked:
            asked.write(f"{self.command} {self.path}\n")
        time.sleep(self.told["delay_s"])
        return parsed

    def send_head(self):
        if self.told["broken"]:
            self.send_error(503)
            return None
        return super().send_head()

    def do_GET(self):
        span, path = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")), Path(self.translate_path(self.path))
        if span is None or not path.is_file():
            self.count(path.stat().st_size if path.is_file() else 0)
            super().do_GET()
            return
        content = path.read_bytes()
        start, stop = int(span[1]), min(int(span[2] or len(content)), len(content) - 1) + 1
        self.count(stop - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(content[start:stop])

    def count(self, sent):
        with Path(self.directory).with_suffix(".sent").open("a") as log:
            log.write(f"{sent} {self.path}\n")

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        if self.told["etag"] is not None:
            self.send_header("ETag", self.told["etag"])
        super().end_headers()

    def send_header(self, keyword, value):
        if keyword != "Last-Modified" or self.told["dates"]:
            super().send_header(keyword, value)

    def log_message(self, *args):
        pass


class Server:
    """What a test holds of it."""

    def __init__(self, folder):
        self.folder, self.url = folder, ""
        self.tell()

    def tell(self, *, etag=None, broken=False, dates=True, delay_s=0.0):
        told = self.folder.with_suffix(".told")
        aside = told.with_suffix(".aside")
        aside.write_text(json.dumps({"etag": etag, "broken": broken, "dates": dates, "delay_s": delay_s}))
        aside.replace(told)

    def asked(self):
        """Lines of method and path."""
        log = self.folder.with_suffix(".asked")
        return log.read_text().splitlines() if log.exists() else []

    def sent(self, name):
        """Bytes of a file that were sent, so far."""
        log = self.folder.with_suffix(".sent")
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return sum(int(size) for size, path in lines if path == f"/{name}")


@contextmanager
def serving(folder):
    server = Server(folder)
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        server.url = process.stdout.readline().strip()
        yield server
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    listening = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1]))
    print(f"http://127.0.0.1:{listening.server_port}", flush=True)  # noqa: T201
    listening.serve_forever()
