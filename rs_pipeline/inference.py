"""What a worker does with a batch of tiles: read, stretch, segment, keep. Nothing large is returned."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED, SCORE_MAX, ClassSet
from rs_pipeline.errors import RasterError, SegmenterError, StoreError, UsageError
from rs_pipeline.fingerprints import has_changed
from rs_pipeline.job import Job, JobPath, load_job
from rs_pipeline.options import ModelOptions
from rs_pipeline.segmenter import Segmenter, find_provider
from rs_pipeline.store import TileStore
from rs_pipeline.tile_reader import SeenTile, TileReader
from rs_pipeline.tiles import Tile

# OpenMP reads this when the model's library is loaded. Threads that spin long while they wait for each other take the cores from the
# reader, and made tiles up to six times slower where other processes wanted them too; threads that never spin lost a sixth where not.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
_LOG = logging.getLogger(__name__)
_ASK_SERVERS_EVERY_S = 300.0
# A worker has one set of open files and one model, each for one thread: a worker of several threads reads ahead and writes behind.
_FILES = ThreadPoolExecutor(1, "rs-seg-files")
_MODEL = ThreadPoolExecutor(1, "rs-seg-model")
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch."""

    done: tuple[int, ...]
    """Tiles now in the store."""
    empty: tuple[int, ...]
    """Tiles without data, marked in the store."""
    failed: tuple[tuple[int, str], ...]
    """Tiles that raised, with the error in one line."""


class _Batch(NamedTuple):
    """Tiles, read."""

    seen: list[SeenTile]
    """Those that hold data."""
    images: list[NDArray[np.float32]]
    """Of each of them (3, H, W), as the model takes it."""
    empty: list[Tile]


