"""A static catalog on disk, added to: one new file for each new item, then the collection that links it."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
from pystac.utils import datetime_to_str, str_to_datetime

from rs_pipeline.errors import CatalogError
from rs_pipeline.locks import hold
from rs_pipeline.stac_sources import STAC_ERRORS, is_url

_PATIENCE_S = 120.0
"""How long one who adds waits for another; what takes time is done before."""
_ABOUT = "Scenes of the archive and products of its runs"
_CATALOG, _ITEM = ("Catalog", "Collection"), ("Feature",)
"""What their JSON says of its type."""


@dataclass(frozen=True, slots=True)
class StaticCollection:
    """A collection of a static catalog, as it is on disk, or as it is going to be."""

    catalog: Path
    """catalog.json."""
    path: Path
    """collection.json."""
    content: dict[str, Any]
    """Of collection.json."""

    @classmethod
    def read(cls, catalog: Path, name: str, about: str) -> StaticCollection:
        """The child `name` of a catalog; one without items where there is none.

        Raises
        ------
        CatalogError: what is there is no STAC catalog, or a link leads nowhere.
        """
        catalog = catalog.resolve()
        if catalog.exists():
            for link in _links(_read_stac(catalog, _CATALOG), "child"):
                path = (catalog.parent / link["href"]).resolve()
                if path.name.endswith(".json") and not is_url(link["href"]):
                    content = _read_stac(path, _CATALOG)
                    if content.get("id") == name and content["type"] == "Collection":
                        return cls(catalog, path, content)
        path = catalog.parent / name / "collection.json"
        return cls(catalog, path, _new_collection(name, about, os.path.relpath(catalog, path.parent)))

    def items(self, but: Container[Path] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Path and content of each item that is not at one of some paths.

        Raises
        ------
        CatalogError: a link leads nowhere.
        """
        for link in _links(self.content, "item"):
            if not is_url(link["href"]):
                path = _join(self.path.parent, link["href"])
                if path not in but:
                    yield path, _read_stac(path, _ITEM)

    def find(self, name: str) -> dict[str, Any] | None:
        """Content of the item `name`, where this module put it."""
        path = self.item_path(name)
        return _read_stac(path, _ITEM) if path in self._item_paths() else None

    def item_path(self, name: str) -> Path:
        """Where the item `name` goes."""
        return _join(self.path.parent, f"{name}/{name}.json")

    def put(self, items: Sequence[tuple[pystac.Item, Path]]) -> None:
        """Write items to their paths; those that are there are replaced, and no other file of an item is touched.

        Local paths of assets, and of linked items within the catalog's folder, become relative.

        Raises
        ------
        CatalogError: the catalog cannot be written.
        """
        try:
            known = self._item_paths()
            for item, path in items:
                _write(path, self._content_of(item, path))
                _widen(self.content["extent"], item)
                if path not in known:
                    href = f"./{os.path.relpath(path, self.path.parent)}"
                    self.content["links"].append({"rel": "item", "href": href, "type": pystac.MediaType.GEOJSON.value})
            _write(self.path, self.content)
            self._link_from_catalog()
        except OSError as error:
            raise CatalogError("a catalog that can be written", f"{self.catalog} ({error})", "Check permissions and disk space.") from error

    def _item_paths(self) -> set[Path]:
        return {_join(self.path.parent, link["href"]) for link in _links(self.content, "item")}

    def _content_of(self, item: pystac.Item, path: Path) -> dict[str, Any]:
        item.collection_id = self.content["id"]
        content = item.to_dict(include_self_link=False, transform_hrefs=False)
        for asset in content["assets"].values():
            asset["href"] = _relative(asset["href"], path.parent)
        own = [link for link in content["links"] if link["rel"] not in {"root", "parent", "collection"}]
        for link in own:
            if Path(link["href"]).is_relative_to(self.catalog.parent):
                link["href"] = _relative(link["href"], path.parent)
        ways = {"root": self.catalog, "parent": self.path, "collection": self.path}
        content["links"] = [*(_link(rel, target, path.parent) for rel, target in ways.items()), *own]
        return content

    def _link_from_catalog(self) -> None:
        if self.catalog.exists():
            content = _read_stac(self.catalog, _CATALOG)
            if self.path in {(self.catalog.parent / link["href"]).resolve() for link in _links(content, "child")}:
                return
        else:
            content = pystac.Catalog(self.catalog.parent.name, _ABOUT).to_dict(include_self_link=False)
            content["links"] = [_link("root", self.catalog, self.catalog.parent)]
        content["links"].append(_link("child", self.path, self.catalog.parent))
        _write(self.catalog, content)


