"""Everything a run needs, found out and checked before the first tile: scenes, grid, tiles, classes, model, room."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rs_pipeline.adapters import AdapterFacts, check_adapter, read_facts
from rs_pipeline.catalog import Scene
from rs_pipeline.classes import ClassSet
from rs_pipeline.config import RunSettings
from rs_pipeline.grid import Grid
from rs_pipeline.groups import Work, find_work
from rs_pipeline.imagery import find_imagery
from rs_pipeline.job import Job, SceneJob
from rs_pipeline.keys import PRODUCT_FORMAT, base_key, digest
from rs_pipeline.layers import check_layer_names
from rs_pipeline.line_layers import lines_bytes
from rs_pipeline.options import ModelOptions
from rs_pipeline.places import Place, open_place
from rs_pipeline.products import check_free, check_room, on_one_disk
from rs_pipeline.reproject import check_place, read_crs
from rs_pipeline.scene_reader import CACHE_BYTES
from rs_pipeline.segmenter import ModelInfo, check_refinements, check_vocabulary, find_provider
from rs_pipeline.tiles import TilePlan
from rs_pipeline.unfamiliar import describe_unfamiliar
from rs_pipeline.vector_formats import check_formats, check_formats_at
from rs_pipeline.vocabulary import load_vocabulary, resolve_names, resolve_vectors
from rs_pipeline.workers import Crew, choose_crew

STORES = ".tiles"
MAX_BATCH = 4
"""Tiles of one forward pass where nobody says otherwise."""
_BATCH_PX = 2**20
_PROCESS_BYTES = 700e6
"""A worker before its first tile: torch and the other libraries, 0.6 GB, and GDAL's cache."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost, roughly; time is only known once tiles have been timed."""

    disk_bytes: int
    """Tile store, scratch rasters and products together, uncompressed."""
    store_bytes: int
    """Of that, the tile store."""
    memory_bytes: int
    """Peak of all processes together."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run, ready to start."""

    settings: RunSettings
    job: Job
    work: Work
    """What of the job is in the store already."""
    info: ModelInfo
    adapter: AdapterFacts | None
    """What the model wears."""
    crew: Crew
    tiles: int
    """Tiles that meet the AOI."""
    out: Path
    run_key: str
    """Digest of everything that decides the products."""
    existing: dict[str, Any] | None
    """Manifest of this very run, where it was done before."""
    estimate: Estimate
    notes: tuple[str, ...]
    """What the user should know: mended input, resampling, doubtful resolutions."""


def plan_run(settings: RunSettings, scenes: Sequence[Scene] | None = None) -> RunPlan:
    """Read the headers and overviews of the scenes and plan the run. Writes nothing.

    Parameters
    ----------
    scenes: on top first; None: those that the settings select.

    Raises
    ------
    RsSegError: whatever would keep the run from finishing, as far as it can be known now.
    """
    classes, settings = _choose_classes(settings)
    options = settings.options
    layers_crs = read_crs(settings.vectors.crs) if settings.vectors.crs is not None else None
    provider = find_provider(settings.model)
    info = provider.info()
    check_vocabulary(info, classes)
    check_refinements(info, options.refine.active)
    adapter = read_facts(Path(options.adapter.path)) if options.adapter is not None else None
    if adapter is not None:
        check_adapter(adapter, info.weights_sha256, classes)

    def check(grid: Grid) -> None:
        if layers_crs is not None:
            check_place(grid, layers_crs, lines=bool(settings.vectors.lines))
        check_formats_at(settings.vectors.formats, grid)

    imagery = find_imagery(settings, info, scenes, check)
    plan, prepared, grid = imagery.plan, imagery.scenes, imagery.plan.grid
    tiles = plan.count()
    crew = choose_crew(settings.workers, tiles)
    settings = _with_batch_size(settings, plan, crew)
    outputs = Path(settings.out).absolute().parent if settings.out else Path(settings.outputs).absolute()
    key = base_key(plan, prepared, classes, info, options)
    run_key = _run_key(key, prepared, classes, settings)
    run_id = f"{re.sub(r'[^a-z0-9]+', '-', '-'.join(classes.names))[:60].strip('-')}-{run_key[:8]}"
    out = Path(settings.out).absolute() if settings.out else outputs / run_id
    estimate = _estimate(plan, tiles, classes, info, crew, settings)
    existing = check_free(out, run_key, overwrite=settings.overwrite)
    what = f"a grid of {grid.height} x {grid.width} px, {tiles} tiles"
    base = open_place(settings.store or outputs / STORES).at(key[:16])
    if existing is None:
        _check_rooms(out, base, estimate, what)
    weights, code = info.weights_sha256, info.code_version
    job = Job(base, plan, prepared, classes, settings.model, weights, code, options, crew.threads)
    word_notes = [*describe_unfamiliar(info, classes), *_refinement_notes(options, classes)]
    notes = (*imagery.notes, *word_notes)
    return RunPlan(settings, job, find_work(job), info, adapter, crew, tiles, out, run_key, existing, estimate, notes)


