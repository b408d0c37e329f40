"""The products of an archive, one after another in time, on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pystac
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from rs_pipeline.aoi import read_aoi
from rs_pipeline.arguments import Area, as_area, as_names, as_path
from rs_pipeline.classes import BACKGROUND, NOT_OBSERVED
from rs_pipeline.errors import AoiError, CatalogError, UsageError
from rs_pipeline.extent import LON_LAT
from rs_pipeline.grid import Grid, Window
from rs_pipeline.keys import digest
from rs_pipeline.labels import Labels
from rs_pipeline.lazy_arrays import CHUNK_PX, coordinates_of, labels_variable, lazy_array
from rs_pipeline.query import Query, parse_interval
from rs_pipeline.raster import RasterInfo, burn_mask, describe
from rs_pipeline.stac_sources import PRODUCTS, DamagedItem, date_of_item, find_items
from rs_pipeline.vocabulary import normal_name

_SLACK_PX = 1e-3
_MAX_BLOCKS = 200_000
"""A sum over all of them is a graph of 4 kB each, before a pixel is read."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A run in the catalog."""

    id: str
    time: np.datetime64
    """NaT where nobody says."""
    info: RasterInfo
    """Of its labels."""
    values: dict[str, int]
    """Label by class."""


def open_products(
    catalog: str | Path, aoi: Area | None = None, classes: str | Sequence[str] | None = None, datetime: str | None = None
) -> xr.Dataset:
    """The labels of an archive's products, stacked over time, lazily.

    Parameters
    ----------
    catalog: STAC catalog with a collection `products`, as `rs-seg catalog add-product` and archives make it: path or URL.
    aoi: a vector file, or minx, miny, maxx, maxy in degrees; what lies outside is not observed. None: wherever products are.
    classes: names, in a sequence or separated by commas; products that were not asked for all of them say nothing of their absence, and
        are left out. None: those that all products have in common.
    datetime: FROM/TO, either may be empty, or one day.

    Returns
    -------
    `labels` (time, y, x) uint8: 0 background, 255 not observed; a product each, earliest first, with its id in the coordinate `product`.
    Labels are the coordinate `value` (class), the area of a pixel is the attribute `pixel_m2`, square metres. The grid has CRS and
    pixels of the latest product; others are brought onto it, nearest neighbour.

    Raises
    ------
    CatalogError: it cannot be read, or holds no such product.
    AoiError: the area cannot be read, no product is there, or it has too many blocks.
    UsageError: an argument is of a kind that it cannot be.
    """
    catalog = str(as_path(catalog, "catalog")) if not isinstance(catalog, str) else catalog  # a URL is none
    names = _class_names(classes) if classes is not None else None
    area = read_aoi(as_area(aoi)) if aoi is not None else None
    query = Query(parse_interval(datetime), area.in_crs(LON_LAT) if area is not None else None, (PRODUCTS,))
    products, names = _with_classes(_find(catalog, query), names, catalog)
    latest = _grid_of(products[-1].info)
    place = area.in_crs(latest.crs) if area is not None else None
    grid = _covering(latest, [product.info for product in products], place)
    blocks = math.ceil(grid.height / CHUNK_PX) * math.ceil(grid.width / CHUNK_PX) * len(products)
    if blocks > _MAX_BLOCKS:
        came = f"{grid.height} x {grid.width} over {len(products)} products, {blocks:,}"
        raise AoiError(f"at most {_MAX_BLOCKS:,} blocks of {CHUNK_PX} x {CHUNK_PX} pixels", came, "Give a smaller aoi, or fewer dates.")
    layers = [_labels_on(grid, product, names, place) for product in products]
    stacked = labels_variable(da.stack(layers), ("time", "y", "x"), names)
    times = np.array([product.time for product in products], "datetime64[ns]")
    coordinates = {"time": times, "product": ("time", [product.id for product in products]), **coordinates_of(grid, names)}
    return xr.Dataset({"labels": stacked}, coordinates, {"pixel_m2": abs(grid.transform.determinant)})


def _class_names(classes: str | Sequence[str]) -> list[str]:
    """Names in the form that runs give them, each once, in the order asked."""
    names = list(dict.fromkeys(map(normal_name, as_names(classes, "classes"))))
    if not names or "" in names:
        raise UsageError("classes: names, or None for all that the products share", repr(classes), "Give classes=['water'], say.")
    return names


