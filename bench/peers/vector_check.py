"""Whether a vector file holds the polygons and the areas that it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from peers.inputs import CLASSES
from pyproj import Transformer

_COLUMNS = ("class", "value", "class_value")
_BATCH = 50_000
_METRES, _DEGREES = 32633, 4326


def check_vectors(path: Path, truth: dict[str, Any]) -> dict[str, Any]:
    """Polygons and square metres of each class against the truth: counts exactly, areas to 1e-6 of themselves."""
    polygons, area, invalid, missing = np.zeros(CLASSES), np.zeros(CLASSES), 0, False
    for layer, kind in pyogrio.list_layers(path):
        if kind is None or layer in {"coverage", "scenes"}:
            continue
        info = pyogrio.read_info(path, layer=layer)
        column = next((name for name in _COLUMNS if name in info["fields"]), None)
        missing |= column is None
        turn = Transformer.from_crs(_DEGREES, _METRES, always_xy=True) if info["crs"] == f"EPSG:{_DEGREES}" else None
        with pyogrio.open_arrow(path, layer=layer, columns=[column] if column else [], batch_size=_BATCH, use_pyarrow=True) as (
            meta,
            batches,
        ):
            for batch in batches:
                found = shapely.from_wkb(batch.column(meta["geometry_name"] or "wkb_geometry").to_numpy(zero_copy_only=False))
                which = _classes(batch.column(column).to_pylist()) if column else np.zeros(len(found), np.int64)
                invalid += int((~shapely.is_valid(found)).sum())
                if turn is not None:
                    found = shapely.transform(found, lambda at, turn=turn: np.stack(turn.transform(*at.T), axis=1))
                polygons += np.bincount(which, minlength=CLASSES)[:CLASSES]
                area += np.bincount(which, shapely.area(found), minlength=CLASSES)[:CLASSES]
    same_count = polygons.tolist() == truth["polygons"]
    same_area = bool(np.allclose(area, truth["area_m2"], rtol=1e-6))
    note = " (no class on the polygons)" if missing else f" ({invalid} invalid)" if invalid else ""
    if missing:  # nothing but the sums can be compared
        same_count = polygons.sum() == sum(truth["polygons"])
        same_area = bool(np.isclose(area.sum(), sum(truth["area_m2"]), rtol=1e-6))
    return {
        "polygons": int(polygons.sum()),
        "same": bool(same_count and same_area),
        "same_count": bool(same_count),
        "same_area": same_area,
        "area_off": round(float(area.sum() / sum(truth["area_m2"]) - 1), 9),
        "invalid": invalid,
        "note": note,
    }


def _classes(values: list[Any]) -> NDArray[np.int64]:
    """Class 0…5 of each polygon, from what the column says: a number, or the name that begins with c."""
    return np.array([int(float(str(value).removeprefix("c"))) - 1 for value in values], np.int64)
