"""Curves of an adaptation: consistency and each loss, a row per check, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

Row = dict[str, float]
"""Step, consistency and losses of one check; the first has no losses."""

_SIZE = 460, 190
"""Width and height of a panel, pixels."""
_MARGIN = 62, 24, 14, 30
"""Left, top, right and bottom of the axes in it."""
_INK, _GREY, _PAPER = (30, 30, 30), (170, 170, 170), (255, 255, 255)
_LINE = (38, 98, 186)


def curves_of(adapter: Path) -> tuple[Path, Path]:
    """Where the curves of NAME.safetensors are: NAME.curves.json and NAME.curves.png."""
    return adapter.with_suffix(".curves.json"), adapter.with_suffix(".curves.png")


def write_curves(adapter: Path, history: Sequence[Row]) -> None:
    """Both files, beside an adapter."""
    data, picture = curves_of(adapter)
    _put(data, json.dumps(list(history), indent=1).encode() + b"\n")
    aside = picture.with_name(f".{picture.name}.{os.getpid()}.png")
    draw_curves(history).save(aside)
    aside.replace(picture)


def _put(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def draw_curves(history: Sequence[Row]) -> Image.Image:
    """A panel for each curve, consistency first, with the unadapted model's as a grey line."""
    names = list(dict.fromkeys(name for row in history for name in row if name != "step"))
    width, height = _SIZE
    sheet = Image.new("RGB", (2 * width, math.ceil(len(names) / 2) * height), _PAPER)
    last = max((row["step"] for row in history), default=0.0)
    for place, name in enumerate(names):
        points = [(row["step"], row[name]) for row in history if name in row]
        corner = (place % 2) * width, (place // 2) * height
        _panel(ImageDraw.Draw(sheet), corner, name, points, last)
    return sheet


def _panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, points: Sequence[tuple[float, float]], last: float) -> None:
    left, top, right, bottom = _MARGIN
    x0, y0 = corner[0] + left, corner[1] + top
    x1, y1 = corner[0] + _SIZE[0] - right, corner[1] + _SIZE[1] - bottom
    low, high = min(y for _, y in points), max(y for _, y in points)
    spread = (high - low) or abs(high) or 1.0
    low, high = low - 0.08 * spread, high + 0.08 * spread

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * x / max(last, 1.0), y1 - (y1 - y0) * (y - low) / (high - low)

    draw.rectangle((x0, y0, x1, y1), outline=_GREY)
    draw.text((x0, corner[1] + 6), name, _INK)
    for value in (low, (low + high) / 2, high):
        text, y = f"{value:.3g}", at(0, value)[1]
        draw.text((x0 - 6 - draw.textlength(text), y - 6), text, _INK)
        draw.line((x0, y, x1, y), _GREY if value == (low + high) / 2 else _PAPER)
    draw.rectangle((x0, y0, x1, y1), outline=_GREY)
    draw.text((x0, y1 + 6), "0", _INK)
    draw.text((x1 - draw.textlength(f"step {last:.0f}"), y1 + 6), f"step {last:.0f}", _INK)
    if name == "consistency":
        y = at(0, points[0][1])[1]
        draw.line((x0, y, x1, y), _GREY, 2)
    placed = [at(*point) for point in points]
    if len(placed) > 1:
        draw.line(placed, _LINE, 2)
    for x, y in placed:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_LINE)
