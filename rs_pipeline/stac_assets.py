"""The image that a STAC item names: which one it is, whether it may be opened, whether it is what the item says of it."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pystac

from rs_pipeline.errors import CatalogError
from rs_pipeline.query import Query
from rs_pipeline.stac_sources import LICENCE, is_url

GEOTIFF_SUFFIXES = frozenset({".tif", ".tiff"})
SIZE, CHECKSUM = "file:size", "file:checksum"
_SHA256 = "1220"
"""What a multihash of it begins with: its code, and its length in bytes."""
_DIGESTS = {_SHA256: "sha256", "1340": "sha512", "1114": "sha1", "d50110": "md5"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GDAL_PATH = re.compile(r"\s*<|/+vsi\w+[/?]")
"""What GDAL takes for more than a name: XML of a virtual raster, a file system of its own."""
_NO_LICENCE = {"other", "various", "proprietary"}
"""What STAC says where a licence has no name."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Image:
    """Where an image is, and what an item says of it."""

    href: str
    """Absolute path, symbolic links resolved, or URL."""
    item: str | None = None
    """Id of the item that names it; None: the user did."""
    size: int | None = None
    """Bytes."""
    checksum: str | None = None
    """Multihash, hexadecimal."""
    is_tiff: bool = True
    """Whether it is to be one: what GDAL takes for an image is much, and some of it names other files."""
    licence: str | None = None
    """SPDX identifier; None where nobody says which one."""

    def check(self, *, verify: bool) -> None:
        """Hold the file, where it is one of this machine, against what its item says; with `verify`, every byte of it.

        Raises
        ------
        CatalogError: it is not there, is no TIFF, or another one.
        """
        path = Path(self.href)
        if self.item is None or "://" in self.href:
            return
        if not path.is_file():
            raise CatalogError(f"the image of item {self.item}", f"nothing at {path}", "Bring it back, or take the item out.")
        if self.size not in {None, path.stat().st_size}:
            expected = f"{self.size} bytes, as item {self.item} says of its image"
            raise CatalogError(expected, f"{path.stat().st_size} in {path}", _RENEW)
        with path.open("rb") as file:
            if self.is_tiff and file.read(4) not in _TIFF:
                raise CatalogError(f"a TIFF, as item {self.item} says", f"{path}, which is none", "Check the file.")
        if verify and self.checksum is not None and self.checksum != (came := multihash(path, self.checksum)):
            raise CatalogError(f"checksum {self.checksum}, as item {self.item} says of its image", f"{came} of {path}", _RENEW)


_RENEW = "Copy the image again; where it was changed on purpose, `rs-seg catalog add` renews its item."


def multihash(path: Path, like: str = _SHA256) -> str:
    """Digest of a file as a multihash, hexadecimal: SHA-256, or the kind that `like` is of.

    Raises
    ------
    CatalogError: `like` is of an unknown kind.
    """
    prefix = next((prefix for prefix in _DIGESTS if like.startswith(prefix)), None)
    if prefix is None:
        raise CatalogError(f"a multihash of {', '.join(_DIGESTS.values())}", f"{like} for {path}", "Leave checksums unverified.")
    with path.open("rb") as file:
        return prefix + hashlib.file_digest(file, _DIGESTS[prefix]).hexdigest()


def image_of(item: pystac.Item, query: Query) -> Image:
    """The image of an item.

    Raises
    ------
    CatalogError: it names none, more than one that could be meant, or one outside the roots.
    """
    return _image(item, image_asset(item, query.asset), query.roots, is_tiff=True)


def images_of_product(item: pystac.Item) -> list[Image]:
    """All that a run's item names.

    Raises
    ------
    CatalogError: it names what is no file and not on the web.
    """
    return [_image(item, asset, (), is_tiff=_is_geotiff(asset)) for asset in item.assets.values()]


def _image(item: pystac.Item, asset: pystac.Asset, roots: tuple[str, ...], *, is_tiff: bool) -> Image:
    size, checksum = asset.extra_fields.get(SIZE), asset.extra_fields.get(CHECKSUM)
    known_size = size if isinstance(size, int) else None
    licence = item.properties.get(LICENCE)
    named = str(licence) if licence and licence not in _NO_LICENCE else None
    return Image(_allowed_href(item, asset, roots), item.id, known_size, str(checksum) if checksum else None, is_tiff, named)


def image_asset(item: pystac.Item, key: str | None = None) -> pystac.Asset:
    """The asset of an item that is its image: the one called `key`; else the GeoTIFF of role `data`, else `visual`, else the only one.

    Raises
    ------
    CatalogError: no such asset, or more than one that could be meant.
    """
    if key is not None:
        if key not in item.assets:
            raise CatalogError(f"an asset {key!r} in item {item.id}", ", ".join(item.assets) or "none", "Check --set asset.")
        return item.assets[key]
    images = {k: asset for k, asset in item.assets.items() if _is_geotiff(asset)}
    for wanted in (
        [a for a in images.values() if "data" in (a.roles or [])],
        [a for k, a in images.items() if "visual" in {k, *(a.roles or [])}],
        [*images.values()],
    ):
        if len(wanted) == 1:
            return wanted[0]
    fix = "Mark the one to use, or name it with --set asset=KEY."
    raise CatalogError("one GeoTIFF asset with the role `data`", f"{len(images)} GeoTIFF assets in item {item.id}", fix)


def _is_geotiff(asset: pystac.Asset) -> bool:
    return "tiff" in (asset.media_type or "").lower() or Path(urlsplit(asset.href).path).suffix.lower() in GEOTIFF_SUFFIXES


def _allowed_href(item: pystac.Item, asset: pystac.Asset, roots: tuple[str, ...]) -> str:
    from_web = is_url(item.get_self_href() or "https://")
    try:
        href = None if _GDAL_PATH.match(asset.href) else asset.get_absolute_href()
        if href is not None and urlsplit(href).scheme in {"", "file"}:
            href = str(Path(href.removeprefix("file://")).resolve())
        if href is not None and not _GDAL_PATH.match(href) and _may_name(href, roots, from_web=from_web):
            return href
    except ValueError:  # no URL at all
        pass
    where = f"in {', '.join(roots)}" if roots else "on the web, as its catalog is" if from_web else "that is a file or on the web"
    came = f"{asset.href} in item {item.id}"
    raise CatalogError(f"an image {where}", came, "Check the item; --set roots=[…] says where images may lie.")


def _may_name(href: str, roots: tuple[str, ...], *, from_web: bool) -> bool:
    if roots:
        return any(_lies_in(href, root) for root in roots)
    return urlsplit(href).scheme in ({"http", "https"} if from_web else {"", "http", "https", "s3", "gs"})


def _lies_in(href: str, root: str) -> bool:
    if "://" not in root:
        return "://" not in href and Path(href).is_relative_to(Path(root).resolve())
    if "://" not in href:
        return False
    (place, path), (root_place, root_path) = _normal(urlsplit(href)), _normal(urlsplit(root))
    return place == root_place and (path == root_path or path.startswith(f"{root_path.rstrip('/')}/"))


def _normal(url: SplitResult) -> tuple[Any, str]:
    """Who is asked, and for which path, however they are written."""
    place = (url.scheme.lower(), (url.hostname or "").lower(), url.port or _PORTS.get(url.scheme.lower()))
    return place, posixpath.normpath(f"/{unquote(url.path).lstrip('/')}")
