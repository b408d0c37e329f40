"""What a run looks at: the scenes that meet the area, one grid for them, and its tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from rs_pipeline.aoi import Aoi, read_aoi
from rs_pipeline.catalog import Scene, find_scenes
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import BlankError, CatalogError, OutsideError, RasterError, UsageError
from rs_pipeline.extent import LON_LAT, build_grid, choose_crs, choose_gsd
from rs_pipeline.grid import Grid
from rs_pipeline.job import MAX_SCENES, SceneJob
from rs_pipeline.query import Query, parse_interval
from rs_pipeline.radiometry import find_collar, measure_stretch
from rs_pipeline.raster import RasterInfo, Sample, burn_mask, choose_bands, read_sample
from rs_pipeline.segmenter import ModelInfo
from rs_pipeline.tiles import TilePlan

MAX_GRID_PX = 10**12
_SMALL_GRID_PX = 1024**2
"""Grids up to this size are looked at pixel by pixel while planning."""


@dataclass(frozen=True, slots=True)
class Imagery:
    """Scenes on a grid, in tiles."""

    plan: TilePlan
    scenes: tuple[SceneJob, ...]
    """On top first."""
    notes: tuple[str, ...]
    """What the user should know of them."""


def find_imagery(
    settings: RunSettings, info: ModelInfo, scenes: Sequence[Scene] | None = None, check: Callable[[Grid], None] = lambda _: None
) -> Imagery:
    """Scenes, grid and tiles of some settings. Reads headers and overviews.

    Parameters
    ----------
    info: of the model that is to see them: its ground sampling distance and tiles.
    scenes: on top first; None: those that the settings select.
    check: is shown the grid before anything is measured, and may refuse it.

    Raises
    ------
    RsSegError: there are none, or they cannot be used.
    """
    aoi = read_aoi(settings.aoi) if settings.aoi is not None else None
    scenes, scene_notes = select_scenes(settings, aoi) if scenes is None else (scenes, [])
    if len(scenes) > MAX_SCENES:
        fix = "Narrow --datetime, --aoi or --source, or take them apart with --per-scene."
        raise CatalogError(f"at most {MAX_SCENES} scenes in one run", f"{len(scenes)}", fix)
    where: BaseGeometry = shapely.union_all([s.info.footprint for s in scenes])
    if aoi is not None:
        aoi = aoi.near(where)
        where = where.intersection(aoi.in_crs(LON_LAT))
    crs, crs_note = choose_crs(scenes[0], where)
    gsd_m, gsd_notes = choose_gsd(settings.gsd_m, info, scenes)
    grid = build_grid(crs, gsd_m, aoi, scenes)
    check(grid)
    plan = _cut(grid, aoi, settings, info)
    prepared, radiometry_notes = _prepare(scenes, settings)
    notes = (*(aoi.notes if aoi else ()), *scene_notes, *([crs_note] if crs_note else []), *gsd_notes, *radiometry_notes)
    return Imagery(plan, prepared, notes)


def _cut(grid: Grid, aoi: Aoi | None, settings: RunSettings, info: ModelInfo) -> TilePlan:
    tile_px = settings.tile_px or info.tile_px
    overlap_px = settings.overlap_px if settings.overlap_px is not None else tile_px // 8
    if grid.height * grid.width > MAX_GRID_PX:
        grown = f"{grid.height} x {grid.width} at {grid.gsd_m:g} m"
        raise UsageError(f"a grid of at most {MAX_GRID_PX:.0e} pixels", grown, "Give a coarser --gsd, or a smaller --aoi.")
    area = aoi.in_crs(grid.crs) if aoi is not None else None
    if area is not None and grid.height * grid.width <= _SMALL_GRID_PX and not burn_mask(area, grid).any():
        raise OutsideError(
            "an AOI that holds the centre of a pixel", f"{area.area:.3g} m² at {grid.gsd_m:g} m per pixel", "Draw it larger."
        )
    return TilePlan(grid, tile_px, overlap_px, area)


def query_of(settings: RunSettings, aoi: Aoi | None) -> Query:
    """What of the archive some settings ask for."""
    return Query(
        parse_interval(settings.datetime),
        aoi.in_crs(LON_LAT) if aoi is not None else None,
        settings.collections,
        settings.max_cloud_cover,
        settings.asset,
        settings.roots,
    )


def select_scenes(settings: RunSettings, aoi: Aoi | None) -> tuple[list[Scene], list[str]]:
    """The scenes of a run, on top first, and what the user should know about them.

    Raises
    ------
    CatalogError: there are none, or one that was asked for is not among them.
    """
    scenes = find_scenes(settings.source or (settings.catalog,), query_of(settings, aoi))
    if settings.scenes:
        found = [s.id for s in scenes]
        missing = [scene for scene in settings.scenes if scene not in found]
        if missing:
            expected = f"scenes of the source ({', '.join(found[:8])})"
            raise CatalogError(expected, ", ".join(missing), "Check --set scenes, --aoi and --datetime.")
        scenes = [s for s in scenes if s.id in settings.scenes]
    undated = sum(s.datetime is None for s in scenes)
    notes = [f"{undated} of {len(scenes)} scenes have no date: they go below the dated ones"] if 0 < undated < len(scenes) else []
    return _ordered(scenes, settings.composite), notes


def _ordered(scenes: Sequence[Scene], composite: str) -> list[Scene]:
    """On top first. Scenes of equal date, and undated ones, keep the order of their ids."""
    if composite == "listed":
        return list(scenes)
    by_id = sorted(scenes, key=lambda s: s.id)
    dated = [s for s in by_id if s.datetime is not None]
    dated.sort(key=lambda s: s.datetime.timestamp() if s.datetime else 0.0, reverse=composite == "newest")
    return dated + [s for s in by_id if s.datetime is None]


def _prepare(scenes: Sequence[Scene], settings: RunSettings) -> tuple[tuple[SceneJob, ...], list[str]]:
    prepared, notes = [], []
    radiometry = settings.radiometry
    for scene in scenes:
        info, sample, note = _look(scene, settings)
        notes.extend([note] if note else [])
        stretch = measure_stretch(sample.image, sample.valid, radiometry.low_percent, radiometry.high_percent)
        if stretch is None:
            notes.append(f"{scene.id} has no valid pixel and is left out")
            continue
        if "alpha" in info.colours and sample.opaque is None:
            notes.append(f"{scene.id}: its alpha band holds measurements, not a mask, and is not used as one")
        bands = choose_bands(info, settings.bands)
        prepared.append(SceneJob(scene.id, scene.iso_datetime, info, bands, sample.opaque, stretch, scene.item_href, scene.licence))
    if not prepared:
        came = f"only nodata in {', '.join(s.id for s in scenes)}"
        raise BlankError("a scene with valid pixels", came, "Check nodata values and masks.")
    return tuple(prepared), notes


def _look(scene: Scene, settings: RunSettings) -> tuple[RasterInfo, Sample, str | None]:
    """A scene's image with the nodata value that it goes by, a sample of it, and what the user should know of its collar."""
    info = scene.info if settings.nodata is None else _with_nodata(scene.info, settings.nodata)
    sample = read_sample(info, choose_bands(info, settings.bands), settings.radiometry.sample_px)
    collar = find_collar(sample.image, sample.valid, info.dtype) if settings.nodata is None else None
    if collar is None:
        return info, sample, None
    what = f"{scene.id}: {collar.share:.0%} of it, along its edges, is {collar.value:g} in every band"
    if not (settings.collars and collar.is_apart and info.nodata is None):
        return info, sample, f"{what}, and counts as ground; if it is none, say --set nodata={collar.value:g}"
    info = _with_nodata(info, collar.value)
    sample = read_sample(info, choose_bands(info, settings.bands), settings.radiometry.sample_px)
    return info, sample, f"{what}, and counts as not observed; if it is ground, say --set collars=false"


def _with_nodata(info: RasterInfo, nodata: float) -> RasterInfo:
    dtype = np.dtype(info.dtype)
    fits = dtype.kind == "f" or (float(nodata).is_integer() and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max)
    if not fits:
        raise RasterError(f"a nodata value that {info.dtype} can hold", f"{nodata:g} for {info.href}", "Give another value.")
    return replace(info, nodata=nodata)