@contextmanager
def writing(catalog: Path) -> Iterator[None]:
    """Keep other processes from adding to a catalog, whose folder is made where there is none.

    Raises
    ------
    CatalogError: another one adds to it for long, the folder cannot be made, or what is in it is not as STAC has it.
    """
    try:
        catalog.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(catalog.parent, patience_s=_PATIENCE_S)
        lock.__enter__()
    except BlockingIOError as error:
        raise CatalogError("a catalog that nobody else adds to", f"{catalog}, which another process holds", "Wait for it.") from error
    except OSError as error:
        raise CatalogError("a catalog that can be written", f"{catalog} ({error})", "Check permissions and disk space.") from error
    try:
        yield
    except STAC_ERRORS as error:
        came = f"{catalog} ({type(error).__name__}: {' '.join(str(error).split())})"
        raise CatalogError("a catalog whose collections and items are valid", came, "`rs-seg catalog validate` says where.") from error
    finally:
        lock.__exit__(None, None, None)


def _read_stac(path: Path, types: Sequence[str]) -> dict[str, Any]:
    """JSON of a STAC object of one of these types."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        came = f"{path} ({error.strerror})"
        raise CatalogError("a catalog whose links lead somewhere", came, "Mend it; `rs-seg catalog validate` says where.") from error
    except ValueError as error:
        raise CatalogError("a STAC catalog", f"{path} ({error})", "Move it away, or name another.") from error
    if not isinstance(content, dict) or not {"stac_version", "type", "links"} <= set(content) or content["type"] not in types:
        expected = "a STAC item" if types is _ITEM else "a STAC catalog"
        raise CatalogError(expected, f"{path}, which is none", "Move it away, or name another.")
    return content


def _join(folder: Path, href: str) -> Path:
    """Where a link leads; not asked of the disk, for there may be many."""
    return Path(os.path.normpath(folder / href))


def _links(content: dict[str, Any], rel: str) -> list[dict[str, Any]]:
    return [link for link in content["links"] if link["rel"] == rel]


def _link(rel: str, target: Path, start: Path) -> dict[str, str]:
    return {"rel": rel, "href": _relative(str(target), start), "type": pystac.MediaType.JSON.value}


def _relative(href: str, start: Path) -> str:
    if not Path(href).is_absolute():
        return href
    relative = os.path.relpath(href, start)
    return relative if relative.startswith("..") else f"./{relative}"


def _new_collection(name: str, about: str, root: str) -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": pystac.get_stac_version(),
        "id": name,
        "description": about,
        "license": "other",
        "extent": {"spatial": {"bbox": []}, "temporal": {"interval": []}},
        "links": [{"rel": rel, "href": root, "type": pystac.MediaType.JSON.value} for rel in ("root", "parent")],
    }


def _widen(extent: dict[str, Any], item: pystac.Item) -> None:
    """Make a collection's extent, in place, hold an item, too."""
    boxes, spans = extent["spatial"]["bbox"], extent["temporal"]["interval"]
    west, south, east, north = item.bbox or [-180.0, -90.0, 180.0, 90.0]
    taken = item.datetime
    span = [taken or item.common_metadata.start_datetime, taken or item.common_metadata.end_datetime]
    if boxes:
        box = boxes[0]
        boxes[0] = [min(box[0], west), min(box[1], south), max(box[2], east), max(box[3], north)]
    else:
        boxes.append([west, south, east, north])
    if not spans:
        spans.append([datetime_to_str(end) if end else None for end in span])
        return
    spans[0] = [_further(old, new, choose) for old, new, choose in zip(spans[0], span, (min, max), strict=True)]


def _further(old: str | None, new: dt.datetime | None, choose: Any) -> str | None:
    return None if old is None or new is None else datetime_to_str(choose(str_to_datetime(old), new))


def _write(path: Path, content: dict[str, Any]) -> None:
    """The whole file, or the one before: nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)
