"""The archive: which scenes a run may use, from files, folders and STAC catalogs. `catalog_write` adds to one."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pystac
import shapely
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import CatalogError, UsageError
from rs_pipeline.products import read_manifest
from rs_pipeline.raster import RasterInfo, describe

GEOTIFF_SUFFIXES = frozenset({".tif", ".tiff"})
UNDATED = "rs_seg:undated"
"""Property of an item whose image nobody dated; STAC itself wants a time."""
STAC_ERRORS = (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, TypeError, AttributeError)
"""What pystac raises on a file that is not STAC."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of the archive."""

    id: str
    """Unique within a run."""
    info: RasterInfo
    datetime: dt.datetime | None
    """When it was taken, UTC; None where nobody says."""

    @property
    def iso_datetime(self) -> str | None:
        """ISO 8601, or None."""
        return self.datetime.isoformat().replace("+00:00", "Z") if self.datetime else None


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of time, both ends included; None is open."""

    start: dt.datetime | None
    stop: dt.datetime | None

    def holds(self, moment: dt.datetime | None) -> bool:
        """True where `moment` lies inside; a scene without a date is in no bounded range."""
        if self.start is None and self.stop is None:
            return True
        if moment is None:
            return False
        return (self.start is None or moment >= self.start) and (self.stop is None or moment <= self.stop)


def parse_interval(text: str | None) -> Interval:
    """`FROM/TO` with either end open (`..` or nothing), or one day, as ISO 8601 dates or times.

    Raises
    ------
    UsageError: not dates, or the wrong way round.
    """
    if text is None:
        return Interval(None, None)
    first, slash, last = text.partition("/")
    start, stop = _moment(first, text, end=False), _moment(last if slash else first, text, end=True)
    if start and stop and start > stop:
        raise UsageError("--datetime FROM/TO with FROM before TO", text, "Swap them.")
    return Interval(start, stop)


def _moment(text: str, whole: str, *, end: bool) -> dt.datetime | None:
    text = text.strip()
    if text in {"", ".."}:
        return None
    try:
        day = dt.date.fromisoformat(text)
        return dt.datetime.combine(day, dt.time.max if end else dt.time.min, dt.UTC)
    except ValueError:
        pass
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError("--datetime as 2026-01-31, or 2026-01-01/2026-01-31", whole, "Write ISO 8601 dates.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def find_scenes(sources: Sequence[str], interval: Interval, aoi: BaseGeometry | None) -> list[Scene]:
    """The scenes of some sources that meet an area and a range of time.

    Parameters
    ----------
    sources: GeoTIFFs, folders of them, or STAC catalogs, collections and items (JSON files).
    aoi: in EPSG:4326; None is everywhere.

    Raises
    ------
    CatalogError: a source that cannot be read, or no scene left; says why.
    RasterError: an image that cannot be opened.
    """
    found = list({s.info.href: s for source in sources for s in _scenes_of(source, interval, aoi)}.values())
    if not found:
        where = " that meets the AOI" if aoi is not None else ""
        when = "" if interval == Interval(None, None) else " in the dates asked"
        fix = "Check the AOI and --datetime; `rs-seg catalog list` shows what there is."
        raise CatalogError(f"a scene{where}{when}", f"none in {', '.join(sources)}", fix)
    return with_unique_ids(found)


def _scenes_of(source: str, interval: Interval, aoi: BaseGeometry | None) -> Iterator[Scene]:
    path = Path(source)
    if not source or not path.exists():
        fix = "Make a catalog with `rs-seg demo` or `rs-seg catalog add`, or give --source."
        raise CatalogError("a GeoTIFF, a folder of them, or a STAC catalog", f"{source}, which does not exist", fix)
    if path.is_file() and path.suffix.lower() == ".json":
        scenes: Iterable[Scene] = _from_stac(path, interval, aoi)
    else:
        scenes = (read_scene(p, None) for p in geotiffs(path))
    for scene in scenes:
        if interval.holds(scene.datetime) and (aoi is None or scene.info.footprint.intersects(aoi)):
            yield scene


def geotiffs(path: Path) -> list[Path]:
    """The file itself, or every GeoTIFF below a folder, in order.

    Raises
    ------
    CatalogError: a folder without any.
    """
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in GEOTIFF_SUFFIXES and p.is_file() and not _is_ours(p, path))
    if not files:
        raise CatalogError("a folder with GeoTIFFs (.tif, .tiff)", f"none in {path}", "Check the path.")
    return files


def _is_ours(file: Path, root: Path) -> bool:
    """True for what runs leave in a folder: hidden stores and products."""
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return hidden or read_manifest(file.parent) is not None


def read_scene(path: Path, taken: dt.datetime | None) -> Scene:
    """A GeoTIFF as a scene, named by its file; `taken` wins over what the file says."""
    info = describe(str(path.resolve()))
    return Scene(path.stem, info, taken or date_of(info))


def _from_stac(path: Path, interval: Interval, aoi: BaseGeometry | None) -> Iterator[Scene]:
    for item in read_items(path):
        near = aoi is None or item.geometry is None or shapely.geometry.shape(item.geometry).intersects(aoi)
        taken = None if item.properties.get(UNDATED) else item.datetime or item.common_metadata.start_datetime
        taken = taken.replace(tzinfo=dt.UTC) if taken and not taken.tzinfo else taken
        if near and interval.holds(taken):
            href = image_href(item)
            yield Scene(item.id, describe(href), taken)


def read_items(path: Path) -> list[pystac.Item]:
    """The items of a STAC catalog, collection or item file.

    Raises
    ------
    CatalogError: not STAC, or a link that leads nowhere.
    """
    try:
        stac = pystac.read_file(str(path))
        if isinstance(stac, pystac.Item):
            return [stac]
        return list(stac.get_items(recursive=True)) if isinstance(stac, pystac.Catalog) else []
    except (*STAC_ERRORS, OSError) as error:
        raise CatalogError("a STAC catalog, collection or item", f"{path} ({' '.join(str(error).split())})", "Check the file.") from error


def image_href(item: pystac.Item) -> str:
    """Absolute path or URL of an item's image: its asset with the role `data`, else `visual`, else the only GeoTIFF.

    Raises
    ------
    CatalogError: no such asset, or more than one that could be meant.
    """
    images = [a for a in item.assets.values() if "tiff" in (a.media_type or "").lower() or Path(a.href).suffix.lower() in GEOTIFF_SUFFIXES]
    for wanted in (
        [a for a in images if "data" in (a.roles or [])],
        [a for key, a in item.assets.items() if a in images and "visual" in {key, *(a.roles or [])}],
        images,
    ):
        if len(wanted) == 1:
            href = wanted[0].get_absolute_href()
            if href is not None:
                return str(href)
    raise CatalogError("one GeoTIFF asset with the role `data`", f"{len(images)} GeoTIFF assets in item {item.id}", "Mark the one to use.")


def date_of(info: RasterInfo) -> dt.datetime | None:
    """When an image was taken: a date in the file's name (20260131 or 2026-01-31), else TIFFTAG_DATETIME.

    The tag comes second because many programs put the time there at which they wrote the file.
    """
    for year, month, day in re.findall(r"(?<!\d)((?:19|20)\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?!\d)", Path(info.href).stem):
        try:
            return dt.datetime(int(year), int(month), int(day), tzinfo=dt.UTC)
        except ValueError:
            continue
    if info.taken:
        try:
            return dt.datetime.strptime(info.taken.strip(), "%Y:%m:%d %H:%M:%S").replace(tzinfo=dt.UTC)
        except ValueError:
            pass
    return None


def with_unique_ids(scenes: Sequence[Scene], taken: Container[str] = ()) -> list[Scene]:
    """The scenes, each under an id that neither another of them nor `taken` has: its own, or that with a digest of its path."""
    ids = Counter(s.id for s in scenes)

    def unique(scene: Scene) -> Scene:
        if ids[scene.id] == 1 and scene.id not in taken:
            return scene
        return replace(scene, id=f"{scene.id}-{hashlib.sha256(scene.info.href.encode()).hexdigest()[:8]}")

    return [unique(s) for s in scenes]
