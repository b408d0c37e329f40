"""New scenes into a static STAC catalog, and a catalog checked."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

import pystac
import shapely

from rs_pipeline.catalog import STAC_ERRORS, Scene, geotiffs, image_href, read_items, read_scene, with_unique_ids
from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.raster import describe

SCENES = "scenes"
"""Id of the collection that holds the images."""
_METRES_PER_DEGREE = 111_320.0


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
    scenes = [read_scene(p, taken) for source in sources for p in geotiffs(Path(source))]
    try:
        return _write_items(catalog, [_item(s, catalog.parent) for s in with_unique_ids(scenes)])
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
    except STAC_ERRORS as error:
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
