"""A catalog checked: against the schemas of STAC and of its extensions, without a network, and every image opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pystac
from pystac.validation import set_validator
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from rs_pipeline.errors import CatalogError, RasterError
from rs_pipeline.query import Query
from rs_pipeline.raster import describe
from rs_pipeline.stac_assets import image_of, images_of_product
from rs_pipeline.stac_sources import PRODUCTS, read_stac


class OfflineValidator(JsonSchemaSTACValidator):
    """The core's schemas, which come with pystac, and ours of the extensions; extensions that there is none of are passed over."""

    def __init__(self) -> None:
        super().__init__()
        for path in sorted((Path(__file__).parent / "schemas").glob("*.json")):
            schema = json.loads(path.read_text(encoding="utf-8"))
            self.schema_cache[schema["$id"]] = schema

    def validate_extension(
        self,
        stac_dict: dict[str, Any],
        stac_object_type: pystac.STACObjectType,
        stac_version: str,
        extension_id: str,
        href: str | None = None,
    ) -> str | None:
        """The schema's URI; None where it is not known here."""
        if extension_id not in self.schema_cache:
            return None
        return super().validate_extension(stac_dict, stac_object_type, stac_version, extension_id, href)


def validate_offline() -> None:
    """Have pystac validate with `OfflineValidator` from now on."""
    set_validator(OfflineValidator())


def validate_catalog(source: str, *, verify: bool = False) -> tuple[int, list[str]]:
    """Look for what is wrong with a static catalog.

    Parameters
    ----------
    source: path or URL.
    verify: hold local files against the checksums that are stated.

    Returns
    -------
    How many items there are, and what is wrong: schemas that are not kept, images that are missing, changed or cannot be read.

    Raises
    ------
    CatalogError: it cannot be read as a whole.
    """
    validator, items, problems = OfflineValidator(), 0, []
    for stac in read_stac(source):
        try:
            stac.validate(validator=validator)
        except pystac.STACValidationError as error:
            problems.append(f"{stac.id}: {' '.join(str(error).split())}")
        if isinstance(stac, pystac.Item):
            items += 1
            problems += [f"{stac.id}: {error}" for error in _image_errors(stac, verify=verify)]
    return items, problems


def _image_errors(item: pystac.Item, *, verify: bool) -> Iterator[CatalogError | RasterError]:
    try:
        for image in images_of_product(item) if item.collection_id == PRODUCTS else [image_of(item, Query())]:
            image.check(verify=verify)
            if image.is_tiff:
                describe(image.href)
    except (CatalogError, RasterError) as error:
        yield error
