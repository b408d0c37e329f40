"""What changes when an image changes: sizes and times of files, what a server says of an object."""

from __future__ import annotations

import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

_TIMEOUT_S = 5.0
_asked: dict[str, tuple[float, str]] = {}
"""URL to when it was asked last, and the answer: servers are not asked for every batch of tiles."""


def fingerprint(href: str, *, max_age_s: float = 0.0) -> str:
    """Sizes and modification times of a local file and its sidecars; ETag, or date and length, of an object behind http(s).

    Parameters
    ----------
    href: path or URL, as GDAL takes it.
    max_age_s: an answer of a server that is no older will do.

    Returns
    -------
    Empty where nothing is known: no such file, a server that does not say, another kind of URL.
    """
    url = href.removeprefix("/vsicurl/")
    return _of_object(url, max_age_s) if url.startswith(("http://", "https://")) else _of_files(Path(href))


def has_changed(href: str, before: str, *, max_age_s: float = 0.0) -> bool:
    """Whether an image is another one than when `before` was its fingerprint. A server that does not answer has changed nothing."""
    now = fingerprint(href, max_age_s=max_age_s)
    known = now and before if "://" in href else True
    return bool(known) and now != before


def _of_files(path: Path) -> str:
    if not path.is_file():
        return ""
    sidecars = [path.with_name(path.name + suffix) for suffix in (".aux.xml", ".msk", ".ovr")]
    sidecars += [path.with_suffix(suffix) for suffix in (".tfw", ".tifw", ".wld")]
    stats = [p.stat() for p in (path, *sidecars) if p.is_file()]
    return "+".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats)


def _of_object(url: str, max_age_s: float) -> str:
    if url in _asked:
        when, answer = _asked[url]
        if time.monotonic() - when < max_age_s:
            return answer
    answer = _ask(url)
    _asked[url] = time.monotonic(), answer
    return answer


def _ask(url: str) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http and https alone come here
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            headers = reply.headers
    except (OSError, ValueError, HTTPException):  # URLError is an OSError
        return ""
    if headers.get("ETag"):
        return str(headers["ETag"])
    modified, length = headers.get("Last-Modified"), headers.get("Content-Length")
    return f"{modified} {length}" if modified and length else ""
