"""Images of a data set through the same path as `rs-seg run`, one run for each, and its rasters on the image's own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import yaml
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from rs_pipeline.classes import NOT_OBSERVED, ClassSet
from rs_pipeline.cog import write_placed_copy
from rs_pipeline.config import RunSettings
from rs_pipeline.dataset_checks import is_georeferenced
from rs_pipeline.datasets import Dataset, Pair
from rs_pipeline.errors import CatalogError, RasterError, RsSegError, SegmenterError
from rs_pipeline.grid import Grid
from rs_pipeline.groups import held
from rs_pipeline.plan import RunPlan, plan_run
from rs_pipeline.raster import RasterInfo, choose_bands, describe, opened, read_sample
from rs_pipeline.reporting import Reporter, Silent
from rs_pipeline.stages import Stitched, infer_tiles, stitch
from rs_pipeline.workers import open_client

if TYPE_CHECKING:
    from distributed import Client

Found = TypeVar("Found")

_ANYWHERE = CRS.from_epsg(32631), 500_000.0, 5_000_000.0
"""Where images without a georeference are put: a CRS of metres, and x and y of their corner. No model is told."""
_GIVE_UP_AFTER = 3
"""So many first images that fail whole are the model's fault, not theirs."""
_SLAB_ROWS = 512


@dataclass(frozen=True, slots=True)
class ImageRun:
    """The run of one image, its rasters still open."""

    plan: RunPlan
    stitched: Stitched
    failed: tuple[tuple[int, str], ...]
    """Tiles that failed, with the error."""

    def labels(self) -> NDArray[np.uint8]:
        """(H, W) of the image: 0 background, 1…K, 255 not observed."""
        grid = self.plan.job.plan.grid
        labels: NDArray[np.uint8] = on_image(self.stitched.labels.read(grid.window), grid, self._info)[0]
        return labels

    def scores(self) -> NDArray[np.uint8]:
        """(K, H, W) of the image: 0…254 means 0…1, 255 not observed."""
        grid = self.plan.job.plan.grid
        return on_image(self.stitched.scores.read(grid.window), grid, self._info)

    @property
    def _info(self) -> RasterInfo:
        return self.plan.job.scenes[0].info


@dataclass(frozen=True, slots=True)
class BlankImage:
    """An image without a valid pixel: nothing was run, and nothing observed."""

    shape: tuple[int, int]
    """Height and width, pixels."""
    classes: int
    plan: None = None
    failed: tuple[tuple[int, str], ...] = ()

    def labels(self) -> NDArray[np.uint8]:
        """(H, W) of 255."""
        return np.full(self.shape, NOT_OBSERVED, np.uint8)

    def scores(self) -> NDArray[np.uint8]:
        """(K, H, W) of 255."""
        return np.full((self.classes, *self.shape), NOT_OBSERVED, np.uint8)


def run_images(
    dataset: Dataset,
    settings: RunSettings,
    classes: ClassSet,
    reporter: Reporter,
    look: Callable[[Pair, ImageRun | BlankImage], Found],
) -> list[Found]:
    """Run each image by itself and have a look at it; what the runs write is gone afterwards, however this ends.

    Parameters
    ----------
    dataset: as `check_pairs` lets it pass: GDAL reads something from damaged files too.
    settings: of a run; its area, sources, dates, classes and folders are not used. Without a ground sampling distance each image is
        segmented at its own.
    classes: what to look for, with the thresholds to use.
    look: called for each image while its rasters are open.

    Raises
    ------
    RsSegError: an image or mask cannot be used, the workers cannot, or the model fails on every tile of the first images.
    """
    found: list[Found] = []
    told = _Once(reporter)
    tried = whole_failures = 0
    reporter.stage("images", len(dataset.pairs))
    with TemporaryDirectory(prefix="rs-seg-evaluate-", ignore_cleanup_errors=True) as scratch, ExitStack() as workers:
        settings = _for_images(settings, classes, Path(scratch))
        client: Client | None = None
        for pair in dataset.pairs:
            with TemporaryDirectory(dir=scratch) as folder, ExitStack() as rasters:
                plan = _plan_one(pair, dataset.layout.gsd_m, settings, Path(folder))
                if isinstance(plan, RasterInfo):
                    reporter.note(f"{pair.name} has no valid pixel and is not observed")
                    found.append(look(pair, BlankImage((plan.height, plan.width), len(classes))))
                    reporter.advance(1)
                    continue
                client = client or workers.enter_context(open_client(plan.crew, plan.settings.workers))
                told.say(plan.notes)
                rasters.enter_context(held(plan.work))
                tried += 1
                try:
                    failed = tuple(infer_tiles(plan, client, Silent()).failed)
                except SegmenterError as error:
                    whole_failures += 1
                    if whole_failures == tried == min(_GIVE_UP_AFTER, len(dataset.pairs)):
                        raise
                    failed = tuple((tile.index, str(error)) for tile in plan.job.plan.tiles())
                if failed:
                    reporter.note(f"{pair.name}: {len(failed)} of {plan.tiles} tiles failed and are not observed: {failed[0][1]}")
                found.append(look(pair, ImageRun(plan, stitch(plan, Path(folder), rasters, Silent()), failed)))
            reporter.advance(1)
    return found


