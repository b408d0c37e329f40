"""The demo on disk: a scene, an area of interest, the truth. The place is invented; its coordinates are merely plausible."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from rs_pipeline.cog import BlockRaster, Look
from rs_pipeline.errors import UsageError
from rs_pipeline.grid import Grid, Window

from .render import render_scene
from .truth import write_truth

VERSION = 1
"""Counts up whenever the same seed gives another scene, so that a demo on disk is made anew."""
GSD_M = 0.5
EPSG = 32632
ORIGIN = (604_200.0, 4_988_600.0)
"""Easting and northing of the top-left corner."""
TAKEN = "2026:06:01 10:30:00"
"""Acquisition time, UTC, as TIFF writes it."""
SMALLEST_PX = 64
OUTLINE = (
    (0.06, 0.12),
    (0.30, 0.04),
    (0.56, 0.09),
    (0.93, 0.05),
    (0.96, 0.47),
    (0.88, 0.66),
    (0.95, 0.93),
    (0.52, 0.96),
    (0.36, 0.88),
    (0.08, 0.95),
)
HOLE = ((0.44, 0.38), (0.60, 0.31), (0.71, 0.44), (0.66, 0.60), (0.50, 0.63), (0.41, 0.52))
"""The area of interest in shares of the scene's width and height."""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where the demo lies."""

    scene: Path
    """Cloud-optimized GeoTIFF, uint8 RGB."""
    region: Path
    """GeoJSON (RFC 7946): an irregular polygon with a hole, about two thirds of the scene."""
    truth: Path
    """GeoPackage: layers road, water, building, vegetation."""


def demo_grid(size_px: int) -> Grid:
    """The grid of a demo scene: `size_px` squared pixels of half a metre, UTM zone 32 north."""
    return Grid(CRS.from_epsg(EPSG), Affine(GSD_M, 0, ORIGIN[0], 0, -GSD_M, ORIGIN[1]), size_px, size_px)


def region_of(grid: Grid) -> BaseGeometry:
    """The area of interest, in the grid's CRS."""
    west, south, east, north = grid.bounds
    rings = [np.array(ring) * (east - west, south - north) + (west, north) for ring in (OUTLINE, HOLE)]
    return shapely.Polygon(rings[0], [rings[1]])


def write_demo(folder: Path, *, size_px: int = 4096, seed: int = 7) -> DemoFiles:
    """Make the demo in `folder`, unless the very same is there. Files appear whole or not at all, the record of them last.

    Raises
    ------
    UsageError: `size_px` is below 64.
    """
    if size_px < SMALLEST_PX:
        raise UsageError(f"a scene of at least {SMALLEST_PX} pixels", str(size_px), "Ask for a larger --size-px.")
    files = DemoFiles(folder / "scene.tif", folder / "region.geojson", folder / "truth.gpkg")
    record, wanted = folder / "demo.json", {"version": VERSION, "seed": seed, "size_px": size_px}
    if is_current(files, record, wanted):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=folder) as aside:
        made = DemoFiles(*(Path(aside) / path.name for path in (files.scene, files.region, files.truth)))
        make_files(made, demo_grid(size_px), seed)
        made_record = Path(aside) / record.name
        made_record.write_text(json.dumps(wanted | {"scene_sha256": sha256(made.scene)}, indent=2) + "\n")
        # without its record, a mixture of old and new files never passes for a demo
        record.unlink(missing_ok=True)
        for new in (made.scene, made.region, made.truth, made_record):
            new.replace(folder / new.name)
    return files


def is_current(files: DemoFiles, record: Path, wanted: dict[str, Any]) -> bool:
    """True where the files are there, and are those that `wanted` would make."""
    if not all(path.is_file() for path in (files.scene, files.region, files.truth, record)):
        return False
    try:
        made = json.loads(record.read_text())
    except ValueError:
        return False
    return bool(made == wanted | {"scene_sha256": sha256(files.scene)})


def make_files(files: DemoFiles, grid: Grid, seed: int) -> None:
    """Render a scene and write what belongs to it."""
    scene = render_scene(seed, grid.height, grid.width, GSD_M, showcase=True)
    write_scene(files.scene, scene.image, grid)
    files.region.write_text(json.dumps(region_geojson(grid)) + "\n")
    write_truth(files.truth, scene.labels, grid)


def write_scene(path: Path, image: NDArray[np.uint8], grid: Grid) -> None:
    """Write (3,H,W) as a cloud-optimized GeoTIFF."""
    tags = {"TIFFTAG_DATETIME": TAKEN, "TIFFTAG_IMAGEDESCRIPTION": "Invented scene, rendered from random numbers"}
    scratch = BlockRaster(path.with_suffix(".scratch.tif"), grid, 3, Look(None, ("red", "green", "blue"), tags))
    scratch.write(Window(0, 0, grid.height, grid.width), image)
    scratch.finish(path, "average")
    scratch.path.unlink()


def region_geojson(grid: Grid) -> dict[str, Any]:
    """The area of interest as a GeoJSON feature collection, longitude and latitude, outer ring counter-clockwise."""
    to_degrees = Transformer.from_crs(grid.crs, CRS.from_epsg(4326), always_xy=True)
    region = shapely.transform(region_of(grid), lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    # a centimetre is 1e-7 degrees
    region = shapely.orient_polygons(shapely.transform(region, lambda xy: xy.round(8)))
    feature = {"type": "Feature", "properties": {"name": "demo region"}, "geometry": shapely.geometry.mapping(region)}
    return {"type": "FeatureCollection", "features": [feature]}


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
