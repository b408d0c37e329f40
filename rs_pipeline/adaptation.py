"""The border between the pipeline and a model that adapts: unlabelled tiles in, an adapter file out.

A provider (`rs_pipeline.segmenter`) that can be adapted has two methods more; the pipeline never imports it by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.adapt_settings import AdaptSettings
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import SegmenterError, UsageError
from rs_pipeline.options import ModelOptions
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import Provider

Box = tuple[float, float, float, float]
"""minx, miny, maxx, maxy."""
LEAST_CLASSES = 2


class UnlabelledTiles(Protocol):
    """Imagery to adapt to."""

    @property
    def digest(self) -> str:
        """Of all that decides what the tiles hold, hexadecimal."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One tile; all are squares of one size.

        Returns
        -------
        (3, S, S) float32 in [0, 1], red green blue, 0 where not valid; (S, S) bool, True where the pixel was seen.
        """
        ...

    def footprint(self, index: int) -> Box:
        """Where a tile lies, in one CRS for all of them: tiles that share ground are not to teach and judge at once."""
        ...


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """What is to be made."""

    classes: ClassSet
    settings: AdaptSettings
    out: Path
    """The adapter file."""
    device: str
    threads: int | None
    resume: bool
    """Go on from the checkpoint beside `out`, if there is one; without it a checkpoint there is an error."""
    guarded: bool = True
    """False writes an adapter that made held-out consistency worse, too: ablations report what it does."""


@runtime_checkable
class Adaptable(Provider, Protocol):
    """A model that can be adapted without labels."""

    def adapt(self, request: AdaptRequest, tiles: UnlabelledTiles, reporter: Reporter) -> dict[str, Any]:
        """Train an adapter and write it. Slow.

        Returns
        -------
        JSON-ready: `consistency_before`, `consistency`, `best_step`, `steps`, `adapter`, `bytes`, `tiles`, `curves`.

        Raises
        ------
        TrainingError: a loss that is not finite, a checkpoint of other settings or tiles, or held-out consistency that got worse;
        no adapter is written then. OutputError: another adapter at `out`; this very one is given back as it is.
        """
        ...

    def consistency(self, options: ModelOptions, classes: ClassSet, tiles: UnlabelledTiles, threads: int | None) -> float:
        """How far the model, with the adapter that `options` name, says the same of two views of the same tiles, 0…1."""
        ...


def check_classes(classes: ClassSet) -> None:
    """Refuse a single class: with nothing beside it, a teacher that is sure of too much is right forever.

    Raises
    ------
    UsageError: fewer than two.
    """
    if len(classes) < LEAST_CLASSES:
        came = ", ".join(classes.names) or "none"
        raise UsageError("at least two classes to adapt to", came, "Add what lies beside it, as --classes road,land.")


def as_adaptable(provider: Provider, model: str) -> Adaptable:
    """The same provider.

    Raises
    ------
    SegmenterError: it cannot be adapted.
    """
    if isinstance(provider, Adaptable):
        return provider
    raise SegmenterError("a model that can be adapted", f"--model {model}, which cannot", "Use rs-tiny or sam3.")
