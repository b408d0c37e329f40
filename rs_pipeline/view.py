"""A run's folder as a small web site of this machine alone: its report, with tiles for what is too fine for one file."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.products import MANIFEST, REPORT
from rs_pipeline.report.page import build_page
from rs_pipeline.run_folder import read_run
from rs_pipeline.view_tiles import MAX_ZOOM, RunTiles

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
_TILE = re.compile(r"/tiles/([a-z]+)/(\d{1,2})/(\d{1,8})/(\d{1,8})\.png")


class RunServer(ThreadingHTTPServer):
    """Serves one finished run to browsers on this machine; `serve_forever` begins, `shutdown` ends.

    Parameters
    ----------
    folder: of the run.
    port: 0: any that is free.

    Raises
    ------
    OutputError: no finished run is there, or its `run.json` is damaged. UsageError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        summary = read_run(folder).manifest
        self.folder = folder
        try:
            self.tiles = RunTiles(folder, summary)
            self.page = _with_tiles(_report(folder, summary)).encode()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            came = f"{folder / MANIFEST} ({type(error).__name__}: {error})"
            raise OutputError("a run.json as a run leaves it", came, "It is damaged: run again with --set overwrite=true.") from error
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError("a port that is free", f"{port} ({error})", "Choose another with --port; 0 takes any.") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers drop what they no longer want to see: nothing to tell."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Address of the report."""
        return f"http://{HOST}:{self.server_address[1]}/"


def _report(folder: Path, summary: dict[str, Any]) -> str:
    """The run's report; drawn now where the run has none."""
    path = folder / REPORT
    return path.read_text(encoding="utf-8", errors="replace") if _is_own(path) else build_page(folder, summary, None)


def _is_own(path: Path) -> bool:
    """Whether a file lies in the folder itself: a link may lead to anything on this machine."""
    return path.is_file() and not path.is_symlink()


def _with_tiles(page: str) -> str:
    """Tell a report's script of the tiles."""
    # Labels are on the map from the start where it lacks polygons.
    layers = [
        {"name": "scenes, all pixels", "url": "/tiles/scenes/{z}/{x}/{y}.png", "isOn": True, "opacity": 1},
        {"name": "labels, all pixels", "url": "/tiles/labels/{z}/{x}/{y}.png", "opacity": 0.5},
    ]
    return page.replace('<html lang="en">', f'<html lang="en" data-tiles="{html.escape(json.dumps(layers))}">', 1)


class _Handler(BaseHTTPRequestHandler):
    server: RunServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # Another site's name may be made to mean this machine: its pages must not read the run.
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name not in _NAMES:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(self.server.page, "text/html; charset=utf-8")
        elif (tile := _TILE.fullmatch(path)) is not None:
            self._send_tile(tile[1], int(tile[2]), int(tile[3]), int(tile[4]))
        else:
            self._send_file(unquote(path).removeprefix("/"))

    def _send_tile(self, kind: str, zoom: int, column: int, row: int) -> None:
        make = self.server.tiles.kinds.get(kind)
        if make is None or zoom > MAX_ZOOM or max(column, row) >= 2**zoom:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            png = make(zoom, column, row)
        except Exception as error:  # noqa: BLE001 - one tile of an image that is gone or damaged; the server goes on
            self.send_error(HTTPStatus.NOT_FOUND, explain=str(error))
            return
        if png is None:
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            self._send(png, "image/png")

    def _send_file(self, name: str) -> None:
        """A file that lies in the folder itself: no other name is ever looked up."""
        files = {path.name: path for path in self.server.folder.iterdir() if _is_own(path)}
        if name not in files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with files[name].open("rb") as file:
            self._send_head(files[name].stat().st_size, "application/octet-stream")
            shutil.copyfileobj(file, self.wfile)

    def _send(self, body: bytes, kind: str) -> None:
        self._send_head(len(body), kind)
        self.wfile.write(body)

    def _send_head(self, size: int, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing of every tile."""
