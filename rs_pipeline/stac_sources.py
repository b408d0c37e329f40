"""STAC items from where they are kept: files and web servers, walked no further than needed, and APIs, searched."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import pystac
import shapely
from pystac.stac_io import DefaultStacIO
from pystac_client import Client, ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry.base import BaseGeometry
from urllib3 import Retry

from rs_pipeline.errors import CatalogError
from rs_pipeline.query import Query

PRODUCTS = "products"
"""Id of the collection that runs go into: what they were made of is not looked for there."""
UNDATED = "rs_seg:undated"
"""Property of an item whose image nobody dated; STAC itself wants a time."""
CLOUD_COVER = "eo:cloud_cover"
LICENCE = "license"
STAC_ERRORS = (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, TypeError, AttributeError)
"""What pystac raises on a file that is not STAC."""
TIMEOUT_S = 20.0
"""For a web server to answer."""
_RETRIES = 2
_AGAIN = (429, 502, 503, 504)
_PAGE = 100
"""Items an API is asked for at once."""
_MAX_CORNERS = 500
"""Areas with more are sent to an API as their box: the items are held against the area itself here anyway."""
_MESSAGE = 300


def is_url(href: str) -> bool:
    """Whether it is a web address."""
    return href.startswith(("http://", "https://"))


def find_items(source: str, query: Query) -> Iterator[pystac.Item | DamagedItem]:
    """The items of a STAC catalog, collection, item or API that a query takes.

    Parameters
    ----------
    source: path or URL.

    Raises
    ------
    CatalogError: it does not answer, is not STAC, or has a link to another catalog that leads nowhere.
    """
    reader = _Reader(source)
    content = reader.content(source)
    found = _search(source, content, reader, query) if is_url(source) and _is_api(content) else _walk(source, content, reader, query)
    return (item for item in found if isinstance(item, DamagedItem) or (isinstance(item, pystac.Item) and _takes(query, item)))


def read_stac(source: str) -> Iterator[pystac.STACObject]:
    """Every catalog, collection and item below a static one, itself first.

    Raises
    ------
    CatalogError: as `find_items`.
    """
    reader = _Reader(source)
    for stac in _walk(source, reader.content(source), reader, None):
        if isinstance(stac, DamagedItem):
            raise stac.error
        yield stac


def read_items(source: str) -> list[pystac.Item]:
    """The items of a static STAC catalog, collection or item, products included.

    Raises
    ------
    CatalogError: as `find_items`.
    """
    return [stac for stac in read_stac(source) if isinstance(stac, pystac.Item)]


def date_of_item(item: pystac.Item) -> dt.datetime | None:
    """When an item's image was taken, UTC; the beginning where it took a while."""
    return None if item.properties.get(UNDATED) else _utc(item.datetime or item.common_metadata.start_datetime)


