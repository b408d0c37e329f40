"""The area of interest: from a file or four numbers to one clean polygon."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import shapely
from pyogrio.errors import DataSourceError
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import AoiError

_DENSIFY_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class Aoi:
    """Where to look."""

    geometry: BaseGeometry
    """A valid Polygon or MultiPolygon, not empty."""
    crs: CRS
    notes: tuple[str, ...] = ()
    """What was mended, for the user to read."""

    def in_crs(self, crs: CRS) -> BaseGeometry:
        """The geometry in another CRS, its edges densified first so that straight lines may bend."""
        if crs == self.crs:
            return self.geometry
        minx, miny, maxx, maxy = self.geometry.bounds
        step = max(maxx - minx, maxy - miny) / _DENSIFY_SEGMENTS
        moved: BaseGeometry = gpd.GeoSeries([shapely.segmentize(self.geometry, step)], crs=self.crs).to_crs(crs).iloc[0]
        if not shapely.is_valid(moved):
            moved = _polygons_of(shapely.make_valid(moved))
        if moved.is_empty or not all(abs(v) < float("inf") for v in moved.bounds):
            raise AoiError(f"an area that {crs.to_string()} can express", f"bounds {self.geometry.bounds}", "Check the AOI's CRS.")
        return moved


def read_aoi(spec: str) -> Aoi:
    """Read `--aoi`.

    Parameters
    ----------
    spec: a vector file that GDAL reads (GeoJSON, GeoPackage, Shapefile …; all its polygons count), or
        `minx,miny,maxx,maxy` in degrees of longitude and latitude.

    Raises
    ------
    AoiError: missing, unreadable, empty, not polygons, without a CRS.
    """
    numbers = _as_numbers(spec)
    return _from_box(numbers, spec) if numbers is not None else _from_file(Path(spec))


def _as_numbers(spec: str) -> list[float] | None:
    try:
        return [float(part) for part in spec.split(",")]
    except ValueError:
        return None


def _from_box(numbers: list[float], spec: str) -> Aoi:
    lon_lat = "minx,miny,maxx,maxy in degrees of longitude and latitude"
    if len(numbers) != 4:
        raise AoiError(lon_lat, f"{len(numbers)} numbers: {spec}", "Give four.")
    minx, miny, maxx, maxy = numbers
    if not (-180 <= minx < maxx <= 180 and -90 <= miny < maxy <= 90):
        raise AoiError(lon_lat, spec, "Order them west, south, east, north; for another CRS give a file.")
    return Aoi(shapely.box(minx, miny, maxx, maxy), CRS.from_epsg(4326))


def _from_file(path: Path) -> Aoi:
    if not path.exists():
        raise AoiError("an AOI file, or minx,miny,maxx,maxy", f"{path}, which does not exist", "Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = gpd.read_file(path)
    except (DataSourceError, ValueError, OSError) as error:
        raise AoiError("GeoJSON, GeoPackage or Shapefile", f"{path} ({' '.join(str(error).split())})", "Check the file.") from error
    if not isinstance(frame, gpd.GeoDataFrame):
        raise AoiError("polygons", f"{path}, which holds a table without geometry", "Give a file with polygons.")
    if frame.crs is None:
        raise AoiError("an AOI with a CRS", f"{path} without one", "Set it, for example with `ogr2ogr -a_srs EPSG:4326`.")
    geometries = [g for g in frame.geometry if g is not None and not g.is_empty]
    if not geometries:
        raise AoiError("at least one polygon", f"no geometry in {path}", "Draw the area first.")
    return Aoi(_mended(geometries, path), CRS.from_user_input(frame.crs), _notes(geometries, path))


def _mended(geometries: list[BaseGeometry], path: Path) -> BaseGeometry:
    kinds = sorted({g.geom_type for g in geometries})
    polygons = _polygons_of(shapely.union_all([_polygons_of(shapely.make_valid(g)) for g in geometries]))
    if polygons.is_empty:
        raise AoiError("polygons with an area", f"{', '.join(kinds)} in {path}", "Buffer lines and points, or draw the area.")
    if not shapely.is_valid(polygons) or not all(abs(v) < float("inf") for v in polygons.bounds):
        raise AoiError("finite coordinates", f"bounds {polygons.bounds} in {path}", "Mend the file.")
    return polygons


def _notes(geometries: list[BaseGeometry], path: Path) -> tuple[str, ...]:
    crossed = [shapely.is_valid_reason(g) for g in geometries if not g.is_valid]
    return (f"mended {len(crossed)} invalid polygon(s) of {path.name}: {crossed[0]}",) if crossed else ()


def _polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons in `geometry`, one Polygon or MultiPolygon; empty where there are none."""
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in {"Polygon", "MultiPolygon"} and p.area > 0]
    return shapely.union_all(parts) if parts else shapely.Polygon()
