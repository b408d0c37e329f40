"""STAC items of images: what their headers, files and valid pixels say, in the terms of the proj, raster, eo and file extensions."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pystac
import shapely
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from shapely.geometry.base import BaseGeometry

from rs_pipeline.catalog import Scene
from rs_pipeline.footprints import valid_footprint
from rs_pipeline.raster import RasterInfo
from rs_pipeline.stac_assets import multihash
from rs_pipeline.stac_sources import CLOUD_COVER, UNDATED

# pystac's own classes of these two are those of version 1, from before bands were part of the core.
EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
FINGERPRINT = "rs_seg:fingerprint"
"""Field of an asset: sizes and times of the file and its sidecars when it was looked at."""
IMAGE = "image"
"""Key of the asset that is a scene's image."""
_COMMON_NAMES = ("red", "green", "blue", "nir")


def scene_item(scene: Scene, *, cloud_cover: float | None, checksum: bool) -> pystac.Item:
    """The item of a local image; its href is absolute.

    Parameters
    ----------
    cloud_cover: percent; None where nobody says.
    checksum: read the whole file for it.

    Raises
    ------
    RasterError: its pixels cannot be read.
    """
    info, path = scene.info, Path(scene.info.href)
    item = blank_item(scene.id, valid_footprint(info), [scene.datetime] if scene.datetime else [], _written(path))
    item.common_metadata.gsd = round(info.gsd_m, 4)
    asset = pystac.Asset(href=info.href, media_type=pystac.MediaType.GEOTIFF, roles=["data"])
    item.add_asset(IMAGE, asset)
    project(ProjectionExtension.ext(item, add_if_missing=True), info)
    describe_raster(item, asset, info, _band_names(info))
    describe_file(asset, path, checksum=checksum)
    asset.extra_fields[FINGERPRINT] = info.fingerprint
    if cloud_cover is not None:
        item.properties[CLOUD_COVER] = cloud_cover
    if cloud_cover is not None or any("eo:common_name" in band for band in asset.extra_fields["bands"]):
        item.stac_extensions.append(EO)
    return item


def blank_item(name: str, footprint: BaseGeometry, dates: Sequence[dt.datetime], written: dt.datetime) -> pystac.Item:
    """An item of a place and some dates, without assets.

    Parameters
    ----------
    footprint: in EPSG:4326.
    written: where there are no dates: all that is true is that it was before the file was written, and STAC wants a time.
    """
    single, undated = len(set(dates)) == 1, not dates
    item = pystac.Item(
        id=name,
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=dates[0] if single else None,
        properties={UNDATED: True} if undated else {},
        start_datetime=None if single else dt.datetime(1970, 1, 1, tzinfo=dt.UTC) if undated else min(dates),
        end_datetime=None if single else written if undated else max(dates),
    )
    item.common_metadata.created = item.common_metadata.updated = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return item


def project(extension: ProjectionExtension[Any], info: RasterInfo) -> None:
    """Where the pixels of an image are, in its own CRS."""
    corners = [info.transform @ (col, row) for col in (0, info.width) for row in (0, info.height)]
    xs, ys = zip(*corners, strict=True)
    authority = info.crs.to_authority(min_confidence=100)
    extension.apply(
        code=":".join(authority) if authority else None,
        wkt2=None if authority else info.crs.to_wkt(),
        bbox=[min(xs), min(ys), max(xs), max(ys)],
        shape=[info.height, info.width],
        transform=list(info.transform)[:6],
    )


def describe_raster(item: pystac.Item, asset: pystac.Asset, info: RasterInfo, names: Sequence[str]) -> None:
    """Resolution and bands of an image."""
    if RASTER not in item.stac_extensions:
        item.stac_extensions.append(RASTER)
    asset.extra_fields["raster:spatial_resolution"] = round(info.gsd_m, 4)
    asset.extra_fields["bands"] = [
        {"name": name, "data_type": info.dtype}
        | ({"nodata": _nodata(info.nodata)} if info.nodata is not None else {})
        | ({"eo:common_name": colour} if colour in _COMMON_NAMES else {})
        for name, colour in zip(names, info.colours, strict=True)
    ]


def describe_file(asset: pystac.Asset, path: Path, *, checksum: bool) -> None:
    """Size and SHA-256 of an asset's file."""
    FileExtension.ext(asset, add_if_missing=True).apply(size=path.stat().st_size, checksum=multihash(path) if checksum else None)


def _band_names(info: RasterInfo) -> list[str]:
    """The colours, where each is there once, else numbers from 1."""
    count = Counter(info.colours)
    named = all(count[colour] == 1 and colour != "undefined" for colour in info.colours)
    return list(info.colours) if named else [f"band-{number}" for number in range(1, info.count + 1)]


def _nodata(value: float) -> float | int | str:
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value


def _written(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