def _run_key(tiles: str, scenes: Sequence[SceneJob], classes: ClassSet, settings: RunSettings) -> str:
    """Digest of all that decides the products; `tiles` is that of what decides the tiles."""
    return digest(
        {
            "format": PRODUCT_FORMAT,
            "tiles": tiles,
            "scenes": [[s.id, s.datetime, s.licence] for s in scenes],
            "classes": classes.to_list(),
            "vectors": settings.vectors.decisive(),
        }
    )


def _with_batch_size(settings: RunSettings, plan: TilePlan, crew: Crew) -> RunSettings:
    """Settings that say how many tiles a pass takes: on CPUs, more pixels at once only cost memory that is mapped afresh each time."""
    if settings.workers.batch_size is not None:
        return settings
    size = MAX_BATCH if crew.kind == "cuda" else min(MAX_BATCH, max(1, _BATCH_PX // plan.tile_px**2))
    return settings.model_copy(update={"workers": settings.workers.model_copy(update={"batch_size": size})})


def _choose_classes(settings: RunSettings) -> tuple[ClassSet, RunSettings]:
    """The classes that are asked for, held against everything that their names must be good for, and settings that call them so."""
    vocabulary = load_vocabulary(settings.vocabulary)
    classes, threshold = vocabulary.class_set(settings.classes), settings.scoring.threshold
    if threshold is not None:
        classes = classes.at_threshold(threshold)
    check_layer_names(classes)
    check_formats(settings.vectors.formats, classes)
    apart = resolve_names(settings.scoring.apart, classes, vocabulary, "scoring.apart")
    scoring = settings.scoring.model_copy(update={"apart": apart})
    return classes, settings.model_copy(update={"vectors": resolve_vectors(settings.vectors, classes, vocabulary), "scoring": scoring})


def _check_rooms(out: Path, base: Place, estimate: Estimate, what: str) -> None:
    """Of tile store and products: on one disk they need the room together. How much an object store has nobody knows."""
    together = base.has_locks and on_one_disk(out, Path(base.where))
    check_room(out, estimate.disk_bytes if together else estimate.disk_bytes - estimate.store_bytes, what)
    if base.has_locks and not together:
        check_room(Path(base.where), estimate.store_bytes, f"the tiles of {what}")


def _refinement_notes(options: ModelOptions, classes: ClassSet) -> list[str]:
    alone = "clip" in options.refine.active and len(classes) == 1 and not options.refine.clip.contrast
    return ["CLIP has one class and nothing to hold it against: name others with --set refine.clip.contrast=[...]"] if alone else []


def _estimate(plan: TilePlan, tiles: int, classes: ClassSet, info: ModelInfo, crew: Crew, settings: RunSettings) -> Estimate:
    bands = len(classes) + 1
    grid = plan.grid
    context_px = min(plan.tile_px, grid.height) * min(plan.tile_px, grid.width)
    covered_px = min(tiles * plan.stride_px**2, grid.height * grid.width)
    block_px = min(settings.vectors.block_px**2, grid.height * grid.width)
    enlarged = max(1.0, *settings.scoring.tta.scales) ** 2
    batch = (settings.workers.batch_size or MAX_BATCH) * context_px * enlarged * (info.bytes_per_px + 16 * len(classes))
    workers = crew.count * (_PROCESS_BYTES + info.weights_bytes + CACHE_BYTES + batch)
    lines = lines_bytes(grid) if settings.vectors.lines else 0
    memory = workers + block_px * (bands * 8 + 24) + lines
    store_bytes = tiles * context_px * bands
    return Estimate(round(store_bytes + covered_px * (bands + 1) * 0.5), store_bytes, round(memory))
