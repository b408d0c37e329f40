"""Polygons as well-known binary, all at once: bytes are laid out by arithmetic, and no object is made for any of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rs_pipeline.errors import OutputError

MAX_BYTES = 1_000_000_000
"""SQLite's limit for a value."""
_POLYGON, _MULTIPOLYGON = 3, 6
_HEADER_BYTES, _RING_BYTES, _POINT_BYTES = 9, 4, 16
"""Byte order, type and count; a ring's count; x and y."""


class Polygons(NamedTuple):
    """Polygons as flat arrays, each level counting the one before: the layout of `shapely.to_ragged_array`."""

    points: NDArray[np.float64]
    """(n, 2) x and y."""
    rings: NDArray[np.int64]
    """(rings + 1,) first point of each ring, which ends with its first point again."""
    polygons: NDArray[np.int64]
    """(polygons + 1,) first ring, the outer one, of each polygon."""


def to_wkb(shapes: Polygons, parts: NDArray[np.int64] | None = None) -> pa.BinaryArray:
    """Little-endian WKB (OGC Simple Features 8.2) of each polygon, or of multipolygons.

    Parameters
    ----------
    parts: (multipolygons + 1,) first polygon of each multipolygon; None: every polygon by itself.

    Raises
    ------
    OutputError: one of them is larger than a GeoPackage can hold.
    """
    points, rings, polygons = shapes
    multi = np.zeros(len(polygons), np.int64) if parts is None else np.searchsorted(parts, np.arange(len(polygons)), side="right")
    # Bytes before each thing: those of all points, rings and headers in front of it.
    polygon_at = _POINT_BYTES * rings[polygons] + _RING_BYTES * polygons + _HEADER_BYTES * (np.arange(len(polygons)) + multi)
    inside = np.repeat(np.arange(1, len(polygons)) + multi[:-1], np.diff(polygons))
    ring_at = _POINT_BYTES * rings[:-1] + _RING_BYTES * np.arange(len(rings) - 1) + _HEADER_BYTES * inside
    headers = len(polygons) - 1 + (0 if parts is None else len(parts) - 1)
    end = _POINT_BYTES * rings[-1] + _RING_BYTES * polygons[-1] + _HEADER_BYTES * headers

    heads = [(polygon_at[:-1], _header(_POLYGON, np.diff(polygons))), (ring_at, _counts(np.diff(rings)))]
    starts = np.append(polygon_at[:-1], end)
    if parts is not None:
        starts = np.append(polygon_at[parts[:-1]] - _HEADER_BYTES, end)
        heads.append((starts[:-1], _header(_MULTIPOLYGON, np.diff(parts))))
    if len(starts) > 1 and np.diff(starts).max() > MAX_BYTES:
        came = f"one of {np.diff(starts).max() / 1e9:.1f} GB"
        fix = "Give a coarser --gsd, or a smaller --aoi."
        raise OutputError(f"objects of at most {MAX_BYTES / 1e9:.0f} GB, which a GeoPackage can hold", came, fix)
    data, is_point = np.empty(end, np.uint8), np.ones(end, bool)
    for at, head in heads:
        where = at[:, None] + np.arange(head.shape[1])
        data[where] = head
        is_point[where] = False
    data[is_point] = points.astype("<f8", copy=False).view(np.uint8).ravel()
    return pa.BinaryArray.from_buffers(pa.binary(), len(starts) - 1, [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(data)])


def _header(kind: int, counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, 9) bytes: little-endian, the type, how many parts."""
    head = np.empty((len(counts), _HEADER_BYTES), np.uint8)
    head[:, :5] = (1, kind, 0, 0, 0)
    head[:, 5:] = _counts(counts)
    return head


def _counts(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, 4) bytes: little-endian."""
    return counts.astype("<u4").view(np.uint8).reshape(-1, 4)