def _find(catalog: str, query: Query) -> list[_Product]:
    """What a query takes, earliest first; without a date, before all others."""
    products = []
    for item in find_items(catalog, query):
        if isinstance(item, DamagedItem):
            raise item.error
        products.append(_product_of(item))
    return sorted(products, key=lambda product: ("" if np.isnat(product.time) else str(product.time), product.id))


def _product_of(item: pystac.Item) -> _Product:
    labels = item.assets.get("labels")
    href = labels.get_absolute_href() if labels is not None else None
    if labels is None or href is None:
        raise CatalogError("products with an asset `labels`", f"{item.id} without", "Add the run again with `rs-seg catalog add-product`.")
    told: list[dict[str, Any]] = labels.extra_fields.get("classification:classes", [])
    values = {facts.get("title", facts["name"]): facts["value"] for facts in told if facts["value"] not in {BACKGROUND, NOT_OBSERVED}}
    moment = date_of_item(item)
    time = np.datetime64("NaT", "ns") if moment is None else np.datetime64(moment.replace(tzinfo=None), "ns")
    return _Product(item.id, time, describe(href.removeprefix("file://")), values)


def _with_classes(products: list[_Product], classes: Sequence[str] | None, catalog: str) -> tuple[list[_Product], list[str]]:
    if classes is not None:
        found = [product for product in products if set(classes) <= set(product.values)]
        names = list(classes)
    else:
        found = products
        names = [name for name in products[-1].values if all(name in p.values for p in products)] if products else []
    if not found or not names:
        wanted = f"products of {', '.join(classes)}" if classes is not None else "products with a class in common"
        fix = "`rs-seg catalog list --products` shows what there is."
        raise CatalogError(wanted, f"none of {len(products)} in {catalog}", fix)
    return found, names


def _grid_of(info: RasterInfo) -> Grid:
    return Grid(info.crs, info.transform, info.height, info.width)


def _covering(lattice: Grid, infos: Sequence[RasterInfo], place: BaseGeometry | None) -> Grid:
    """The smallest grid with the pixels of `lattice` over all products, or what of `place` they cover."""
    outlines = [shapely.box(*info.outline(lattice.crs).bounds) for info in infos if not info.outline(lattice.crs).is_empty]
    covered: BaseGeometry = shapely.envelope(shapely.union_all(outlines))
    if place is not None:
        covered = shapely.intersection(covered, shapely.box(*place.bounds))
    if covered.is_empty or covered.area == 0:
        raise AoiError("an area where products are", f"bounds {place.bounds if place is not None else None}", "Check its CRS and place.")
    minx, miny, maxx, maxy = covered.bounds
    cols, rows = zip(*(~lattice.transform @ (x, y) for x in (minx, maxx) for y in (miny, maxy)), strict=True)
    left, top = math.floor(min(cols) + _SLACK_PX), math.floor(min(rows) + _SLACK_PX)
    right, bottom = math.ceil(max(cols) - _SLACK_PX), math.ceil(max(rows) - _SLACK_PX)
    return Grid(lattice.crs, lattice.transform @ Affine.translation(left, top), max(1, bottom - top), max(1, right - left))


def _labels_on(grid: Grid, product: _Product, names: Sequence[str], place: BaseGeometry | None) -> da.Array:
    table = np.full(256, BACKGROUND, np.uint8)
    table[NOT_OBSERVED] = NOT_OBSERVED
    table[[product.values[name] for name in names]] = np.arange(1, len(names) + 1)
    labels = Labels(product.info.href, _grid_of(product.info), table)

    def read(window: Window) -> NDArray[np.uint8]:
        found = labels.read_on(grid, window)
        if place is not None:
            found[~burn_mask(place, grid.crop(window))] = NOT_OBSERVED
        return found

    facts = {"labels": product.info.href, "version": product.info.fingerprint, "grid": grid.to_dict(), "names": list(names)}
    area = place.wkb_hex if place is not None else None
    return lazy_array(read, grid, (), np.uint8, f"product-{digest(facts | {'area': area})[:16]}")
