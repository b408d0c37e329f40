"""The area of interest: from a file or four numbers to one clean polygon."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import ProjError
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import AoiError, OutsideError
from rs_pipeline.geopackage import plain_path

_DENSIFY_SEGMENTS = 64
_FULL_TURN = 360.0
_LON_LAT = CRS.from_epsg(4326)


@dataclass(frozen=True, slots=True)
class Aoi:
    """Where to look."""

    geometry: BaseGeometry
    """A valid Polygon or MultiPolygon, not empty."""
    crs: CRS
    notes: tuple[str, ...] = ()
    """What was mended, for the user to read."""

    def in_crs(self, crs: CRS) -> BaseGeometry:
        """The geometry in another CRS, its edges densified first so that straight lines may bend.

        Raises
        ------
        AoiError: `crs` cannot express it.
        """
        if crs == self.crs:
            return self.geometry
        minx, miny, maxx, maxy = self.geometry.bounds
        step = max(maxx - minx, maxy - miny) / _DENSIFY_SEGMENTS
        try:
            moved: BaseGeometry = gpd.GeoSeries([shapely.segmentize(self.geometry, step)], crs=self.crs).to_crs(crs).iloc[0]
        except ProjError as error:
            raise AoiError("an AOI with a CRS on the Earth", f"{self.crs.name!r} ({error})", "Set the CRS of the file.") from error
        if moved.is_empty or not np.isfinite(moved.bounds).all():
            raise AoiError(f"an area that {crs.to_string()} can express", f"bounds {self.geometry.bounds}", "Check the AOI's CRS.")
        return moved if shapely.is_valid(moved) else _polygons_of(shapely.make_valid(moved))

    def near(self, place: BaseGeometry) -> Aoi:
        """The part of an area in degrees around a place in EPSG:4326; other areas stay as they are.

        A continent cannot be projected where a scene can, nor densified enough.

        Raises
        ------
        AoiError: nothing of it is there.
        """
        if self.crs.is_projected:
            return self
        minx, miny, maxx, maxy = Aoi(place, _LON_LAT).in_crs(self.crs).bounds
        margin = 0.05 * max(maxx - minx, maxy - miny)
        part = _polygons_of(shapely.intersection(self.geometry, shapely.box(minx - margin, miny - margin, maxx + margin, maxy + margin)))
        if part.is_empty:
            raise OutsideError("an AOI that meets a scene", f"bounds {self.geometry.bounds}", "Check its CRS and place.")
        return Aoi(part, self.crs, self.notes)


def read_aoi(spec: str) -> Aoi:
    """Read `--aoi`.

    Parameters
    ----------
    spec: a vector file that GDAL reads (GeoJSON, GeoPackage, Shapefile …; all polygons of all its layers count), or
        `minx,miny,maxx,maxy` in degrees of longitude and latitude, minx > maxx where it crosses the antimeridian.

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
    west, south, east, north = numbers
    # As in GeoJSON, west > east crosses the antimeridian; wider than half the Earth it is a slip.
    width = east - west if east > west else east - west + 360
    if not (-180 <= west <= 180 and -180 <= east <= 180 and 0 < width < (361 if east > west else 180) and -90 <= south < north <= 90):
        raise AoiError(lon_lat, spec, "Order them west, south, east, north; for another CRS give a file.")
    if west > east:
        return Aoi(shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]), _LON_LAT)
    return Aoi(shapely.box(west, south, east, north), _LON_LAT)


def _from_file(path: Path) -> Aoi:
    if not path.is_file():
        raise AoiError("an AOI file, or minx,miny,maxx,maxy", f"{str(path)!r}, which does not exist or is a folder", "Check the path.")
    frames = _read_layers(path)
    if not frames:
        raise AoiError("polygons", f"{path}, which holds a table without geometry", "Give a file with polygons.")
    crs = frames[0].crs
    if any(frame.crs is None for frame in frames):
        raise AoiError("an AOI with a CRS", f"{path} without one", "Set it, for example with `ogr2ogr -a_srs EPSG:4326`.")
    geometries = [g for frame in frames for g in frame.to_crs(crs).geometry if g is not None and not g.is_empty]
    if not geometries:
        raise AoiError("at least one polygon", f"no geometry in {path}", "Draw the area first.")
    area = Aoi(_mended(geometries, path), CRS.from_user_input(crs), _notes(geometries, path))
    if area.crs.is_geographic and np.abs(area.geometry.bounds).max() > _FULL_TURN:
        raise AoiError(f"degrees, as {area.crs.name} has them", f"bounds {area.geometry.bounds} in {path}", "Give the file its true CRS.")
    return area


def _read_layers(path: Path) -> list[gpd.GeoDataFrame]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with plain_path(path) as plain:
                return [gpd.read_file(plain, layer=name) for name, kind in pyogrio.list_layers(plain) if kind is not None]
    except (DataSourceError, DataLayerError, ShapelyError, ValueError, OSError) as error:
        raise AoiError("GeoJSON, GeoPackage or Shapefile", f"{path} ({' '.join(str(error).split())})", "Check the file.") from error


def _mended(geometries: list[BaseGeometry], path: Path) -> BaseGeometry:
    kinds = sorted({g.geom_type for g in geometries})
    try:
        polygons = _polygons_of(shapely.union_all([_polygons_of(shapely.make_valid(g)) for g in geometries]))
    except ShapelyError as error:
        raise AoiError("polygons that can be mended", f"{path} ({error})", "Mend the file.") from error
    if polygons.is_empty:
        raise AoiError("polygons with an area", f"{', '.join(kinds)} in {path}", "Buffer lines and points, or draw the area.")
    if not shapely.is_valid(polygons) or not np.isfinite(polygons.bounds).all():
        raise AoiError("finite coordinates", f"bounds {polygons.bounds} in {path}", "Mend the file.")
    return polygons


def _notes(geometries: list[BaseGeometry], path: Path) -> tuple[str, ...]:
    crossed = [shapely.is_valid_reason(g) for g in geometries if not g.is_valid]
    return (f"mended {len(crossed)} invalid polygon(s) of {path.name}: {crossed[0]}",) if crossed else ()


def _polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons in `geometry`, one Polygon or MultiPolygon; empty where there are none."""
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in {"Polygon", "MultiPolygon"} and p.area > 0]
    return shapely.union_all(parts) if parts else shapely.Polygon()