class _Reader(DefaultStacIO):
    """Reads within limits of time; what is on the web cannot have files of this machine read."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._from_web = is_url(source)
        self.web = StacApiIO(timeout=TIMEOUT_S, max_retries=Retry(_RETRIES, backoff_factor=0.3, status_forcelist=_AGAIN))

    def read_text_from_href(self, href: str) -> str:
        if is_url(href):
            return self.web.request(href)
        if self._from_web or urlsplit(href).scheme not in {"", "file"}:
            raise ValueError("neither on the web nor, for a catalog that is on this machine, a file")
        return super().read_text_from_href(href)

    def content(self, href: str) -> dict[str, Any]:
        """The JSON object at an address."""
        with _as_catalog_error(href):
            content: Any = self.read_json(href)
            if not isinstance(content, dict):
                raise TypeError("no JSON object")
            return content


class _DamagedError(CatalogError):
    """A file that is not what it should be; of a server that does not answer, none is known to be."""


@dataclass(frozen=True, slots=True)
class DamagedItem:
    """An item of a static catalog that is missing or no STAC."""

    id: str
    """As far as its address says."""
    collection: str | None
    href: str
    error: CatalogError


@contextmanager
def _as_catalog_error(href: str) -> Iterator[None]:
    try:
        yield
    except APIError as error:
        status = getattr(error, "status_code", None)
        came = f"{href} ({f'HTTP {status}: ' if status else ''}{_line(error)})"
        raise CatalogError("a STAC catalog or API that answers", came, "Check the address, and try again later.") from error
    except (*STAC_ERRORS, OSError, NotImplementedError) as error:
        raise _DamagedError("a STAC catalog, collection or item", f"{href} ({_line(error)})", "Check it.") from error


def _line(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]}…"


def _walk(href: str, content: dict[str, Any], reader: _Reader, query: Query | None) -> Iterator[pystac.STACObject | DamagedItem]:
    """What is under an address, depth first; with a query, without the branches that can hold nothing of it."""
    todo: list[tuple[str, pystac.STACObject | None]] = [(href, None)]
    """Addresses, and of items where their links were found."""
    seen = {href}
    while todo:
        href, parent = todo.pop()
        try:
            stac = _stac_of(href, content if len(seen) == 1 else reader.content(href), reader)
        except _DamagedError as error:
            if parent is None:
                raise
            yield DamagedItem(
                PurePosixPath(urlsplit(href).path).stem, parent.id if isinstance(parent, pystac.Collection) else None, href, error
            )
            continue
        if isinstance(stac, pystac.Collection) and query is not None and not _may_hold(query, stac):
            continue
        if isinstance(stac, pystac.Item) and isinstance(parent, pystac.Collection):
            stac.properties.setdefault(LICENCE, parent.license)  # where an item says nothing, its collection does
        yield stac
        links = [link for link in stac.links if link.rel == "child" or (link.rel == "item" and _has_wanted_items(query, stac))]
        for link in reversed(links):
            target = link.get_absolute_href()
            if target is not None and target not in seen:
                seen.add(target)
                todo.append((target, stac if link.rel == "item" else None))


def _stac_of(href: str, content: dict[str, Any], reader: _Reader) -> pystac.STACObject:
    with _as_catalog_error(href):
        # What is relative is so to where the file is now, not to where it says that it was published.
        links = [link for link in content.get("links", []) if link.get("rel") != "self"]
        return reader.stac_object_from_dict(content | {"links": links}, href=href, preserve_dict=False)


def _may_hold(query: Query, collection: pystac.Collection) -> bool:
    """False where nothing below a collection can be of the query, by its id and its extent."""
    if not query.collections and collection.id == PRODUCTS:
        return False
    boxes, spans = collection.extent.spatial.bboxes[:1], collection.extent.temporal.intervals[:1]
    near = query.aoi is None or not boxes or any(_meets_box(query.aoi, box) for box in boxes)
    return near and (not spans or any(query.interval.meets(*(_utc(end) for end in span)) for span in spans))


def _meets_box(aoi: BaseGeometry, box: list[float | int]) -> bool:
    west, south, east, north = (*box[:2], *box[len(box) // 2 :][:2])
    return west > east or bool(shapely.box(west, south, east, north).intersects(aoi))


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment and (moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC))


def _has_wanted_items(query: Query | None, stac: pystac.STACObject) -> bool:
    return query is None or not query.collections or not isinstance(stac, pystac.Collection) or stac.id in query.collections


def _takes(query: Query, item: pystac.Item) -> bool:
    is_of = item.collection_id in query.collections if query.collections else item.collection_id != PRODUCTS
    return is_of and _is_clear(query, item) and _is_timely(query, item) and _is_near(query, item)


def _is_timely(query: Query, item: pystac.Item) -> bool:
    """Where an item has no one time, its range must meet the one that is asked for."""
    span = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    if item.datetime is None and all(span) and not item.properties.get(UNDATED):
        return query.interval.meets(*(_utc(end) for end in span))
    return query.interval.holds(date_of_item(item))


def _is_clear(query: Query, item: pystac.Item) -> bool:
    cover = item.properties.get(CLOUD_COVER)
    return query.max_cloud_cover is None or (isinstance(cover, int | float) and cover <= query.max_cloud_cover)


def _is_near(query: Query, item: pystac.Item) -> bool:
    """Where an item's geometry cannot be read, the image tells."""
    try:
        return query.aoi is None or item.geometry is None or bool(shapely.geometry.shape(item.geometry).intersects(query.aoi))
    except (*STAC_ERRORS, shapely.errors.ShapelyError):
        return True


def _is_api(content: Mapping[str, Any]) -> bool:
    """An API's landing page, or one of its collections."""
    return bool(_href_of(content, "search") or (content.get("type") == "Collection" and _href_of(content, "items")))


def _href_of(content: Mapping[str, Any], rel: str) -> str | None:
    return next((link.get("href") for link in content.get("links", []) if isinstance(link, dict) and link.get("rel") == rel), None)


def _search(source: str, content: Mapping[str, Any], reader: _Reader, query: Query) -> Iterator[pystac.Item]:
    landing, collections = source, query.collections
    if content.get("type") == "Collection":
        landing = urljoin(source, _href_of(content, "root") or "")
        collections = tuple(c for c in (str(content.get("id")),) if not query.collections or c in query.collections)
        if not collections:
            return
    with _as_catalog_error(landing):
        client = Client.open(landing, stac_io=reader.web)
        if not client.conforms_to(ConformanceClasses.ITEM_SEARCH):  # not all that can be searched say so
            client.add_conforms_to("ITEM_SEARCH")
        clear = {CLOUD_COVER: {"lte": query.max_cloud_cover}} if query.max_cloud_cover is not None else None
        search = client.search(
            method="POST" if any(link.rel == "search" and link.extra_fields.get("method") == "POST" for link in client.links) else "GET",
            limit=_PAGE,
            collections=list(collections) or None,
            datetime=None if query.interval.is_open else [query.interval.start, query.interval.stop],
            query=clear if client.conforms_to(ConformanceClasses.QUERY) else None,
            **_place(query.aoi),
        )
        yield from search.items()


def _place(aoi: BaseGeometry | None) -> dict[str, Any]:
    if aoi is None:
        return {}
    if len(shapely.get_coordinates(aoi)) > _MAX_CORNERS:
        return {"bbox": list(aoi.bounds)}
    return {"intersects": shapely.geometry.mapping(aoi)}
