"""The pipeline from Python: the same runs as on the command line, and what they made as arrays and tables.

`import rs_pipeline` has these functions, too: `rs_pipeline.segment`, `rs_pipeline.open_run`, `rs_pipeline.open_products`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from rs_pipeline.arguments import Area, as_area, as_names, as_path, as_paths, plain
from rs_pipeline.classes import NOT_OBSERVED, SCORE_MAX
from rs_pipeline.config import load_settings
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.geopackage import plain_path
from rs_pipeline.grid import Window
from rs_pipeline.keys import digest
from rs_pipeline.layers import COVERAGE_LAYER
from rs_pipeline.lazy_arrays import coordinates_of, labels_variable, lazy_array
from rs_pipeline.product_series import open_products
from rs_pipeline.raster import read_window
from rs_pipeline.reporting import Reporter
from rs_pipeline.run import run
from rs_pipeline.run_folder import RunFolder, read_run

__all__ = ["Layers", "OpenRun", "open_products", "open_run", "segment"]


def segment(
    *,
    aoi: Area | None = None,
    classes: str | Sequence[str] | None = None,
    source: str | Path | Sequence[str | Path] | None = None,
    datetime: str | None = None,
    out: str | Path | None = None,
    model: str | Path | None = None,
    refine: str | Path | None = None,
    gsd: float | None = None,
    tile_px: int | None = None,
    overlap_px: int | None = None,
    roads_as_lines: bool = False,
    square: str | Sequence[str] | None = None,
    format: str | Sequence[str] | None = None,  # noqa: A002 - as the flag
    crs: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> OpenRun:
    """Find the scenes that meet an area, segment them, and open the run: `rs-seg run` with its flags as keywords.

    A run that is in its folder already is not done again.

    Parameters
    ----------
    aoi: a vector file, or minx, miny, maxx, maxy in degrees.
    classes: names, in a sequence or separated by commas.
    source: GeoTIFFs, folders of them, STAC catalogs; one or several.
    square: classes whose outlines go squared into `squares.gpkg`, too, in a sequence or separated by commas.
    format: of files beside `layers.gpkg`, in a sequence or separated by commas.
    datetime, out, model, refine, gsd, tile_px, overlap_px, roads_as_lines, crs, cluster, workers, batch_size: as the flags.
    config: YAML file of settings, or what such a file holds.
    reporter: told of progress and notes; None: silence.
    settings: any other setting of `configs/run.yaml`, nested (`vectors={"min_area_m2": 20}`) or dotted
        (`**{"vectors.min_area_m2": 20}`); later than `config`, and an unknown one fails as on the command line.

    Returns
    -------
    The run, open. Where tiles failed, its manifest's `status` is `partial`, and they are not observed.

    Raises
    ------
    UsageError: an argument is of a kind that it cannot be.
    RsSegError: nothing was published; tiles that were computed stay in the store, and calling again goes on from there.
    """
    flags = {
        "aoi": as_area(aoi) if aoi is not None else None,
        "classes": as_names(classes, "classes") if classes is not None else None,
        "source": as_paths(source, "source") if source is not None else None,
        "datetime": datetime,
        "out": as_path(out, "out") if out is not None else None,
        "model": model,
        "refine.preset": refine,
        "gsd_m": gsd,
        "tile_px": tile_px,
        "overlap_px": overlap_px,
        "vectors.lines": ("road",) if roads_as_lines else None,
        "vectors.square": as_names(square, "square") if square is not None else None,
        "vectors.formats": as_names(format, "format") if format is not None else None,
        "vectors.crs": crs,
        "workers.cluster": cluster,
        "workers.count": workers,
        "workers.batch_size": batch_size,
    }
    chosen = load_settings(plain(config), plain({**flags, **settings}))
    if chosen.per_scene:
        raise UsageError("one run", "per_scene", "Call once for each scene: scenes=[ID].")
    return open_run(run(chosen, reporter)["out"])


def open_run(folder: str | Path) -> OpenRun:
    """A finished run; nothing of its rasters and layers is read yet.

    Raises
    ------
    OutputError: the folder holds no finished run. UsageError: `folder` is no path.
    """
    return OpenRun(read_run(as_path(folder, "folder")))


@dataclass(frozen=True)
class OpenRun:
    """What a run made, read when it is asked for."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return self.folder.manifest

    @cached_property
    def data(self) -> xr.Dataset:
        """The rasters, lazy: `labels` (y, x) uint8, 0 background and 255 not observed; `scores` (class, y, x) float32, probability 0…1 and
        NaN where not observed. Coordinate `value` (class) has the labels; attribute `pixel_m2` is the area of a pixel, square metres.
        """
        grid, names = self.folder.grid, self.folder.classes.names
        version = digest({"run": str(self.path), "key": self.manifest["run_key"], "finished": self.manifest["finished"]})[:16]
        labels = lazy_array(partial(_read_class, str(self.path / "labels.tif")), grid, (), np.uint8, f"labels-{version}")
        read_scores = partial(_read_scores, str(self.path / "scores.tif"))
        scores = lazy_array(read_scores, grid, (len(names),), np.float32, f"scores-{version}")
        about = {"long_name": "probability of each class", "grid_mapping": "spatial_ref"}
        return xr.Dataset(
            {"labels": labels_variable(labels, ("y", "x"), names), "scores": (("class", "y", "x"), scores, about)},
            coordinates_of(grid, names),
            {"pixel_m2": abs(grid.transform.determinant), "run": str(self.path)},
        )

    @cached_property
    def layers(self) -> Layers:
        """Polygons of each class, by its name."""
        return Layers(self.path / "layers.gpkg", self.folder.classes.names)

    @cached_property
    def coverage(self) -> gpd.GeoDataFrame:
        """Polygons of what was observed and what was not: `state` and `area_m2`."""
        return _read_layer(self.path / "layers.gpkg", COVERAGE_LAYER)


def _read_class(href: str, window: Window) -> NDArray[np.uint8]:
    labels: NDArray[np.uint8] = read_window(href, window)[0]
    return labels


def _read_scores(href: str, window: Window) -> NDArray[np.float32]:
    stored = read_window(href, window)
    scores = stored.astype(np.float32) / np.float32(SCORE_MAX)
    scores[stored == NOT_OBSERVED] = np.nan
    return scores


class Layers(Mapping[str, gpd.GeoDataFrame]):
    """Class layers by name, each read at its first use.

    Raises
    ------
    OutputError: from a look-up, where the layer cannot be read.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, tuple(names)
        self._read: dict[str, gpd.GeoDataFrame] = {}

    def __getitem__(self, name: str) -> gpd.GeoDataFrame:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = _read_layer(self._path, name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_layer(path: Path, layer: str) -> gpd.GeoDataFrame:
    try:
        with plain_path(path) as plain_name:
            return gpd.read_file(plain_name, layer=layer)
    except (DataSourceError, DataLayerError, OSError) as error:
        raise OutputError(f"a layer {layer!r} that can be read", f"{path} ({error})", "Run again with overwrite.") from error
