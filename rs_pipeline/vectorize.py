"""Label rasters become polygons: block by block, one polygon and one identity per object, whatever the blocks.

An object is a set of pixels of one label connected along their sides. Blocks are swept row by row; what is kept from one
to the next is the row and the column of pixels on the frontier, and the corners and sums of the objects that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED, SCORE_MAX
from rs_pipeline.components import NOWHERE, Fragments
from rs_pipeline.frontier import Frontier, Planes
from rs_pipeline.grid import Grid, Window
from rs_pipeline.rings import Corners, trace_polygons

ReadBlock = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]
"""Window to labels (h, w), scores (K, h, w) and sources (h, w), all uint8, as `mosaic` makes them."""
ReadLabels = Callable[[Window], NDArray[np.uint8]]
"""Window to labels (h, w) uint8."""
ReadMask = Callable[[Window], NDArray[np.bool_]]
"""Window to (h, w) bool."""

OBSERVED = 1
UNOBSERVED = 2
COVERAGE_STATES = {OBSERVED: "observed", UNOBSERVED: "not observed"}
"""Values of coverage features and what they say."""

_BATCH_CORNERS = 1_000_000


class Features(NamedTuple):
    """Finished objects; arrays of one length."""

    id: NDArray[np.int64]
    """Row-major index, row * grid.width + col, of the object's first pixel: unique, and the same whatever the blocks."""
    value: NDArray[np.uint8]
    """Label of the object's pixels."""
    geometry: NDArray[np.object_]
    """Valid shapely polygons in CRS coordinates, with vertices at corners only."""
    pixels: NDArray[np.int64]
    """Pixels in the object."""
    area_m2: NDArray[np.float64]
    """Pixels times the area of one; square metres on the metric grids that runs use."""
    score_mean: NDArray[np.float64]
    """Mean score, 0…1, that the pixels have for the object's class."""
    source: NDArray[np.uint8]
    """Index of the scene that most of the pixels come from, the lowest where several do; 255 none."""


def polygonize(grid: Grid, values: int, read_block: ReadBlock, block_px: int = 1024, min_area_m2: float = 0.0) -> Iterator[Features]:
    """The objects of classes 1…`values`, in batches, each sorted by id, as soon as they are known to be whole.

    Parameters
    ----------
    grid: the raster's grid.
    values: number of classes; other labels (0 background, 255 not observed) make no objects.
    read_block: gives the pixels of a window; each is asked for once, row by row.
    block_px: side of a block, pixels: sets the memory, not the result.
    min_area_m2: smallest area of a whole object that is kept.
    """
    table = np.zeros(256, np.uint8)
    table[1 : values + 1] = np.arange(1, values + 1)

    def read(window: Window) -> Planes:
        labels, scores, sources = read_block(window)
        own = np.zeros_like(labels)
        for k in range(values):
            np.copyto(own, scores[k], where=labels == k + 1)
        return Planes(table[labels], own, sources)

    yield from _sweep(grid, read, block_px, min_area_m2)


def polygonize_coverage(grid: Grid, read_labels: ReadLabels, read_inside: ReadMask, block_px: int = 1024) -> Iterator[Features]:
    """Where the asked pixels were observed (value OBSERVED) and where they were not (UNOBSERVED); scores and sources say nothing.

    Parameters
    ----------
    read_labels: 255 is not observed, anything else is.
    read_inside: window to (h, w) bool, True where the pixel was asked for; others make no objects.
    """

    def read(window: Window) -> Planes:
        states = np.where(read_labels(window) == NOT_OBSERVED, np.uint8(UNOBSERVED), np.uint8(OBSERVED))
        nothing = np.zeros(states.shape, np.uint8)
        return Planes(np.where(read_inside(window), states, np.uint8(0)), nothing, nothing)

    yield from _sweep(grid, read, block_px, 0.0)


def _sweep(grid: Grid, read: Callable[[Window], Planes], block_px: int, min_area_m2: float) -> Iterator[Features]:
    if block_px < 1:
        raise ValueError(f"a block has at least one pixel, got block_px {block_px}")
    front = Frontier(grid)
    for row in range(0, grid.height, block_px):
        front.begin_band(min(block_px, grid.height - row))
        for col in range(0, grid.width, block_px):
            window = Window(row, col, front.band_height, min(block_px, grid.width - col))
            yield from _features(grid, *front.add(window, read(window)), min_area_m2)
        yield from _features(grid, *front.end_band(), min_area_m2)


def _features(grid: Grid, fragments: Fragments, corners: Corners, min_area_m2: float) -> Iterator[Features]:
    """Features of whole objects, 0…n-1, in batches of bounded size."""
    if not len(fragments.obj):
        return
    # The first entry of an object is then its greatest source.
    rows = fragments.take(np.lexsort((fragments.source, -fragments.pixels, fragments.obj)))
    heads = np.flatnonzero(np.diff(rows.obj, prepend=NOWHERE))
    pixels = np.add.reduceat(rows.pixels, heads)
    score = np.add.reduceat(rows.score_sum, heads) / (pixels * SCORE_MAX)
    first = np.minimum.reduceat(rows.first, heads)
    area = pixels * abs(grid.transform.determinant)

    kept = np.argsort(first)
    kept = kept[area[kept] >= min_area_m2]
    corner_counts = np.bincount(corners.obj, minlength=len(heads))[kept]
    batch_of = np.cumsum(corner_counts) // _BATCH_CORNERS
    rank = np.full(len(heads), NOWHERE, np.int32)
    for batch in np.unique(batch_of):
        objs = kept[batch_of == batch]
        rank[:] = NOWHERE
        rank[objs] = np.arange(len(objs))
        mine = corners.take(rank[corners.obj] != NOWHERE)
        geometry = trace_polygons(mine._replace(obj=rank[mine.obj]), grid.transform)
        entry = rows.take(heads[objs])
        yield Features(first[objs], entry.label, geometry, pixels[objs], area[objs], score[objs], entry.source)
