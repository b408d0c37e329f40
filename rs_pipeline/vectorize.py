"""Label rasters become polygons: block by block, one polygon and one identity per object, whatever the blocks.

An object is a set of pixels of one label connected along their sides, or also at their corners. Blocks are taken apart on all cores and
joined in their order; what is kept from one to the next is the pieces on the frontier, and the corners and sums of the objects that
reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rs_pipeline.blocks import Parts, Planes, Rules, framed_blocks, take_apart
from rs_pipeline.classes import NOT_OBSERVED, SCORE_MAX
from rs_pipeline.components import NOWHERE
from rs_pipeline.frontier import Frontier, Whole
from rs_pipeline.grid import Grid, Window
from rs_pipeline.parallel import map_in_order
from rs_pipeline.rings import trace_polygons
from rs_pipeline.wkb import to_wkb

ReadBlock = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]
"""Window to labels, the score of each pixel for its own class, and sources: (h, w) uint8, as `mosaic` makes them."""
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
    geometry: pa.BinaryArray
    """WKB of valid polygons in CRS coordinates, of multipolygons where corners connect."""
    pixels: NDArray[np.int64]
    """Pixels in the object."""
    area_m2: NDArray[np.float64]
    """Pixels times the area of one; square metres on the metric grids that runs use."""
    score_mean: NDArray[np.float64]
    """Mean score, 0…1, that the pixels have for the object's class."""
    source: NDArray[np.uint8]
    """Index of the scene that most of the pixels come from, the lowest where several do; 255 none."""
    edge_not_observed: NDArray[np.float64]
    """Share of the outline, 0…1, beside pixels that were not observed or not asked for: the object may go on there."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """How objects are made; none of it depends on the blocks but where `simplify_m` keeps every point, along their borders."""

    connectivity: Literal[4, 8] = 4
    """4: pixels that share a side are one object; 8: a corner will do."""
    min_area_m2: float = 0.0
    """Smallest area of a whole object that is kept."""
    simplify_m: float = 0.0
    """Tolerance, the square root of the areas cut off at corners (`shapely.coverage_simplify`); neighbours keep their edges in common."""


def polygonize(
    grid: Grid, values: int, read_block: ReadBlock, block_px: int = 1024, outlines: Outlines = Outlines(), threads: int = 1
) -> Iterator[Features]:
    """The objects of classes 1…`values`, in batches, each sorted by id, as soon as they are known to be whole.

    Parameters
    ----------
    grid: the raster's grid.
    values: number of classes; other labels (0 background, 255 not observed) make no objects.
    read_block: gives the pixels of a window; each is asked for once, row by row, by this thread.
    block_px: side of a block, pixels: sets the memory.
    threads: blocks that are worked on at once.
    """
    table = np.zeros(256, np.uint8)
    table[1 : values + 1] = np.arange(1, values + 1)
    table[NOT_OBSERVED] = NOT_OBSERVED

    def read(window: Window) -> Planes:
        labels, scores, sources = read_block(window)
        return Planes(np.take(table, labels), scores, sources)

    yield from _sweep(grid, read, block_px, outlines, threads)


def polygonize_coverage(
    grid: Grid, read_labels: ReadLabels, read_inside: ReadMask, block_px: int = 1024, threads: int = 1
) -> Iterator[Features]:
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

    yield from _sweep(grid, read, block_px, Outlines(), threads)


def _sweep(grid: Grid, read: Callable[[Window], Planes], block_px: int, outlines: Outlines, threads: int) -> Iterator[Features]:
    if block_px < 1:
        raise ValueError(f"a block has at least one pixel, got block_px {block_px}")
    rules = Rules(outlines.connectivity, outlines.simplify_m / grid.gsd_m)
    with (
        closing(map_in_order(lambda block: take_apart(grid, *block, rules), framed_blocks(grid, read, block_px), threads)) as blocks,
        closing(map_in_order(lambda whole: list(_features(grid, whole, outlines)), _wholes(grid, blocks), threads)) as done,
    ):
        for _, batches in done:
            yield from batches


def _wholes(grid: Grid, blocks: Iterable[tuple[Any, Parts]]) -> Iterator[Whole]:
    """Objects as soon as they are known to be whole."""
    front = Frontier(grid)
    for _, parts in blocks:
        if parts.window.col_off == 0:
            front.begin_band(parts.window.height)
        found = [front.add(parts)]
        if parts.window.col_stop == grid.width:
            found.append(front.end_band())
        yield from (whole for whole in found if len(whole.owner))


def _features(grid: Grid, whole: Whole, outlines: Outlines) -> Iterator[Features]:
    """Features of whole objects, in batches of bounded size."""
    fragments, corners, owner = whole
    rows = fragments._replace(piece=owner[fragments.piece]).merged()
    # The first entry of an object is then its greatest source.
    rows = rows.take(np.lexsort((rows.source, -rows.pixels, rows.piece)))
    heads = np.flatnonzero(np.diff(rows.piece, prepend=NOWHERE))
    pixels, score, sides, unseen = (np.add.reduceat(s, heads) for s in (rows.pixels, rows.score_sum, rows.sides, rows.unseen_sides))
    first = np.minimum.reduceat(rows.first, heads)
    area = pixels * abs(grid.transform.determinant)

    kept = np.argsort(first)
    kept = kept[area[kept] >= outlines.min_area_m2]
    corner_counts = np.bincount(owner[corners.piece], minlength=len(heads))[kept]
    batch_of = np.cumsum(corner_counts) // _BATCH_CORNERS
    for batch in np.unique(batch_of):
        objs = kept[batch_of == batch]
        geometry = _geometry(grid, whole, objs, outlines)
        entry = rows.take(heads[objs])
        yield Features(
            first[objs],
            entry.label,
            geometry,
            pixels[objs],
            area[objs],
            score[objs] / (pixels[objs] * SCORE_MAX),
            entry.source,
            unseen[objs] / sides[objs],
        )


def _geometry(grid: Grid, whole: Whole, objs: NDArray[np.int64], outlines: Outlines) -> pa.BinaryArray:
    """Polygons of some objects; multipolygons of 8-connected ones, their parts by first pixel."""
    fragments, corners, owner = whole
    rank = np.full(len(owner), NOWHERE, np.int32)
    rank[objs] = np.arange(len(objs))
    first = np.full(len(owner), np.iinfo(np.int64).max)
    np.minimum.at(first, fragments.piece, fragments.first)
    pieces = np.flatnonzero(rank[owner] != NOWHERE)
    pieces = pieces[np.lexsort((first[pieces], rank[owner[pieces]]))]
    place = np.full(len(owner), NOWHERE, np.int32)
    place[pieces] = np.arange(len(pieces))
    mine = corners.take(place[corners.piece] != NOWHERE)
    polygons = trace_polygons(mine._replace(piece=place[mine.piece]), grid.transform, simplified=outlines.simplify_m > 0)
    if outlines.connectivity == 4:
        return to_wkb(polygons)
    return to_wkb(polygons, np.searchsorted(rank[owner[pieces]], np.arange(len(objs) + 1)))
