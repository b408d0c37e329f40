"""New scenes into a static STAC catalog, and a catalog checked."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pystac
import shapely

from rs_pipeline.catalog import STAC_ERRORS, UNDATED, Scene, geotiffs, image_href, read_items, read_scene, with_unique_ids
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
    paths = dict.fromkeys(p.resolve() for source in sources for p in geotiffs(Path(source)))
    scenes = [read_scene(p, taken) for p in paths]
    try:
        return _write(catalog, scenes)
    except STAC_ERRORS as error:
        came = f"{catalog} ({' '.join(str(error).split())})"
        raise CatalogError("a catalog whose links lead somewhere", came, "Mend it; `rs-seg catalog validate` says where.") from error
    except OSError as error:
        raise CatalogError("a catalog that can be written", f"{catalog} ({error})", "Check permissions and disk space.") from error


def _write(path: Path, scenes: list[Scene]) -> tuple[list[str], list[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    catalog = _open_or_make(path)
    collection = catalog.get_child(SCENES)
    if not isinstance(collection, pystac.Collection):
        everywhere = pystac.Extent(pystac.SpatialExtent([-180.0, -90.0, 180.0, 90.0]), pystac.TemporalExtent([None, None]))
        collection = pystac.Collection(SCENES, "Scenes of the archive", everywhere)
        catalog.add_child(collection)
    # An image is itself by its path, whatever its name: two of one name are two.
    known = {href: item.id for item in collection.get_items() for href in _hrefs(item)}
    renewed = [replace(s, id=known[s.info.href]) for s in scenes if s.info.href in known]
    added = with_unique_ids([s for s in scenes if s.info.href not in known], set(known.values()))
    for scene in renewed:
        collection.remove_item(scene.id)
    for scene in (*renewed, *added):
        collection.add_item(_item(scene, path.parent))
    collection.update_extent_from_items()
    catalog.normalize_hrefs(str(path.parent.resolve()), skip_unresolved=True)
    catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    return [s.id for s in added], [s.id for s in renewed]


def _hrefs(item: pystac.Item) -> list[str]:
    return [str(Path(href).resolve()) for asset in item.assets.values() if (href := asset.get_absolute_href()) is not None]


def _item(scene: Scene, root: Path) -> pystac.Item:
    info, undated = scene.info, scene.datetime is None
    written = dt.datetime.fromtimestamp(Path(info.href).stat().st_mtime, dt.UTC)
    outline = info.footprint.simplify(info.gsd_m / _METRES_PER_DEGREE)
    item = pystac.Item(
        id=scene.id,
        geometry=shapely.geometry.mapping(outline),
        bbox=list(outline.bounds),
        datetime=scene.datetime,
        properties={"gsd": round(info.gsd_m, 4)} | ({UNDATED: True} if undated else {}),
        # STAC wants a time. Where nobody says when, all that is true is that it was before the file was written.
        start_datetime=dt.datetime(1970, 1, 1, tzinfo=dt.UTC) if undated else None,
        end_datetime=written if undated else None,
    )
    folder = (root / SCENES / scene.id).resolve()
    asset = pystac.Asset(href=os.path.relpath(info.href, folder), media_type=pystac.MediaType.GEOTIFF, roles=["data"])
    item.add_asset("image", asset)
    return item


def _open_or_make(path: Path) -> pystac.Catalog:
    if not path.exists():
        return pystac.Catalog(path.parent.name, "Scenes of the archive and products of its runs", href=str(path.resolve()))
    try:
        return pystac.Catalog.from_file(str(path))
    except STAC_ERRORS as error:
        raise CatalogError("a STAC catalog", f"{path} ({' '.join(str(error).split())})", "Move it away, or name another.") from error


def validate_catalog(path: Path) -> list[str]:
    """What is wrong with a catalog: STAC core schema errors, images that are missing or cannot be read. Empty when all is well."""
    problems = []
    for item in read_items(path):
        item.stac_extensions = []  # their schemas live on the network; the core's come with pystac
        try:
            item.validate()
        except pystac.STACValidationError as error:
            problems.append(f"{item.id}: {' '.join(str(error).split())}")
        try:
            describe(image_href(item))
        except (CatalogError, RasterError) as error:
            problems.append(f"{item.id}: {error}")
    return problems
