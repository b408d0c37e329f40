"""The stages of a run between its plan and its folder: tiles, one picture of them, layers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from rs_pipeline import manifest
from rs_pipeline.checked_raster import CheckedRaster
from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.cog import BlockRaster, Look, label_colours, little_cache
from rs_pipeline.dispatch import infer
from rs_pipeline.errors import SegmenterError
from rs_pipeline.grid import Window
from rs_pipeline.groups import BandReader
from rs_pipeline.inference import BatchResult
from rs_pipeline.layer_tables import SceneFootprint
from rs_pipeline.layers import Delivery, LayerSummary, write_layers
from rs_pipeline.line_layers import LINES, write_lines
from rs_pipeline.mosaic import ReadScores, blend_block, label_block
from rs_pipeline.parallel import map_in_order
from rs_pipeline.plan import RunPlan
from rs_pipeline.raster import burn_mask
from rs_pipeline.reporting import Reporter
from rs_pipeline.reproject import read_crs
from rs_pipeline.square_layers import SQUARES, write_squares
from rs_pipeline.vectorize import Features, Outlines, polygonize, polygonize_coverage

if TYPE_CHECKING:
    from distributed import Client


@dataclass
class Inference:
    """What became of the tiles."""

    reused: int = 0
    computed: int = 0
    empty: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    """Of each, whether its tiles were `computed`, or `reused` from another run that was complete."""
    store: str = ""
    groups: tuple[str, ...] = ()
    """Folders of the store that the tiles are in."""


@dataclass(frozen=True)
class Stitched:
    """The stitched rasters, still scratch."""

    labels: BlockRaster
    scores: BlockRaster
    details: BlockRaster
    """Index of the scene, and the score of each pixel for its own class."""
    pixels: NDArray[np.int64]
    """Count of pixels of the AOI by label, 0…255."""
    sources: NDArray[np.int64]
    """Count of pixels by index of the scene they were taken from, 0…255; 255 none."""
    highest: NDArray[np.uint8]
    """(classes,) highest score of each, 0…254, anywhere in the AOI."""


def infer_tiles(plan: RunPlan, client: Client | None, reporter: Reporter) -> Inference:
    """Compute the tiles that are not in the store yet.

    Parameters
    ----------
    client: of the workers; None: this process is the worker.

    Raises
    ------
    SegmenterError: every tile failed: that is not a gap in a map, it is no map.
    """
    work = plan.work
    done = work.store.done()
    planned = [tile.index for tile in plan.job.plan.tiles()]
    todo = [index for index in planned if index not in done]
    result = Inference(
        reused=sum(done.get(index, False) for index in planned),
        empty=sum(not done.get(index, True) for index in planned),
        classes=work.origins,
        store=plan.job.base.where,
        groups=work.groups,
    )
    reporter.stage("tiles", len(planned))
    reporter.advance(len(planned) - len(todo))

    def on_batch(batch: BatchResult) -> None:
        result.computed += len(batch.done)
        result.empty += len(batch.empty)
        reporter.advance(len(batch.done) + len(batch.empty) + len(batch.failed))

    if work.todo is not None and todo:
        failed = infer(client, work.todo.save(), todo, plan.settings.workers, on_batch)
        lost = set(todo) - set(work.store.done()) - {index for index, _ in failed}
        result.failed = sorted(failed + [(index, "lost: no worker put it into the store") for index in lost])
    if not result.failed:
        work.mark()
    if result.failed and not (result.reused or result.computed):
        fix = "Check the model and the source, for example on one tile with --aoi."
        raise SegmenterError("tiles that can be computed", f"{len(result.failed)} failures, the first: {result.failed[0][1]}", fix)
    if not (result.reused or result.computed or result.failed):
        reporter.note("no tile of the area holds data: nothing was observed")
    for index, error in result.failed[:3]:
        reporter.note(f"tile {index} failed and is not observed: {error}")
    return result


def stitch(plan: RunPlan, folder: Path, scratch: ExitStack, reporter: Reporter) -> Stitched:
    """Blend the tiles and label the pixels, block by block, into rasters that are open until `scratch` closes."""
    job, classes = plan.job, plan.job.classes
    tags = manifest.raster_tags(plan)
    look = Look(NOT_OBSERVED, ("class",), tags, label_colours([c.colour for c in classes]))

    def raster(name: str, bands: int, look: Look) -> BlockRaster:
        return scratch.enter_context(closing(CheckedRaster(folder / f"{name}.part.tif", job.plan.grid, bands, look)))

    scratch.enter_context(little_cache())
    stitched = Stitched(
        raster("labels", 1, look),
        raster("scores", len(classes), Look(NOT_OBSERVED, classes.names, tags, smooth=True)),
        raster("details", 2, Look(NOT_OBSERVED, ("scene", "score"), {}, smooth=True)),
        np.zeros(256, np.int64),
        np.zeros(256, np.int64),
        np.zeros(len(classes), np.uint8),
    )
    read, blocks = BandReader(plan.work), list(_blocks(plan))
    reporter.stage("stitch", len(blocks))
    for window, block in map_in_order(lambda window: _stitch_block(plan, read, window), blocks):
        if block is not None:
            stitched.labels.write(window, block.labels[None])
            stitched.scores.write(window, block.scores)
            stitched.details.write(window, block.details)
            stitched.pixels[:] += block.pixels
            stitched.sources[:] += block.sources
            np.maximum(stitched.highest, block.highest, out=stitched.highest)
        reporter.advance(1)
    return stitched


class _StitchedBlock(NamedTuple):
    """One block, as `Stitched` keeps it."""

    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]
    details: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    sources: NDArray[np.int64]
    highest: NDArray[np.uint8]


def _stitch_block(plan: RunPlan, read: ReadScores, window: Window) -> _StitchedBlock | None:
    """One block, not observed outside the AOI; None where that is all of it. For several threads at once."""
    if not _meets_aoi(plan, window):
        return None
    classes = plan.job.classes
    scores, sources = blend_block(window, plan.job.plan, read, len(classes))
    inside = _inside_aoi(plan, window)
    if not inside.all():
        scores[:, ~inside], sources[~inside] = NOT_OBSERVED, NOT_OBSERVED
    labels = label_block(scores, [c.threshold for c in classes])
    # A label is the class that scores highest.
    details = np.stack([sources, scores.max(axis=0)])
    pixels, taken = (np.bincount(values, minlength=256) for values in (labels[inside], sources.ravel()))
    highest = np.where(scores == NOT_OBSERVED, np.uint8(0), scores).max(axis=(1, 2))
    return _StitchedBlock(labels, scores, details, pixels, taken, highest)


def vectorize(plan: RunPlan, stitched: Stitched, folder: Path, reporter: Reporter) -> dict[str, LayerSummary]:
    """Trace the classes and the coverage into `layers.gpkg`, and into the files of other formats that were asked for."""
    grid, classes, settings = plan.job.plan.grid, plan.job.classes, plan.settings.vectors
    outlines = Outlines(settings.connectivity, settings.min_area_m2, settings.simplify_m)
    threads = len(os.sched_getaffinity(0))

    def read_block(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        reporter.advance(1)
        sources, scores = stitched.details.read(window)
        return stitched.labels.read(window)[0], scores, sources

    def read_labels(window: Window) -> NDArray[np.uint8]:
        reporter.advance(1)
        labels: NDArray[np.uint8] = stitched.labels.read(window)[0]
        return labels

    reporter.stage("vectorize", 2 * len(list(_blocks(plan))))
    return write_layers(
        folder / "layers.gpkg",
        grid,
        classes,
        polygonize(grid, len(classes), read_block, settings.block_px, outlines, threads),
        polygonize_coverage(grid, read_labels, lambda window: _inside_aoi(plan, window), settings.block_px, threads),
        _footprints(plan, stitched),
        "Polygon" if settings.connectivity == 4 else "MultiPolygon",
        Delivery(_layers_crs(plan), settings.formats, manifest.describe_layers(plan)),
    )


def trace_lines(plan: RunPlan, stitched: Stitched, folder: Path, reporter: Reporter) -> None:
    """Trace the centre lines of the classes that were asked for, into `lines.gpkg`."""
    grid, settings = plan.job.plan.grid, plan.settings.vectors
    chosen = [c for c in plan.job.classes if c.name in settings.lines]
    if not chosen:
        return
    objects = _traced_again(plan, stitched, "lines", reporter)
    for name, lines in write_lines(folder / LINES, grid, chosen, objects, settings.min_area_m2, _layers_crs(plan)).items():
        without = {"too compact for a line": lines.compact, "too wide in places": lines.partial, "not drawn": lines.failed}
        left_out = "".join(f", {count:,} objects {what}" for what, count in without.items() if count)
        reporter.note(f"{name}: {lines.count:,} lines, {lines.length_m / 1e3:.1f} km{left_out}")


def square_objects(plan: RunPlan, stitched: Stitched, folder: Path, reporter: Reporter) -> None:
    """Square the outlines of the classes that were asked for, into `squares.gpkg`."""
    chosen = [c for c in plan.job.classes if c.name in plan.settings.vectors.square]
    if not chosen:
        return
    objects = _traced_again(plan, stitched, "squares", reporter)
    for name, squares in write_squares(folder / SQUARES, plan.job.plan.grid, chosen, objects, _layers_crs(plan)).items():
        own = squares.count - squares.squared
        reporter.note(f"{name}: {squares.squared} outlines squared, {own} kept as they are, {squares.area_m2 / 1e4:,.1f} ha")


def _traced_again(plan: RunPlan, stitched: Stitched, stage: str, reporter: Reporter) -> Iterable[Features]:
    """The objects of pixels that share sides, not simplified, for what is derived from them."""

    def read_block(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        reporter.advance(1)
        nothing = np.zeros(window.shape, np.uint8)
        return stitched.labels.read(window)[0], nothing, nothing

    reporter.stage(stage, len(list(_blocks(plan))))
    settings = plan.settings.vectors
    outlines, threads = Outlines(min_area_m2=settings.min_area_m2), len(os.sched_getaffinity(0))
    return polygonize(plan.job.plan.grid, len(plan.job.classes), read_block, settings.block_px, outlines, threads)


def _layers_crs(plan: RunPlan) -> CRS | None:
    """What `--crs` names."""
    crs = plan.settings.vectors.crs
    return read_crs(crs) if crs is not None else None


def _footprints(plan: RunPlan, stitched: Stitched) -> list[SceneFootprint]:
    crs = plan.job.plan.grid.crs
    return [
        SceneFootprint(s.id, s.datetime, s.info.gsd_m, s.info.href, s.item_href, s.info.outline(crs), int(stitched.sources[index]))
        for index, s in enumerate(plan.job.scenes)
    ]


def _blocks(plan: RunPlan) -> Iterator[Window]:
    grid, size = plan.job.plan.grid, plan.settings.vectors.block_px
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))


def _meets_aoi(plan: RunPlan, window: Window) -> bool:
    """False for blocks without a pixel of the AOI: they stay unwritten, which reads as not observed."""
    area, grid = plan.job.plan.aoi, plan.job.plan.grid
    return area is None or bool(shapely.intersects(area, shapely.box(*grid.crop(window).bounds)))


def _inside_aoi(plan: RunPlan, window: Window) -> NDArray[np.bool_]:
    if plan.job.plan.aoi is None:
        return np.ones(window.shape, np.bool_)
    if not _meets_aoi(plan, window):
        return np.zeros(window.shape, np.bool_)
    return burn_mask(plan.job.plan.aoi, plan.job.plan.grid.crop(window))
