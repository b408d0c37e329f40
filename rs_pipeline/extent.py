"""The run's one grid: in which CRS, at which resolution, over which pixels. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import shapely
from odc.geo import crs as odc_crs
from odc.geo import xy_
from odc.geo.geobox import GeoBox
from pyproj import CRS, Proj
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from rs_pipeline.aoi import Aoi
from rs_pipeline.catalog import Scene
from rs_pipeline.errors import AoiError
from rs_pipeline.grid import Grid
from rs_pipeline.segmenter import ModelInfo

LON_LAT = CRS.from_epsg(4326)
MAX_AREA_ERROR = 0.02
"""A projected CRS whose areas are off by more than this at the place (Mercator far from the equator) is not used."""
_SAME = 1e-3


def choose_crs(scene: Scene, where: BaseGeometry) -> tuple[CRS, str | None]:
    """The scene's CRS where its units are metres and its areas true, else the UTM zone.

    Parameters
    ----------
    where: the place, in EPSG:4326.

    Returns
    -------
    The CRS, and a note where it is not the scene's.
    """
    crs = scene.info.crs
    reason = _unfit(crs, where)
    if reason is None:
        return crs, None
    utm = CRS.from_wkt(odc_crs.CRS.utm(where.centroid.x, where.centroid.y).to_wkt())
    return utm, f"{scene.id} is in {crs.to_string()} ({reason}): the run's grid is in {utm.to_string()}"


def _unfit(crs: CRS, where: BaseGeometry) -> str | None:
    if not crs.is_projected:
        return "degrees"
    if any(abs(axis.unit_conversion_factor - 1.0) > _SAME for axis in crs.axis_info[:2]):
        return f"units of {crs.axis_info[0].unit_name}"
    try:
        scale = Proj(crs).get_factors(where.centroid.x, where.centroid.y).areal_scale
    except (ProjError, CRSError):
        return None
    return f"its areas are {scale:.2f} times the true ones here" if abs(scale - 1.0) > MAX_AREA_ERROR else None


def choose_gsd(asked_m: float | None, info: ModelInfo, scenes: Sequence[Scene]) -> tuple[float, list[str]]:
    """Ground sampling distance of the run, metres, and what the user should know about it."""
    finest = min(s.info.gsd_m for s in scenes)
    gsd_m = asked_m if asked_m is not None else max(info.gsd_m, finest)
    notes = [
        f"{s.id} has {s.info.gsd_m:.3g} m pixels and is upsampled to {gsd_m:.3g} m" for s in scenes if s.info.gsd_m > gsd_m * (1 + 0.05)
    ]
    low, high = info.gsd_range_m
    if not low * (1 - 0.05) <= gsd_m <= high * (1 + 0.05):
        notes.append(f"{gsd_m:.3g} m is outside the {low:g}…{high:g} m that {info.name} was trained on: expect poor results")
    return gsd_m, notes


def build_grid(crs: CRS, gsd_m: float, aoi: Aoi | None, scenes: Sequence[Scene]) -> Grid:
    """The smallest grid over the AOI where scenes are, its pixels those of the first scene where that is possible.

    Raises
    ------
    AoiError: the AOI and the scenes do not meet in this CRS.
    """
    outlines = shapely.union_all([_outline(s, crs) for s in scenes])
    covered = outlines if aoi is None else shapely.intersection(shapely.box(*aoi.in_crs(crs).bounds), shapely.envelope(outlines))
    if covered.is_empty or covered.area == 0:
        raise AoiError("an AOI that meets a scene", f"bounds {aoi.geometry.bounds if aoi else None}", "Check its CRS and place.")
    size, anchor = _pixels_of(scenes[0], crs, gsd_m)
    box = GeoBox.from_bbox(covered.bounds, crs.to_wkt(), resolution=size, anchor=xy_(*anchor), tol=_SAME)
    return Grid(crs, box.affine, box.shape.y, box.shape.x)


def _outline(scene: Scene, crs: CRS) -> BaseGeometry:
    info = scene.info
    if info.crs == crs:
        corners = [info.transform @ p for p in ((0, 0), (info.width, 0), (info.width, info.height), (0, info.height))]
        return shapely.Polygon(corners)
    return Aoi(info.footprint, LON_LAT).in_crs(crs)


def _pixels_of(scene: Scene, crs: CRS, gsd_m: float) -> tuple[float, tuple[float, float]]:
    """Pixel size and where pixel edges fall (fraction of a pixel): the scene's own, so that nothing is resampled for nothing."""
    t = scene.info.transform
    north_up = t.b == 0 and t.d == 0 and t.a > 0 and abs(t.a + t.e) < _SAME * t.a
    if scene.info.crs != crs or not north_up or abs(t.a - gsd_m) > 0.01 * gsd_m:
        return gsd_m, (0.0, 0.0)
    return t.a, ((t.c / t.a) % 1.0, (t.f / t.a) % 1.0)
