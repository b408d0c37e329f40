"""Where phrases that training never saw land on the map: `python -m rs_model.phrase_score --data ../shared/data`.

A phrase of a class is resolved if what it maps (probability of a half or more) meets that class's true pixels better than any other
class's, and at least half as well as the class's own name does. Something that is none of the classes is turned down if it maps
next to nothing. Scored on the calibration places that know all five classes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rs_model.labels import CLASSES
from rs_model.phrases import OTHER, language
from rs_model.places import PLACES
from rs_model.provider import tiny_provider
from rs_model.score import options_of
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.errors import RsSegError
from rs_pipeline.segmenter import Segmenter

SURE = 0.5
"""Least probability of a mapped pixel."""
HALF = 0.5
"""Of the IoU of the class's own name: less is not resolved."""
NEXT_TO_NOTHING = 0.01
"""Largest share of the ground that a foreign concept may map."""
EVERY = 2
"""Every second image gives a window."""
AT_ONCE = 16
"""Phrases that are asked for together."""

Counts = NDArray[np.int64]
"""(5, 3): pixels of each class that were mapped, mapped pixels of known truth, pixels of the class."""


@dataclass(frozen=True, slots=True)
class Landed:
    """What a phrase mapped, over all windows."""

    counts: Counts

    @property
    def iou(self) -> NDArray[np.float64]:
        """(5,) with each class's true pixels."""
        hits, mapped, true = self.counts.T
        return np.asarray(hits / np.maximum(mapped + true - hits, 1), np.float64)

    @property
    def share(self) -> float:
        """Of the known ground."""
        return float(self.counts[0, 1] / max(self.counts[:, 2].sum(), 1))


def is_resolved(landed: Landed, name: str, own: Landed) -> bool:
    """Does a phrase map its class; `own` is what the class's own name maps."""
    k, iou = CLASSES.index(name), landed.iou
    return bool(iou.argmax() == k and iou[k] >= HALF * own.iou[k])


def is_right(landed: Mapping[str, Landed], phrase: str, name: str) -> bool:
    """Is a held-out phrase of a class resolved, or one of `OTHER` turned down."""
    return landed[phrase].share <= NEXT_TO_NOTHING if name == OTHER else is_resolved(landed[phrase], name, landed[name])


def land(segmenter: Segmenter, windows: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], phrases: Sequence[str]) -> dict[str, Landed]:
    """Every phrase over all windows: images (H, W, 3) with codes (H, W)."""
    counts = {phrase: np.zeros((len(CLASSES), 3), np.int64) for phrase in phrases}
    for image, codes in windows:
        pixels = np.moveaxis(image, -1, 0)[None].astype(np.float32) / np.float32(255)
        known = codes < len(CLASSES)
        true = np.bincount(codes[known], minlength=len(CLASSES))
        for start in range(0, len(phrases), AT_ONCE):
            some = phrases[start : start + AT_ONCE]
            asked = ClassSet(tuple(Class(i + 1, phrase, (phrase,), (0, 0, 0), SURE) for i, phrase in enumerate(some)))
            for phrase, scores in zip(some, segmenter.segment(pixels, np.ones((1, *codes.shape), bool), asked)[0], strict=True):
                mapped = (scores >= SURE) & known
                hits = np.bincount(codes[mapped], minlength=len(CLASSES))
                counts[phrase] += np.stack([hits, np.full_like(hits, mapped.sum()), true], 1)
    return {phrase: Landed(found) for phrase, found in counts.items()}


def resolved_shares(landed: Mapping[str, Landed]) -> dict[str, dict[str, float]]:
    """Share of the held-out phrases that are right, by class (or `OTHER`) and kind."""
    shares: dict[str, dict[str, float]] = {}
    for name, kind in language().kinds.items():
        for group, phrases in kind.held_out.items():
            shares.setdefault(name, {})[group] = float(np.mean([is_right(landed, phrase, name) for phrase in phrases]))
    return shares


def read_windows(data: Path, side_px: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Windows from the middle of the calibration images that know all five classes, evenly chosen."""
    windows = []
    for place in PLACES:
        if place.split == "calibration" and place.classes == CLASSES:
            for scene in list(place.read(data))[::EVERY]:
                top, left = (max((length - side_px) // 2, 0) for length in scene.codes.shape)
                inside = np.s_[top : top + side_px, left : left + side_px]
                windows.append((scene.image[inside], scene.codes[inside]))
    return windows


def main() -> int:
    """Prints the shares by class and kind, what was not right, and JSON last if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", type=Path, help="weights folder; the shipped one if left out")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        provider = tiny_provider(args.model)
        windows = read_windows(args.data, provider.info().tile_px)
        phrases = [*CLASSES, *language().withheld()]
        landed = land(provider.load(options_of(), args.threads), windows, phrases)
    except RsSegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    shares = resolved_shares(landed)
    for line in _lines(shares, landed):
        print(line)  # noqa: T201
    if args.json:
        print(json.dumps(shares))  # noqa: T201
    return 0


def _lines(shares: Mapping[str, Mapping[str, float]], landed: Mapping[str, Landed]) -> list[str]:
    lines = []
    for name, kind in language().kinds.items():
        lines.append(f"{name:<11} " + "  ".join(f"{group} {share:.2f}" for group, share in shares[name].items()))
        for phrases in kind.held_out.values():
            for phrase in phrases:
                found = landed[phrase]
                if is_right(landed, phrase, name):
                    continue
                if name == OTHER:
                    lines.append(f"    {phrase!r} maps {found.share:.1%} of the ground")
                else:
                    lines.append(f"    {phrase!r} is nearest to {CLASSES[int(found.iou.argmax())]} (IoU {found.iou.max():.2f})")
    named = [share for name in CLASSES for share in shares[name].values()]
    lines.append(f"phrases of a class {np.mean(named):.3f}, other concepts {np.mean(list(shares[OTHER].values())):.3f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
