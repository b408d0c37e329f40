"""Adaptation as a whole: settings of a run in, unlabelled tiles of what it would look at, an adapter file out."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from rs_pipeline.adapt_settings import AdaptSettings
from rs_pipeline.adaptation import AdaptRequest, Box, as_adaptable, check_classes
from rs_pipeline.aoi import read_aoi
from rs_pipeline.catalog import Scene
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import BlankError, NothingThereError, OutputError, UsageError
from rs_pipeline.extent import LON_LAT
from rs_pipeline.imagery import Imagery, find_imagery, select_scenes
from rs_pipeline.locks import hold
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo, check_vocabulary, find_provider
from rs_pipeline.tile_reader import TileReader
from rs_pipeline.vocabulary import load_vocabulary

SUFFIX = ".safetensors"
_LOOKS = 4
"""So many tiles are read for each that is kept, at most: an area that is all blank is known by then."""
_OPEN_SCENES = 4
"""Scenes whose files and blocks are held at once."""


class ArchiveTiles:
    """Unlabelled tiles of scenes, each scene by itself; see `rs_pipeline.adaptation.UnlabelledTiles`.

    Tiles of grids that are smaller than a tile are blank beside them.

    Parameters
    ----------
    imagery: of each scene.
    most: so many tiles at the utmost, spread over all of them by `seed`.
    seen_share: 0…1, of a tile that must hold data.

    Raises
    ------
    BlankError: no tile does.
    """

    def __init__(self, imagery: Sequence[Imagery], *, most: int, seen_share: float, seed: int) -> None:
        self._imagery = tuple(imagery)
        self._side = max(each.plan.tile_px for each in imagery)
        self._readers: OrderedDict[int, TileReader] = OrderedDict()
        candidates = [(k, tile.index) for k, each in enumerate(imagery) for tile in each.plan.tiles()]
        order = np.random.default_rng(seed).permutation(len(candidates))[: _LOOKS * most]
        kept: list[tuple[int, int]] = []
        for place in order.tolist():
            if len(kept) == most:
                break
            if self._read(*candidates[place])[1].mean() >= max(seen_share, np.finfo(float).tiny):
                kept.append(candidates[place])
        if not kept:
            came = f"none of {len(order)} that were looked at"
            raise BlankError(f"tiles of which {seen_share:.0%} hold data", came, "Check --aoi, nodata values and seen_share.")
        self._kept = sorted(kept)
        self.digest = self._digest()

    def _digest(self) -> str:
        facts = [
            [each.plan.digest, [[s.info.key(), s.bands, s.opaque, s.stretch.low, s.stretch.high] for s in each.scenes]]
            for each in self._imagery
        ]
        return hashlib.sha256(json.dumps([facts, self._kept]).encode()).hexdigest()

    @property
    def scenes(self) -> int:
        """How many scenes the tiles are of."""
        return len({k for k, _ in self._kept})

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(3, S, S) in [0, 1] and (S, S)."""
        return self._read(*self._kept[index])

    def footprint(self, index: int) -> Box:
        """In degrees, all within half a turn of the first: beyond ±180 where they lie across the antimeridian."""
        west, south, east, north = self._in_degrees(index)
        turns = 360 * round((self._in_degrees(0)[0] - west) / 360)
        return west + turns, south, east + turns + (360 if east < west else 0), north

    def _in_degrees(self, index: int) -> Box:
        k, tile = self._kept[index]
        grid = self._imagery[k].plan.grid
        there = Transformer.from_crs(grid.crs, LON_LAT, always_xy=True)
        return there.transform_bounds(*grid.crop(self._imagery[k].plan.tile(tile).context).bounds)

    def _read(self, k: int, tile: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        seen, image = self._reader(k).read_tile(self._imagery[k].plan.tile(tile))
        height, width = seen.valid.shape
        beside = (0, self._side - height), (0, self._side - width)
        return np.pad(image, ((0, 0), *beside)), np.pad(seen.valid, beside)

    def _reader(self, k: int) -> TileReader:
        if k not in self._readers:
            self._readers[k] = TileReader(self._imagery[k].plan, self._imagery[k].scenes)
        self._readers.move_to_end(k)
        if len(self._readers) > _OPEN_SCENES:
            self._readers.popitem(last=False)[1].close()
        return self._readers[k]


def read_tiles(
    settings: RunSettings, adapting: AdaptSettings, info: ModelInfo, reporter: Reporter, scenes: Sequence[Scene] | None = None
) -> ArchiveTiles:
    """The tiles that a run of these settings would look at, of each of its scenes.

    Parameters
    ----------
    scenes: None: those that the settings select.

    Raises
    ------
    RsSegError: no scene, or none with data in the area.
    """
    if scenes is None:
        scenes, notes = select_scenes(settings, read_aoi(settings.aoi) if settings.aoi is not None else None)
        for note in notes:
            reporter.note(note)
    imagery = list(_imagery_of(settings, info, scenes, reporter))
    if not imagery:
        came = f"none in {', '.join(scene.id for scene in scenes[:8])}"
        raise BlankError("a scene with valid pixels in the area", came, "Check --aoi and nodata values.")
    return ArchiveTiles(imagery, most=adapting.tiles, seen_share=adapting.seen_share, seed=adapting.seed)


def _imagery_of(settings: RunSettings, info: ModelInfo, scenes: Sequence[Scene], reporter: Reporter) -> Iterator[Imagery]:
    for scene in scenes:
        try:
            found = find_imagery(settings, info, [scene])
        except NothingThereError as error:
            if len(scenes) == 1:
                raise
            reporter.note(f"{scene.id} is left out: {error.got}")
            continue
        for note in found.notes:
            reporter.note(note)
        yield found


def adapt(
    settings: RunSettings,
    adapting: AdaptSettings,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = True,
    scenes: Sequence[Scene] | None = None,
) -> dict[str, Any]:
    """Adapt a model to what a run would look at.

    Parameters
    ----------
    settings: of such a run; what concerns its products is not used.
    out: the adapter file, NAME.safetensors.
    resume: go on from a checkpoint beside it.

    Returns
    -------
    What `rs_pipeline.adaptation.Adaptable.adapt` gives, and what it was made for.

    Raises
    ------
    RsSegError: no adapter was written; a checkpoint may stay, and the same command goes on from it.
    """
    if settings.adapter is not None:
        raise UsageError("a plain model to adapt", f"--adapter {settings.adapter}", "Leave it out: adapters do not add up.")
    if out.suffix != SUFFIX or out.is_dir():
        raise UsageError(f"a file to write the adapter to, NAME{SUFFIX}", f"{out}", f"Give --out FOLDER/NAME{SUFFIX}.")
    provider = as_adaptable(find_provider(settings.model), settings.model)
    info, classes = provider.info(), load_vocabulary(settings.vocabulary).class_set(settings.classes)
    check_vocabulary(info, classes)
    check_classes(classes)
    tiles = read_tiles(settings, adapting, info, reporter, scenes)
    reporter.note(f"{len(tiles)} tiles of {tiles.scenes} scenes")
    out = out.absolute()
    lock = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with hold(lock):
            made = provider.adapt(AdaptRequest(classes, adapting, out, settings.device, None, resume), tiles, reporter)
            lock.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise OutputError("one adaptation at a time", f"another that writes {out}", "Wait for it, or give another --out.") from error
    except OSError as error:
        raise OutputError("a place for the adapter", f"{out} ({error})", "Check permissions and disk space.") from error
    return {"model": info.name, "base_sha256": info.weights_sha256, "classes": list(classes.names), **made}
