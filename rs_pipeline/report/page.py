"""The page: what there is to see, put into one HTML file that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rs_pipeline.grid import Grid
from rs_pipeline.quicklook import WebPicture
from rs_pipeline.report import facts
from rs_pipeline.report.histogram import count_scores
from rs_pipeline.report.shapes import pack_layers, wanted_layers

_LEAFLET = "xstatic/pkg/leaflet/data"
_SCORE_PX = 2**24


def build_page(folder: Path, summary: Mapping[str, Any], picture: WebPicture | None) -> str:
    """The HTML of a run's report.

    Parameters
    ----------
    folder: holds the run's products.
    summary: what its `run.json` says. Names in it are anybody's: they are only ever shown as text.
    picture: lies below the layers; None: nothing does.

    Raises
    ------
    RsSegError: the products cannot be read.
    """
    layers = pack_layers(folder / "layers.gpkg", Grid.from_dict(summary["plan"]["grid"]), wanted_layers(summary))
    data = {"layers": layers, "picture": _picture(picture)}
    leaflet, script = _leaflet("leaflet.js"), _own("report.js")
    return Template(_own("report.html")).substitute(
        title=facts.text(f"{', '.join(c['name'] for c in summary['classes'])} · rs-seg"),
        policy=f"script-src {_hash(leaflet)} {_hash(script)}",
        # Pictures of controls that the page does not use.
        leaflet_css=re.sub(r"url\(images/[^)]*\)", "none", _leaflet("leaflet.css")),
        css=_own("report.css"),
        leaflet=leaflet,
        script=script,
        licence=facts.text(_own("leaflet_licence.txt")),
        data=_json(data),
        **facts.sections(summary, layers, count_scores(folder / "scores.tif", _SCORE_PX)),
    )


def _picture(picture: WebPicture | None) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {"bounds": picture.bounds, "url": f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"}


def _json(data: Any) -> str:
    """JSON in which nothing ends the element that it stands in."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(script: str) -> str:
    """How a content security policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _own(name: str) -> str:
    return files("rs_pipeline.report").joinpath(name).read_text(encoding="utf-8")


def _leaflet(name: str) -> str:
    """A file of Leaflet, as the package XStatic-Leaflet brings it; not imported, for that needs a package of its own."""
    path = Path(str(distribution("XStatic-Leaflet").locate_file(f"{_LEAFLET}/{name}")))
    return path.read_text(encoding="utf-8")
