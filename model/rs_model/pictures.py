"""Small pictures for the model card: image, truth, prediction and mistakes side by side, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rs_model.places import Place
from rs_model.reliability import Reliability
from rs_model.scenes import Scene
from rs_model.score import NO_TRUTH, Scores, all_classes, labels_of, truth_of
from rs_pipeline.classes import ClassSet

LONGEST_PX = 360
"""Of one panel."""
MOST_COLOURS = 16
"""Of a map of labels."""
GAP_PX = 6
_BACKGROUND, _UNKNOWN, _PAPER, _INK = (235, 235, 235), (120, 120, 120), (255, 255, 255), (40, 40, 40)
_RIGHT, _WRONG = (205, 225, 205), (200, 30, 30)
_DIAGRAM_PX, _MARGIN_PX = 220, 28
_COLOURS = {"before": (200, 120, 40), "after": (30, 90, 200)}


def paint(labels: NDArray[np.uint8], classes: ClassSet) -> NDArray[np.uint8]:
    """(H, W) labels → (H, W, 3) in the colours of the classes; 0 pale, 255 dark grey."""
    palette = np.zeros((256, 3), np.uint8)
    palette[0], palette[NO_TRUTH] = _BACKGROUND, _UNKNOWN
    for c in classes:
        palette[c.value] = c.colour
    return palette[labels]


def mistakes(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) labels of truth and prediction → (H, W, 3): right pale, wrong red, unknown dark grey."""
    picture = np.where((truth == found)[..., None], _RIGHT, _WRONG).astype(np.uint8)
    picture[truth == NO_TRUTH] = _UNKNOWN
    return picture


def panels(pictures: Sequence[NDArray[np.uint8]], title: str) -> Image.Image:
    """Pictures (H, W, 3) of one size side by side, each made small, under a line of text."""
    small = [Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures]
    for picture in small:
        # Labels have no values between two colours, but few colours; imagery has many.
        is_map = picture.getcolors(MOST_COLOURS) is not None
        picture.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.NEAREST if is_map else Image.Resampling.BILINEAR)
    width, height = small[0].size
    sheet = Image.new("RGB", (len(small) * (width + GAP_PX) - GAP_PX, height + 16), _PAPER)
    ImageDraw.Draw(sheet).text((2, 2), title, _INK)
    for i, picture in enumerate(small):
        sheet.paste(picture, (i * (width + GAP_PX), 16))
    return sheet


class Album:
    """The best and the worst test images: image, truth, prediction and mistakes, or the last two where the imagery must stay at home.

    Holds their thumbnails until all were seen.
    """

    def __init__(self, folder: Path, each: int = 3, *, imagery: bool = True, classes: ClassSet | None = None) -> None:
        self._folder, self._each, self._imagery, self._classes = folder, each, imagery, classes or all_classes()
        self._seen: list[tuple[float, str, Image.Image]] = []

    def look(self, place: Place, scene: Scene, scores: Scores, iou: float) -> None:
        """Takes a test image's thumbnail; other splits are left out, and so are images without a class."""
        if place.split == "test" and not np.isnan(iou):
            truth, found = truth_of(scene, place), labels_of(scores, self._classes, place)
            shown = {"prediction": paint(found, self._classes), "mistakes": mistakes(truth, found)}
            if self._imagery:
                shown = {"image": scene.image, "truth": paint(truth, self._classes), **shown}
            self._seen.append((iou, scene.name, panels(list(shown.values()), f"{scene.name}: {' | '.join(shown)}, IoU {iou:.2f}")))

    def save(self) -> list[Path]:
        """Writes `best-1.jpg` … and `worst-1.jpg` …; the files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        by_iou = sorted(self._seen, key=lambda seen: seen[:2])
        worst = by_iou[: self._each]
        best = [seen for seen in by_iou[::-1] if seen not in worst][: self._each]
        files = []
        for kind, chosen in (("best", best), ("worst", worst)):
            for number, (_, _, sheet) in enumerate(chosen, 1):
                files.append(self._folder / f"{kind}-{number}.jpg")
                sheet.save(files[-1], quality=80)
        return files


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a reliability diagram."""

    name: str
    """`before` or `after`."""
    reliability: Reliability


def reliability_diagram(rows: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Image.Image:
    """A row for each title, a square for each class: mean probability to the right, share of the class upwards, the ideal a diagonal.

    Before is orange, after blue; a point is as large as its bin.
    """
    cell = _DIAGRAM_PX + _MARGIN_PX
    columns = max((len(row) for row in rows.values()), default=0)
    sheet = Image.new("RGB", (columns * cell + _MARGIN_PX, len(rows) * (cell + _MARGIN_PX)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (title, row) in enumerate(rows.items()):
        for j, (name, curves) in enumerate(row.items()):
            errors = ", ".join(f"{curve.reliability.error:.3f} {curve.name}" for curve in curves)
            corner = (j * cell + _MARGIN_PX, i * (cell + _MARGIN_PX) + _MARGIN_PX)
            draw.text((corner[0], corner[1] - 14), f"{title}, {name}: ECE {errors}", _INK)
            _square(draw, corner, curves)
    return sheet


def _square(draw: ImageDraw.ImageDraw, corner: tuple[int, int], curves: Sequence[Curve]) -> None:
    left, top = corner
    right, bottom = left + _DIAGRAM_PX, top + _DIAGRAM_PX
    draw.rectangle((left, top, right, bottom), outline=_UNKNOWN)
    draw.line((left, bottom, right, top), _UNKNOWN)
    for curve in curves:
        found, colour = curve.reliability, _COLOURS[curve.name]
        points = [(left + x * _DIAGRAM_PX, bottom - y * _DIAGRAM_PX) for x, y in zip(found.promised, found.kept, strict=True)]
        draw.line(points, colour, 2)
        for (x, y), share in zip(points, found.share, strict=True):
            radius = 2 + 4 * np.sqrt(share)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    for value in (0.0, 0.5, 1.0):
        draw.text((left + value * _DIAGRAM_PX - 8, bottom + 2), f"{value:g}", _INK)
        draw.text((left - 20, bottom - value * _DIAGRAM_PX - 6), f"{value:g}", _INK)
