"""What counts as a change between two runs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import numpy as np

from rs_pipeline.arguments import described
from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid

MAX_TOLERANCE_PX = 200
"""Blocks are read with a margin of three tolerances."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a change.

    Raises
    ------
    UsageError: a value that its field cannot have.
    """

    tolerance: str | float = "1px"
    """How far outlines may be misplaced: metres, as `2` or `2m`, or pixels of the first run, as `1px`; see `rs_pipeline.changes`.
    A number is metres, and becomes text."""
    min_area_m2: float = 0.0
    """Smallest area of a polygon of change that is kept, each taken whole."""
    connectivity: Literal[4, 8] = 4
    """4: pixels that share a side are one polygon; 8: a corner will do."""
    block_px: int = 1024
    """Side of a block, pixels: sets the memory, and nothing else."""

    def __post_init__(self) -> None:
        is_text = isinstance(self.tolerance, str)
        _check(is_text or _is_length(self.tolerance), "tolerance: metres, or text as 2m or 1px", self.tolerance)
        _check(_is_length(self.min_area_m2), "min_area_m2: square metres, 0 or more", self.min_area_m2)
        _check(isinstance(self.connectivity, Integral) and self.connectivity in {4, 8}, "connectivity: 4 or 8", self.connectivity)
        _check(isinstance(self.block_px, Integral) and self.block_px >= 1, "block_px: pixels, a whole number from 1 on", self.block_px)
        # One form for the key of a comparison and for JSON, whether 5, 5.0 or a number of numpy's came.
        form = {"min_area_m2": float(self.min_area_m2), "connectivity": int(self.connectivity), "block_px": int(self.block_px)}
        tolerance = self.tolerance if is_text else f"{np.format_float_positional(float(self.tolerance), trim='-')}m"
        for name, value in {**form, "tolerance": tolerance}.items():
            object.__setattr__(self, name, value)

    def tolerance_px(self, grid: Grid) -> float:
        """The tolerance in pixels of a grid.

        Raises
        ------
        UsageError: not a distance, or a very long one.
        """
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(m|px)?", str(self.tolerance).strip())
        if found is None:
            raise UsageError("a tolerance as 2m or 1px", repr(self.tolerance), "Give metres or pixels, 0 for none.")
        pixels = float(found[1]) / (1.0 if found[2] == "px" else grid.gsd_m)
        if pixels > MAX_TOLERANCE_PX:
            raise UsageError(f"a tolerance of at most {MAX_TOLERANCE_PX} pixels", f"{pixels:g} pixels", "Give a smaller one.")
        return pixels


def _is_length(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def _check(is_good: bool, expected: str, came: object) -> None:
    if not is_good:
        raise UsageError(expected, described(came), "Give another value.")