def nothing_to_score(dataset: Dataset) -> RasterError:
    """The error for a data set of which no pixel has both a truth and a prediction: figures of nothing are none."""
    came = f"none in the {len(dataset.pairs)} images of {dataset.folder}"
    fix = "Check that the palette is that of the masks (--layout, --palette), and that the images hold data."
    return RasterError("pixels that were observed and whose mask has a value of the palette", came, fix)


class _Once:
    """Says each note of the plans once: most are alike for all images."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._said: set[str] = set()

    def say(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                self._reporter.note(note)


def _for_images(settings: RunSettings, classes: ClassSet, scratch: Path) -> RunSettings:
    """Settings of all runs: the classes as a vocabulary of their own, so that planning reads them as it reads any."""
    vocabulary = scratch / "vocabulary.yaml"
    entries = {
        c.name: {"prompts": list(c.prompts), "colour": "#{:02x}{:02x}{:02x}".format(*c.colour), "threshold": c.threshold} for c in classes
    }
    vocabulary.write_text(yaml.safe_dump(entries, allow_unicode=True), encoding="utf-8")
    workers = settings.workers
    if workers.cluster == "auto":
        # One crew does all images, chosen before the number of their tiles is known.
        workers = workers.model_copy(update={"cluster": "local" if (workers.count or 1) > 1 else "in-process"})
    changes = {
        "aoi": None,
        "datetime": None,
        "overwrite": False,
        "store": None,
        "classes": classes.names,
        "vocabulary": str(vocabulary),
        "workers": workers,
    }
    return settings.model_copy(update=changes)


def _plan_one(pair: Pair, gsd_m: float, settings: RunSettings, folder: Path) -> RunPlan | RasterInfo:
    """The run of one image, or what its header says where no pixel of it is valid.

    Raises
    ------
    RsSegError: whatever keeps it from being run, told of the image and not of its copy.
    """
    image, own_gsd_m = _placed(pair.image, gsd_m, folder)
    changes = {"source": (str(image),), "out": str(folder / "run"), "gsd_m": settings.gsd_m or own_gsd_m}
    with _told_of(pair.image, image):
        try:
            return plan_run(settings.model_copy(update=changes))
        except RasterError:
            info = describe(str(image))
            if _has_data(info, settings):
                raise
            return info


def _has_data(info: RasterInfo, settings: RunSettings) -> bool:
    """Whether planning finds a valid pixel: it looks at a sample."""
    info = info if settings.nodata is None else replace(info, nodata=settings.nodata)
    return bool(read_sample(info, choose_bands(info, settings.bands), settings.radiometry.sample_px).valid.any())


@contextmanager
def _told_of(image: Path, copy: Path) -> Iterator[None]:
    """Errors name the image where they would name its copy, which is gone when they are read, and those of images always."""
    try:
        yield
    except RsSegError as error:
        expected, got, fix = (part.replace(str(copy), str(image)) for part in (error.expected, error.got, error.fix))
        if isinstance(error, RasterError | CatalogError) and str(image) not in f"{expected} {got} {fix}":
            got = f"{got}, {image}"
        raise type(error)(expected, got, fix) from error


def _placed(image: Path, gsd_m: float, folder: Path) -> tuple[Path, float]:
    """An image with a georeference, and its pixel size in metres: itself, or a copy of pixels of `gsd_m` metres."""
    with opened(str(image)) as source:
        if is_georeferenced(source):
            return image.absolute(), describe(str(image)).gsd_m
        crs, x, y = _ANYWHERE
        grid = Grid(crs, Affine(gsd_m, 0.0, x, 0.0, -gsd_m, y), source.height, source.width)
    copy = folder / "image.tif"
    write_placed_copy(image, copy, grid)
    return copy, gsd_m


def on_image(values: NDArray[np.uint8], grid: Grid, image: RasterInfo) -> NDArray[np.uint8]:
    """Values (B, h, w) of a grid at the pixels of an image, (B, H, W): those of the grid's pixel that holds the centre.

    255 where the image reaches over the grid.
    """
    found = np.full((len(values), image.height, image.width), NOT_OBSERVED, np.uint8)
    to_grid = None if image.crs == grid.crs else Transformer.from_crs(image.crs, grid.crs, always_xy=True)
    for top in range(0, image.height, _SLAB_ROWS):
        rows, cols = np.mgrid[top : min(top + _SLAB_ROWS, image.height), : image.width] + 0.5
        x, y = _apply(image.transform, cols, rows)
        if to_grid is not None:
            x, y = to_grid.transform(x, y)
        cols, rows = (np.floor(v) for v in _apply(~grid.transform, x, y))
        inside = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
        slab = found[:, top : top + _SLAB_ROWS]
        slab[:, inside] = values[:, rows[inside].astype(np.intp), cols[inside].astype(np.intp)]
    return found


def _apply(transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f
