"""The archive: which scenes a run may use, from files, folders and STAC catalogs, and new scenes into a catalog."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pystac
import shapely
from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import CatalogError, RasterError, UsageError
from rs_pipeline.raster import RasterInfo, describe

GEOTIFF_SUFFIXES = frozenset({".tif", ".tiff"})
SCENES = "scenes"
_STAC_ERRORS = (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, TypeError)
_METRES_PER_DEGREE = 111_320.0


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
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError("--datetime as 2026-01-31, or 2026-01-01/2026-01-31", whole, "Write ISO 8601 dates.") from error
    if end and len(text) == len("2026-01-31"):
        moment += dt.timedelta(days=1, microseconds=-1)
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
    return _with_unique_ids(found)


def _scenes_of(source: str, interval: Interval, aoi: BaseGeometry | None) -> Iterator[Scene]:
    path = Path(source)
    if not path.exists():
        fix = "Make a catalog with `rs-seg demo` or `rs-seg catalog add`, or give --source."
        raise CatalogError("a GeoTIFF, a folder of them, or a STAC catalog", f"{source}, which does not exist", fix)
    if path.is_file() and path.suffix.lower() == ".json":
        scenes: Iterable[Scene] = _from_stac(path, interval, aoi)
    else:
        scenes = (_from_file(p, None) for p in _geotiffs(path))
    for scene in scenes:
        if interval.holds(scene.datetime) and (aoi is None or scene.info.footprint.intersects(aoi)):
            yield scene


def _geotiffs(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in GEOTIFF_SUFFIXES and p.is_file())
    if not files:
        raise CatalogError("a folder with GeoTIFFs (.tif, .tiff)", f"none in {path}", "Check the path.")
    return files


def _from_file(path: Path, taken: dt.datetime | None) -> Scene:
    info = describe(str(path.resolve()))
    return Scene(path.stem, info, taken or date_of(info))


def _from_stac(path: Path, interval: Interval, aoi: BaseGeometry | None) -> Iterator[Scene]:
    for item in read_items(path):
        near = aoi is None or item.geometry is None or shapely.geometry.shape(item.geometry).intersects(aoi)
        taken = item.datetime or item.common_metadata.start_datetime
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
    except (*_STAC_ERRORS, OSError, AttributeError) as error:
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
    """When an image was taken: TIFFTAG_DATETIME, else a date in the file's name (20260131 or 2026-01-31)."""
    if info.taken:
        try:
            return dt.datetime.strptime(info.taken.strip(), "%Y:%m:%d %H:%M:%S").replace(tzinfo=dt.UTC)
        except ValueError:
            pass
    for year, month, day in re.findall(r"(?<!\d)((?:19|20)\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?!\d)", Path(info.href).stem):
        try:
            return dt.datetime(int(year), int(month), int(day), tzinfo=dt.UTC)
        except ValueError:
            continue
    return None


def _with_unique_ids(scenes: list[Scene]) -> list[Scene]:
    ids = [s.id for s in scenes]
    clashing = {i for i in ids if ids.count(i) > 1}
    return [Scene(f"{Path(s.info.href).parent.name}/{s.id}" if s.id in clashing else s.id, s.info, s.datetime) for s in scenes]


def add_scenes(catalog: Path, sources: Sequence[str], taken: dt.datetime | None) -> tuple[list[str], list[str]]:
    """Put GeoTIFFs into a static catalog, made where there is none. An image that is there already is replaced.

    Parameters
    ----------
    catalog: path of catalog.json.
    sources: GeoTIFFs or folders of them.
    taken: when they were taken; None takes what the file says.

    Returns
    -------
    Ids added, and ids that were there already and are written anew.

    Raises
    ------
    CatalogError: a source or catalog that cannot be read or written; RasterError: an image that cannot be opened.
    """
    missing = [s for s in sources if not Path(s).exists()]
    if missing:
        raise CatalogError("GeoTIFFs or folders of them", f"{missing[0]}, which does not exist", "Check the path.")
    scenes = [_from_file(p, taken) for source in sources for p in _geotiffs(Path(source))]
    try:
        return _write_items(catalog, [_item(s, catalog.parent) for s in _with_unique_ids(scenes)])
    except OSError as error:
        raise CatalogError("a catalog that can be written", f"{catalog} ({error})", "Check permissions and disk space.") from error


def _item(scene: Scene, root: Path) -> pystac.Item:
    info = scene.info
    stem = scene.id.replace("/", "-")
    unknown = scene.datetime is None
    epoch = dt.datetime.fromtimestamp(Path(info.href).stat().st_mtime, dt.UTC)
    outline = info.footprint.simplify(info.gsd_m / _METRES_PER_DEGREE)
    item = pystac.Item(
        id=stem,
        geometry=shapely.geometry.mapping(outline),
        bbox=list(outline.bounds),
        datetime=None if unknown else scene.datetime,
        properties={"gsd": round(info.gsd_m, 4)},
        # STAC wants a time. Where nobody says when, all that is true is that it was before the file was written.
        start_datetime=dt.datetime(1970, 1, 1, tzinfo=dt.UTC) if unknown else None,
        end_datetime=epoch if unknown else None,
    )
    folder = (root / SCENES / stem).resolve()
    asset = pystac.Asset(href=os.path.relpath(info.href, folder), media_type=pystac.MediaType.GEOTIFF, roles=["data"])
    item.add_asset("image", asset)
    return item


def _write_items(path: Path, items: list[pystac.Item]) -> tuple[list[str], list[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    catalog = _open_or_make(path)
    collection = catalog.get_child(SCENES)
    if not isinstance(collection, pystac.Collection):
        everywhere = pystac.Extent(pystac.SpatialExtent([-180.0, -90.0, 180.0, 90.0]), pystac.TemporalExtent([None, None]))
        collection = pystac.Collection(SCENES, "Scenes of the archive", everywhere)
        catalog.add_child(collection)
    known = {i.id for i in collection.get_items()}
    for item in items:
        if item.id in known:
            collection.remove_item(item.id)
        collection.add_item(item)
    collection.update_extent_from_items()
    catalog.normalize_hrefs(str(path.parent.resolve()), skip_unresolved=True)
    catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    return [i.id for i in items if i.id not in known], [i.id for i in items if i.id in known]


def _open_or_make(path: Path) -> pystac.Catalog:
    if not path.exists():
        return pystac.Catalog(path.parent.name, "Scenes of the archive and products of its runs", href=str(path.resolve()))
    try:
        return pystac.Catalog.from_file(str(path))
    except _STAC_ERRORS as error:
        raise CatalogError("a STAC catalog", f"{path} ({' '.join(str(error).split())})", "Move it away, or name another.") from error


def validate_catalog(path: Path) -> list[str]:
    """What is wrong with a catalog: STAC schema errors, assets that are missing or cannot be read. Empty when all is well."""
    problems = []
    for item in read_items(path):
        try:
            item.validate()
        except pystac.STACValidationError as error:
            problems.append(f"{item.id}: {' '.join(str(error).split())}")
        try:
            describe(image_href(item))
        except (CatalogError, RasterError) as error:
            problems.append(f"{item.id}: {error}")
    return problems
