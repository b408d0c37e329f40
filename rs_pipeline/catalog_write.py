"""New scenes into a static STAC catalog."""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pystac

from rs_pipeline.catalog import Scene, geotiffs, read_scene, unique_ids
from rs_pipeline.errors import CatalogError
from rs_pipeline.fingerprints import fingerprint
from rs_pipeline.stac_assets import CHECKSUM
from rs_pipeline.stac_items import FINGERPRINT, scene_item
from rs_pipeline.stac_sources import CLOUD_COVER, is_url
from rs_pipeline.static_catalog import StaticCollection, writing

SCENES = "scenes"
"""Id of the collection that holds the images."""
_ABOUT = "Scenes of the archive"
_BATCH = 64
"""Images that are read between two times of writing: what was written stays, whatever comes after it."""


class Additions(NamedTuple):
    """Ids of the images that were added to a catalog."""

    added: list[str]
    renewed: list[str]
    """They were there, and have changed, or more is known of them now."""
    unchanged: list[str]


class Known(NamedTuple):
    """What a catalog has of an image."""

    path: Path
    """Of the item."""
    item: dict[str, Any]
    asset: dict[str, Any]


def add_scenes(
    catalog: Path, sources: Sequence[str], taken: dt.datetime | None = None, *, cloud_cover: float | None = None, checksum: bool = True
) -> Additions:
    """Put GeoTIFFs into a static catalog, made where there is none. Items of images that did not change are left as they are.

    An image is itself by its path, whatever its name: two of one name are two. Several processes may add at once.

    Parameters
    ----------
    catalog: path of catalog.json.
    sources: GeoTIFFs or folders of them.
    taken: when they were taken; None takes what the file says.
    cloud_cover: percent; None where nobody says.
    checksum: put every file's SHA-256 into its item, for which it is read as a whole.

    Raises
    ------
    CatalogError: a source or catalog that cannot be read or written; RasterError: an image that cannot be opened.
    """
    missing = [s for s in sources if not Path(s).exists()]
    if missing:
        raise CatalogError("GeoTIFFs or folders of them", f"{missing[0]}, which does not exist", "Check the path.")
    paths = dict.fromkeys(p.resolve() for source in sources for p in geotiffs(Path(source)))
    with writing(catalog):  # whatever stands in the way is known before the images are read
        known = _known(StaticCollection.read(catalog, SCENES, _ABOUT))
    stale = [p for p in paths if not (str(p) in known and _is_current(known[str(p)], p, taken, cloud_cover, checksum=checksum))]
    done = Additions([], [], [known[str(p)].item["id"] for p in sorted(paths.keys() - set(stale))])
    for first in range(0, len(stale), _BATCH):
        scenes = [read_scene(p, taken) for p in stale[first : first + _BATCH]]
        items = [scene_item(scene, cloud_cover=cloud_cover, checksum=checksum) for scene in scenes]
        with writing(catalog):
            collection = StaticCollection.read(catalog, SCENES, _ABOUT)
            known |= _known(collection, {there.path for there in known.values()})  # what others have added meanwhile
            added, renewed = _put(collection, known, scenes, items)
        done.added.extend(added)
        done.renewed.extend(renewed)
    return done


def _put(
    collection: StaticCollection, known: dict[str, Known], scenes: Sequence[Scene], items: Sequence[pystac.Item]
) -> tuple[list[str], list[str]]:
    new = [(scene.id, scene.info.href) for scene in scenes if scene.info.href not in known]
    ids = dict(zip((href for _, href in new), unique_ids(new, {k.item["id"] for k in known.values()}), strict=True))
    placed = []
    for scene, item in zip(scenes, items, strict=True):
        there = known.get(scene.info.href)
        item.id = there.item["id"] if there else ids[scene.info.href]
        if there and "created" in there.item["properties"]:
            item.properties["created"] = there.item["properties"]["created"]
        placed.append((item, there.path if there else collection.item_path(item.id)))
    collection.put(placed)
    return list(ids.values()), [k.item["id"] for scene in scenes if (k := known.get(scene.info.href))]


def _known(collection: StaticCollection, but: Container[Path] = ()) -> dict[str, Known]:
    """What there is, by the absolute paths of the images; items at some paths left out."""
    return {
        str((path.parent / asset["href"]).resolve()): Known(path, item, asset)
        for path, item in collection.items(but)
        for asset in item["assets"].values()
        if not is_url(asset["href"])
    }


def _is_current(known: Known, path: Path, taken: dt.datetime | None, cloud_cover: float | None, *, checksum: bool) -> bool:
    """Whether an item says of an image all that it would say if it were made now."""
    facts = known.item["properties"]
    dated = taken is None or (facts["datetime"] is not None and dt.datetime.fromisoformat(facts["datetime"]) == taken)
    clear = cloud_cover is None or facts.get(CLOUD_COVER) == cloud_cover
    summed = not checksum or CHECKSUM in known.asset
    return dated and clear and summed and known.asset.get(FINGERPRINT) == fingerprint(str(path))
