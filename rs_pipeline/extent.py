"""The run's one grid: in which CRS, at which resolution, over which pixels. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from odc.geo import crs as odc_crs
from odc.geo import xy_
from odc.geo.geobox import GeoBox
from pyproj import CRS, Proj
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from rs_pipeline.aoi import Aoi
from rs_pipeline.catalog import Scene
from rs_pipeline.errors import AoiError, OutsideError
from rs_pipeline.grid import Grid
from rs_pipeline.segmenter import ModelInfo

LON_LAT = CRS.from_epsg(4326)
MAX_AREA_ERROR = 0.02
"""A projected CRS whose areas are off by more than this at the place (Mercator far from the equator) is not used."""
UTM_LIMIT = 84.0
HALF_TURN = 180.0
_SAME = 1e-3


def choose_crs(scene: Scene, where: BaseGeometry) -> tuple[CRS, str | None]:
    """The scene's CRS where its units are metres and its areas true, else the UTM zone, else an equal-area projection of the place.

    Parameters
    ----------
    where: the place, in EPSG:4326.

    Returns
    -------
    The CRS, and a note where it is not the scene's.
    """
    reason = _unfit(scene.info.crs, where)
    if reason is None:
        return scene.info.crs, None
    lon, lat = _middle(where)
    local = CRS.from_proj4(f"+proj=laea +lon_0={lon:.2f} +lat_0={lat:.2f} +datum=WGS84 +units=m +type=crs")
    crs = local
    if abs(lat) < UTM_LIMIT:
        utm = CRS.from_wkt(odc_crs.CRS.utm(lon, lat).to_wkt())
        crs = utm if _unfit(utm, where) is None else local
    name = crs.to_string() if crs != local else f"Lambert azimuthal equal-area around {lon:.2f}, {lat:.2f}"
    return crs, f"{scene.id} is in {scene.info.crs.to_string()} ({reason}): the run's grid is in {name}"


def _middle(where: BaseGeometry) -> tuple[float, float]:
    """Longitude and latitude in the middle of a place; one that lies on both sides of the antimeridian is joined there first."""
    minx, _, maxx, _ = where.bounds
    if maxx - minx > HALF_TURN:
        where = shapely.transform(where, lambda p: np.column_stack([p[:, 0] % (2 * HALF_TURN), p[:, 1]]))
    lon = (where.centroid.x + HALF_TURN) % (2 * HALF_TURN) - HALF_TURN
    return float(lon), float(where.centroid.y)


def _unfit(crs: CRS, where: BaseGeometry) -> str | None:
    if not crs.is_projected:
        return "degrees"
    if any(abs(axis.unit_conversion_factor - 1.0) > _SAME for axis in crs.axis_info[:2]):
        return f"units of {crs.axis_info[0].unit_name}"
    points = np.vstack([[_middle(where)], shapely.get_coordinates(shapely.envelope(where))])
    try:
        scales = np.asarray(Proj(crs).get_factors(points[:, 0], points[:, 1]).areal_scale)
    except (ProjError, CRSError):
        return "which tells nothing of its areas"
    worst = float(scales[np.argmax(np.abs(scales - 1.0))])
    return f"its areas are {worst:.2f} times the true ones here" if not abs(worst - 1.0) <= MAX_AREA_ERROR else None


def choose_gsd(asked_m: float | None, info: ModelInfo, scenes: Sequence[Scene]) -> tuple[float, list[str]]:
    """Ground sampling distance of the run, metres, and what the user should know about it."""
    finest = min(s.info.gsd_m for s in scenes)
    gsd_m = asked_m if asked_m is not None else max(info.gsd_m or finest, finest)
    notes = [
        f"{s.id} has {s.info.gsd_m:.3g} m pixels and is upsampled to {gsd_m:.3g} m" for s in scenes if s.info.gsd_m > gsd_m * (1 + 0.05)
    ]
    low, high = info.gsd_range_m or (gsd_m, gsd_m)
    if not low * (1 - 0.05) <= gsd_m <= high * (1 + 0.05):
        notes.append(f"{gsd_m:.3g} m is outside the {low:g}…{high:g} m that {info.name} was trained on: expect poor results")
    return gsd_m, notes


def build_grid(crs: CRS, gsd_m: float, aoi: Aoi | None, scenes: Sequence[Scene]) -> Grid:
    """The smallest grid over the AOI where scenes are, its pixels those of the first scene where that is possible.

    Raises
    ------
    AoiError: the AOI and the scenes do not meet in this CRS.
    """
    outlines = [s.info.outline(crs) for s in scenes]
    asked = shapely.box(*aoi.in_crs(crs).bounds) if aoi is not None else None
    if not any(o.is_empty for o in outlines):
        seen = shapely.envelope(shapely.union_all(outlines))
        covered = seen if asked is None else shapely.intersection(asked, seen)
    elif asked is not None:
        covered = asked
    else:
        raise AoiError(f"scenes that {crs.name} can express", ", ".join(s.id for s in scenes), "Say which part of them with --aoi.")
    if covered.is_empty or covered.area == 0:
        raise OutsideError("an AOI that meets a scene", f"bounds {aoi.geometry.bounds if aoi else None}", "Check its CRS and place.")
    size, anchor = _pixels_of(scenes[0], crs, gsd_m)
    box = GeoBox.from_bbox(covered.bounds, crs.to_wkt(), resolution=size, anchor=xy_(*anchor), tol=_SAME)
    return Grid(crs, box.affine, box.shape.y, box.shape.x)


def _pixels_of(scene: Scene, crs: CRS, gsd_m: float) -> tuple[float, tuple[float, float]]:
    """Pixel size and where pixel edges fall (fraction of a pixel): the scene's own, so that nothing is resampled for nothing."""
    t = scene.info.transform
    upright = t.b == 0 and t.d == 0 and t.a > 0 and abs(t.a - abs(t.e)) < _SAME * t.a
    if scene.info.crs != crs or not upright or abs(t.a - gsd_m) > 0.01 * gsd_m:
        return gsd_m, (0.0, 0.0)
    return t.a, ((t.c / t.a) % 1.0, (t.f / t.a) % 1.0)
