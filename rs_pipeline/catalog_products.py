"""Runs into a static STAC catalog: what they made, of what, and how."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pystac
from pystac.extensions.classification import Classification, ClassificationExtension
from pystac.extensions.projection import ProjectionExtension

from rs_pipeline.arguments import as_path
from rs_pipeline.catalog import unique_ids
from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED, SCORE_MAX
from rs_pipeline.errors import CatalogError
from rs_pipeline.footprints import valid_footprint
from rs_pipeline.products import MANIFEST, read_manifest
from rs_pipeline.raster import describe
from rs_pipeline.stac_items import blank_item, describe_file, describe_raster, project
from rs_pipeline.stac_sources import PRODUCTS
from rs_pipeline.static_catalog import StaticCollection, writing

PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
_ABOUT = "Class layers that runs of rs-seg made"
_MANIFEST_ASSET = "manifest"
_ASSETS = {
    "labels": ("labels.tif", pystac.MediaType.COG, ["data"], "Class of each pixel"),
    "scores": ("scores.tif", pystac.MediaType.COG, ["data"], "Probability of each class"),
    "layers": ("layers.gpkg", pystac.MediaType.GEOPACKAGE, ["data"], "Polygons of each class, and what was observed"),
    _MANIFEST_ASSET: (MANIFEST, pystac.MediaType.JSON, ["metadata"], "Settings, scenes, versions and counts"),
}
"""File, media type, roles and title of each asset."""
_BESIDE = {
    ".html": (pystac.MediaType.HTML, ["overview"], "The run on one page, with a map"),
    "lines.gpkg": (pystac.MediaType.GEOPACKAGE, ["data"], "Centre lines"),
    "squares.gpkg": (pystac.MediaType.GEOPACKAGE, ["data"], "Squared outlines"),
    ".fgb": (pystac.MediaType.FLATGEOBUF, ["data"], "Polygons of one class"),
    ".geojson": (pystac.MediaType.GEOJSON, ["data"], "Polygons of one class"),
    ".parquet": (pystac.MediaType.VND_APACHE_PARQUET, ["data"], "Polygons of one class"),
    ".pmtiles": (pystac.MediaType.VND_PMTILES, ["visual"], "Polygons of one class, as vector tiles"),
}
"""Media type, roles and title, by name or suffix, of what some runs have; the asset's key is the file's name."""


def add_product(catalog: str | Path, run_folder: str | Path) -> str:
    """Put a finished run into the collection `products` of a static catalog; both are made where there are none.

    A run that is there already, by its folder, is replaced.

    Parameters
    ----------
    catalog: path of catalog.json.

    Returns
    -------
    Id of the item: the folder's name, with a digest of its path where another run has that.

    Raises
    ------
    CatalogError: the folder holds no finished run, or the catalog cannot be read or written; RasterError: a raster cannot be read;
        UsageError: an argument is no path.
    """
    catalog, folder = as_path(catalog, "catalog"), as_path(run_folder, "run_folder").resolve()
    manifest = read_manifest(folder)
    missing = [file for file, *_ in _ASSETS.values() if not (folder / file).is_file()]
    if manifest is None or missing:
        raise CatalogError("the folder of a finished run", f"{run_folder} without {missing[0] if missing else 'a run'}", "Check the path.")
    item = _product_item(folder, manifest)
    with writing(catalog):
        collection = StaticCollection.read(catalog, PRODUCTS, _ABOUT)
        item.id, before = _place(collection, folder)
        if before is not None:
            item.properties["created"] = before["properties"]["created"]
        collection.put([(item, collection.item_path(item.id))])
    return item.id


def _place(collection: StaticCollection, folder: Path) -> tuple[str, dict[str, Any] | None]:
    """The id that a run's item has or gets, and the item that it replaces."""
    for name in (folder.name, *unique_ids([(folder.name, str(folder))], {folder.name})):
        before = collection.find(name)
        if before is None or _folder_of(collection, name, before) == folder:
            return name, before
    raise CatalogError("a free id for the run", f"{folder.name}, which is taken", "Rename the folder.")


