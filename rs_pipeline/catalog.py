"""The archive: which scenes a run may use, from files, folders, STAC catalogs and STAC APIs. `catalog_write` adds to one."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pystac

from rs_pipeline.errors import CatalogError, NoSceneError, RasterError
from rs_pipeline.fingerprints import fingerprint, has_changed
from rs_pipeline.products import read_manifest
from rs_pipeline.query import Query
from rs_pipeline.raster import RasterInfo, describe
from rs_pipeline.stac_assets import GEOTIFF_SUFFIXES, Image, image_of
from rs_pipeline.stac_sources import DamagedItem, date_of_item, find_items, is_url


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of the archive."""

    id: str
    """Unique within a run."""
    info: RasterInfo
    datetime: dt.datetime | None
    """When it was taken, UTC; None where nobody says."""
    item_href: str | None = None
    """Path or URL of its STAC item; None where it has none."""
    licence: str | None = None
    """SPDX identifier, as its item or that one's collection says."""

    @property
    def iso_datetime(self) -> str | None:
        """ISO 8601, or None."""
        return self.datetime.isoformat().replace("+00:00", "Z") if self.datetime else None


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the archive as it is listed: nothing of it is known to be there, or to be well."""

    id: str
    """The item's, unique within its collection; an image's by itself is the name of its file, which others may have too."""
    collection: str | None
    datetime: dt.datetime | None
    """When it was taken, UTC; None where nobody says."""
    version: str
    """Changes when the image changes: the checksum that its item states, else when that was `updated`, else a fingerprint."""
    item_href: str | None
    image: Image | CatalogError
    """Where it is, or why its item does not say."""
    info: RasterInfo | None = None
    """Its header, where only that says when and where it was taken."""

    def open(self, *, verify: bool = False) -> Scene:
        """The scene, its header read.

        Parameters
        ----------
        verify: hold every byte of a local file against its item's checksum; its size always is.

        Raises
        ------
        CatalogError: the item names no image that may be read, or the file is not the one it names.
        RasterError: the image cannot be opened.
        """
        if isinstance(self.image, CatalogError):
            raise CatalogError(*self.image.args)
        self.image.check(verify=verify)
        try:
            known = self.info is not None and not has_changed(self.image.href, self.info.fingerprint)
            info = self.info if known and self.info is not None else describe(self.image.href)
        except RasterError as error:
            if self.image.item is None:
                raise
            raise RasterError(error.expected, f"{error.got}, the image of item {self.image.item}", error.fix) from error
        return Scene(self.id, info, self.datetime, self.item_href, self.image.licence)


def find_scenes(sources: Sequence[str], query: Query) -> list[Scene]:
    """The scenes of some sources that a query takes.

    Parameters
    ----------
    sources: as `find_entries` takes them.

    Raises
    ------
    CatalogError: a source or item that cannot be read, or no scene left; says why.
    RasterError: an image that cannot be opened.
    """
    scenes = [entry.open() for entry in find_entries(sources, query)]
    scenes = [scene for scene in scenes if _meets(scene.info, query)]
    if not scenes:
        where = " that meets the AOI" if query.aoi is not None else ""
        when = "" if query.interval.is_open else " in the dates asked"
        asked = f" of {', '.join(query.collections)}" if query.collections else ""
        clear = f" under {query.max_cloud_cover:g} % of clouds" if query.max_cloud_cover is not None else ""
        fix = "Check the AOI and --datetime; `rs-seg catalog list` shows what there is."
        raise NoSceneError(f"a scene{asked}{where}{when}{clear}", f"none in {', '.join(sources)}", fix)
    ids = unique_ids([(scene.id, scene.info.href) for scene in scenes])
    return [replace(scene, id=name) for scene, name in zip(scenes, ids, strict=True)]


def find_entries(sources: Sequence[str], query: Query) -> list[Entry]:
    """What some sources hold that a query takes, each image once. No image of a STAC item is opened; there may be none.

    Parameters
    ----------
    sources: GeoTIFFs, folders of them, STAC catalogs, collections and items: paths, or web addresses; STAC APIs.

    Raises
    ------
    CatalogError: a source that cannot be read.
    """
    found: dict[str, Entry] = {}
    for source in sources:
        for entry in _entries_of(source, query):
            found.setdefault(_href_of(entry), entry)
    return list(found.values())


def _href_of(entry: Entry) -> str:
    return entry.image.href if isinstance(entry.image, Image) else f"{entry.item_href} {entry.id}"


def _entries_of(source: str, query: Query) -> Iterator[Entry]:
    path = Path(source)
    if is_url(source):
        images: list[str] | None = [source] if Path(urlsplit(source).path).suffix.lower() in GEOTIFF_SUFFIXES else None
    elif not source or not path.exists():
        fix = "Make a catalog with `rs-seg demo` or `rs-seg catalog add`, or give --source."
        raise CatalogError("a GeoTIFF, a folder of them, or a STAC catalog", f"{source}, which does not exist", fix)
    else:
        is_stac = path.is_file() and path.suffix.lower() in {".json", ".geojson"}
        images = None if is_stac else [str(p.resolve()) for p in geotiffs(path)]
    if images is None:
        yield from (_entry_of_item(item, query) for item in find_items(source, query))
    else:
        entries = (_entry_of_image(href) for href in images)
        yield from (e for e in entries if e.info is None or (query.interval.holds(e.datetime) and _meets(e.info, query)))


def _entry_of_item(item: pystac.Item | DamagedItem, query: Query) -> Entry:
    if isinstance(item, DamagedItem):
        return Entry(item.id, item.collection, None, "", item.href, item.error)
    facts = (item.id, item.collection_id, date_of_item(item))
    try:
        image = image_of(item, query)
    except CatalogError as error:
        return Entry(*facts, "", item.get_self_href(), error)
    version = image.checksum or item.properties.get("updated") or fingerprint(image.href)
    return Entry(*facts, str(version), item.get_self_href(), image)


def _entry_of_image(href: str) -> Entry:
    """Of a plain image only the header says when and where it was taken; one that cannot be read may be any."""
    name, image = Path(urlsplit(href).path if is_url(href) else href).stem, Image(href)
    try:
        info = describe(href)
    except RasterError:
        return Entry(name, None, None, fingerprint(href), None, image)
    return Entry(name, None, date_of(info), info.fingerprint, None, image, info)


def _meets(info: RasterInfo, query: Query) -> bool:
    return query.aoi is None or bool(info.footprint.intersects(query.aoi))


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


def unique_ids(named: Sequence[tuple[str, str]], taken: Container[str] = ()) -> list[str]:
    """Ids that neither another image nor `taken` has, for pairs of a name and an href: the name, or that with a digest of the href."""
    count = Counter(name for name, _ in named)
    return [
        name if count[name] == 1 and name not in taken else f"{name}-{hashlib.sha256(href.encode()).hexdigest()[:8]}"
        for name, href in named
    ]