class OpenJob(TileReader):
    """A job with its files open: one per worker, for one thread at a time."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.plan, job.scenes)
        self.job = job
        self.store = TileStore(job.store)


@lru_cache(maxsize=1)
def open_job(path: JobPath) -> OpenJob:
    """The job saved at `path`, opened once per worker."""
    return OpenJob(load_job(path))


@lru_cache(maxsize=1)
def load_segmenter(model: str, weights_sha256: str, options: ModelOptions, threads: int | None, code_version: int = 1) -> Segmenter:
    """The model, loaded once per worker.

    Raises
    ------
    SegmenterError: it does not load, or has other weights or other code here than where the run was planned.
    """
    provider = find_provider(model)
    here, fix = provider.info(), "Install one version on all workers."
    if here.weights_sha256 != weights_sha256:
        expected = f"{model} with weights {weights_sha256[:12]}…, as the run was planned with"
        raise SegmenterError(expected, f"{here.weights_sha256[:12]}… on a worker", fix)
    if here.code_version != code_version:
        expected = f"{model} of code version {code_version}, as the run was planned with"
        raise SegmenterError(expected, f"{here.code_version} on a worker", fix)
    return provider.load(options, threads)


def infer_batch(job_path: JobPath, indices: Sequence[int], retries: int) -> BatchResult:
    """Compute some tiles of a job and put them into its store.

    A tile that raises does not take its batch with it: the batch is tried again tile by tile, `retries` times.

    Raises
    ------
    RasterError: a source changed since the run was planned.
    SegmenterError: the model cannot be loaded.
    UsageError: it cannot be asked what it was asked.
    StoreError: the store cannot be written.
    """
    opened = _FILES.submit(_open_unchanged, job_path).result()
    job = opened.job
    with _LOADING:
        segmenter = load_segmenter(job.model, job.weights_sha256, job.options, job.threads, job.code_version)
    try:
        return _infer(opened, segmenter, indices)
    except (StoreError, UsageError):  # neither is this tile's
        raise
    except Exception as error:  # noqa: BLE001 - a model may raise anything; which tile it was shows when they are tried alone
        failure = _one_line(error)
    _LOG.warning("tiles %s: %s", ", ".join(map(str, indices)), failure)
    if len(indices) == 1 and retries == 0:
        return BatchResult((), (), ((indices[0], failure),))
    return joined([_infer_alone(opened, segmenter, index, max(retries, 1)) for index in indices])


def _open_unchanged(path: JobPath) -> OpenJob:
    opened = open_job(path)
    check_unchanged(opened.job, max_age_s=_ASK_SERVERS_EVERY_S)
    return opened


def check_unchanged(job: Job, *, max_age_s: float = 0.0) -> None:
    """Refuse to mix two versions of a scene; what a server said of one up to `max_age_s` ago will do.

    Raises
    ------
    RasterError: names the file.
    """
    for scene in job.scenes:
        if has_changed(scene.info.href, scene.info.fingerprint, max_age_s=max_age_s):
            raise RasterError("sources that stay as they are during a run", f"{scene.info.href}, which changed", "Run again.")


def _infer_alone(opened: OpenJob, segmenter: Segmenter, index: int, attempts: int) -> BatchResult:
    failure = ""
    for _ in range(attempts):
        try:
            return _infer(opened, segmenter, [index])
        except (StoreError, UsageError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this tile's: recorded, and the run goes on
            failure = _one_line(error)
            _LOG.warning("tile %d: %s", index, failure)
    return BatchResult((), (), ((index, failure),))


def _infer(opened: OpenJob, segmenter: Segmenter, indices: Sequence[int]) -> BatchResult:
    batch = _FILES.submit(_read_batch, opened, indices).result()
    if batch.seen:
        for seen, scores in zip(batch.seen, _segment(segmenter, batch, opened.job.classes), strict=True):
            opened.store.write(seen.tile, pack(seen, scores))
    for tile in batch.empty:
        opened.store.write_empty(tile)
    return BatchResult(tuple(s.tile.index for s in batch.seen), tuple(t.index for t in batch.empty), ())


def _segment(segmenter: Segmenter, batch: _Batch, classes: ClassSet) -> NDArray[np.float32]:
    """Scores (N, K, H, W); empties the batch of its pixels, which nobody needs any more while the scores are kept."""
    images = np.stack(batch.images) if len(batch.images) > 1 else batch.images[0][None]
    batch.images.clear()
    scores = _MODEL.submit(segmenter.segment, images, np.stack([seen.valid for seen in batch.seen]), classes).result()
    _check_scores(scores, (len(images), len(classes), *images.shape[2:]))
    return scores


def _read_batch(opened: OpenJob, indices: Sequence[int]) -> _Batch:
    batch = _Batch([], [], [])
    for index in indices:
        seen, image = opened.read_tile(opened.job.plan.tile(index))
        if _has_data(seen):
            batch.seen.append(seen)
            batch.images.append(image)
        else:
            batch.empty.append(seen.tile)
    # Again: of a scene that is exchanged and put back, no tile of the wrong one may stay.
    check_unchanged(opened.job, max_age_s=_ASK_SERVERS_EVERY_S)
    return batch


def pack(seen: SeenTile, scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scores (K, H, W) of a tile's context to what the store keeps: (K + 1, h, w) uint8 of its halo.

    0…254 for probabilities 0…1, 255 where nothing was seen; the last band is the scene each pixel comes from.
    """
    rows, cols = seen.tile.halo.slices(seen.tile.context)
    valid = seen.valid[rows, cols]
    kept = np.empty((len(scores) + 1, *valid.shape), np.uint8)
    kept[-1] = seen.sources[rows, cols]
    # Band by band: what is in between stays in the processor's cache.
    for target, band in zip(kept, scores[:, rows, cols], strict=False):
        scaled = band * np.float32(SCORE_MAX)
        target[...] = np.rint(scaled, out=scaled)
    if not valid.all():
        kept[:-1, ~valid] = NOT_OBSERVED
    return kept


def _has_data(seen: SeenTile) -> bool:
    rows, cols = seen.tile.core.slices(seen.tile.context)
    return bool(seen.valid[rows, cols].any())


def _check_scores(scores: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if scores.shape != shape:
        raise SegmenterError(f"scores of shape {shape}", f"{scores.shape}", "The model breaks the Segmenter protocol.")
    low, high = scores.min(), scores.max()
    if not (low >= 0.0 and high <= 1.0):  # nor is NaN, which both of them would be
        raise SegmenterError("finite scores in [0, 1]", f"{low}…{high}", "The model breaks the Segmenter protocol.")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def joined(results: Sequence[BatchResult]) -> BatchResult:
    """What became of several batches, as one."""
    return BatchResult(
        tuple(i for r in results for i in r.done), tuple(i for r in results for i in r.empty), tuple(f for r in results for f in r.failed)
    )