def _folder_of(collection: StaticCollection, name: str, item: dict[str, Any]) -> Path:
    manifest = collection.item_path(name).parent / str(item["assets"][_MANIFEST_ASSET]["href"])
    return manifest.resolve().parent


def _product_item(folder: Path, manifest: dict[str, Any]) -> pystac.Item:
    labels = describe(str(folder / _ASSETS["labels"][0]))
    finished = dt.datetime.fromisoformat(manifest["finished"])
    dates = [dt.datetime.fromisoformat(scene["datetime"]) for scene in manifest["scenes"] if scene["datetime"]]
    item = blank_item(folder.name, valid_footprint(labels), dates, finished)
    item.common_metadata.gsd = round(labels.gsd_m, 4)
    item.properties |= _provenance(manifest, finished)
    item.stac_extensions.append(PROCESSING)
    for key, (file, media_type, roles, title) in {**_ASSETS, **_beside(folder, manifest)}.items():
        asset = pystac.Asset(str(folder / file), title=title, media_type=media_type, roles=roles)
        item.add_asset(key, asset)
        describe_file(asset, folder / file, checksum=True)
    names = [facts["name"] for facts in manifest["classes"]]
    for key, bands in {"labels": ["class"], "scores": names}.items():
        info = describe(str(folder / _ASSETS[key][0]))
        project(ProjectionExtension.ext(item.assets[key], add_if_missing=True), info)
        describe_raster(item, item.assets[key], info, bands)
    item.assets["scores"].extra_fields["raster:scale"] = 1 / SCORE_MAX
    ClassificationExtension.ext(item.assets["labels"], add_if_missing=True).apply(_classifications(manifest["classes"]))
    for scene in manifest["scenes"]:
        if scene.get("item"):
            item.add_link(pystac.Link("derived_from", scene["item"], pystac.MediaType.GEOJSON, title=scene["id"]))
    return item


def _beside(folder: Path, manifest: dict[str, Any]) -> dict[str, tuple[str, str, list[str], str]]:
    """Assets that not every run has; a report may have been thrown away."""
    known = {file for file, *_ in _ASSETS.values()}
    there = [name for name in manifest["files"] if name not in known and (folder / name).is_file()]
    about = {name: _BESIDE.get(name, _BESIDE.get(Path(name).suffix)) for name in there}
    return {name: (name, *facts) for name, facts in about.items() if facts is not None}


def _provenance(manifest: dict[str, Any], finished: dt.datetime) -> dict[str, Any]:
    classes, model = manifest["classes"], manifest["model"]
    names = ", ".join(facts["name"] for facts in classes)
    scenes = ", ".join(scene["id"] for scene in manifest["scenes"])
    return {
        "processing:software": {"rs-seg": manifest["version"]} | manifest["versions"],
        "processing:datetime": finished.isoformat().replace("+00:00", "Z"),
        "processing:lineage": f"{names} in {scenes}, by {model['name']}",
        "rs_seg:run_key": manifest["run_key"],
        "rs_seg:status": manifest["status"],
        "rs_seg:model": model["name"],
        "rs_seg:weights_sha256": model["weights_sha256"],
        "rs_seg:prompts": {facts["name"]: facts["prompts"] for facts in classes},
        "rs_seg:thresholds": {facts["name"]: facts["threshold"] for facts in classes},
        "rs_seg:settings": manifest["settings"],
    }


def _classifications(classes: Sequence[dict[str, Any]]) -> list[Classification]:
    named = [
        Classification.create(
            value=facts["value"],
            name=re.sub(r"[^0-9A-Za-z_-]+", "-", facts["name"]).strip("-") or f"class-{facts['value']}",
            title=facts["name"],
            color_hint="".join(f"{part:02X}" for part in facts["colour"]),
        )
        for facts in classes
    ]
    background = Classification.create(value=BACKGROUND, name="background", title="background")
    unseen = Classification.create(value=NOT_OBSERVED, name="not-observed", title="not observed", nodata=True)
    return [background, *named, unseen]
