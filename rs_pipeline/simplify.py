"""Which corners of a block's outlines a simplification keeps: the same for all objects that share them.

Every block simplifies the coverage of all its regions, background included, and leaves its own border as it is. So the blocks are
independent of each other, and outlines fit together across them as they do inside.
"""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from rs_pipeline.components import find_runs
from rs_pipeline.lattice import corners_at, find_points, is_node, straight_at
from rs_pipeline.rings import KEEP, Corners, trace_polygons


def kept_corners(labels: NDArray[np.uint8], tolerance_px: float) -> NDArray[np.bool_]:
    """(h + 1, w + 1) bool: the lattice points of a block of labels (h, w) that are vertices of its simplified regions.

    Parameters
    ----------
    tolerance_px: square root of the area, in pixels, of the triangles that are cut off (Visvalingam and Whyatt 1993, as
        `shapely.coverage_simplify` does it, which lets no edges cross). The border of the block is kept whole.
    """
    polygons = _regions(labels)
    simple = shapely.coverage_simplify(polygons, tolerance_px, simplify_boundary=False)
    kept = np.zeros((labels.shape[0] + 1, labels.shape[1] + 1), bool)
    cols, rows = np.rint(shapely.get_coordinates(simple)).astype(np.int64).T
    kept[rows, cols] = True
    kept[[0, -1]] = True
    kept[:, [0, -1]] = True
    return kept


def _regions(labels: NDArray[np.uint8]) -> NDArray[np.object_]:
    """Polygons, in pixels, of the regions of one label; together a valid coverage: neighbours have all vertices of an edge in common."""
    framed = np.pad(labels + np.uint8(1), 1)
    runs, _ = find_runs(framed, np.zeros_like(framed))
    lattice = find_points(framed, runs)
    corners = corners_at(lattice)
    straight = straight_at(lattice.take(is_node(lattice)))
    corners.bits[:] |= KEEP
    points, rings, polygons = trace_polygons(Corners.concatenate([corners, straight]), Affine.identity(), simplified=True)
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (rings, polygons))
