"""The models' places in the pipeline's list. Imports no torch until a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rs_model.hub import fetch_sam3, read_sam3_config, sam3_digest
from rs_model.weights import MODEL_TYPE, SHIPPED, read_weights_config, weights_digest
from rs_pipeline.adaptation import AdaptRequest, UnlabelledTiles
from rs_pipeline.classes import ClassSet
from rs_pipeline.options import ModelOptions, Step
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo, Provider, Segmenter

_SAM3_BYTES_PER_PX = 700
"""On a CPU a tile with eight prompts takes 2800 bytes per pixel (a peak of 7.1 GB, less the weights and the libraries), but the four
tiles of a batch go one by one."""


@dataclass(frozen=True)
class TinyProvider:
    """rs-tiny: a weights folder, described at once and loaded when asked."""

    folder: Path
    description = "SAM 3's text encoder and heads at small width: five land-cover classes at 0.25…2 m, CPU, no download"

    def info(self) -> ModelInfo:
        """Facts about the model.

        Raises
        ------
        SegmenterError: the folder is missing or damaged.
        """
        config = read_weights_config(self.folder)
        finest, coarsest = config["gsd_range_m"]
        return ModelInfo(
            name=MODEL_TYPE,
            weights_sha256=weights_digest(self.folder),
            gsd_m=float(config["gsd_m"]),
            gsd_range_m=(float(finest), float(coarsest)),
            tile_px=int(config["tile_px"]),
            vocabulary=None,
            trained_on=tuple(config["training"]["classes"]),
            trained_words=tuple(config["words"]),
            refinements=get_args(Step),
            fuller_model="SAM 3 (--model sam3)",
            classes_apart=True,
        )

    def load(self, options: ModelOptions, threads: int | None) -> Segmenter:
        """The model, ready to run; see `Provider.load`."""
        from rs_model.loading import load_segmenter
        from rs_model.tiny import load_tiny

        return load_segmenter(load_tiny, self.folder, self.info(), options, threads)

    def adapt(self, request: AdaptRequest, tiles: UnlabelledTiles, reporter: Reporter) -> dict[str, Any]:
        """Train an adapter; see `rs_pipeline.adaptation.Adaptable`."""
        from rs_model.adapt.command import adapt
        from rs_model.tiny import load_tiny

        return adapt(load_tiny, self.folder, self.info(), request, tiles, reporter)

    def consistency(self, options: ModelOptions, classes: ClassSet, tiles: UnlabelledTiles, threads: int | None) -> float:
        """How stable its maps are; see `rs_pipeline.adaptation.Adaptable`."""
        from rs_model.adapt.command import consistency
        from rs_model.tiny import load_tiny

        return consistency(load_tiny, self.folder, self.info(), options, classes, tiles, threads)


@dataclass(frozen=True)
class Sam3Provider:
    """SAM 3: a folder of the user's, or the hub's weights, fetched when they are first needed."""

    folder: Path | None
    description = "SAM 3 (facebook/sam3): any text, full width, GPU advised; weights need a login, or a folder of your own"

    def info(self) -> ModelInfo:
        """Facts about the model.

        Raises
        ------
        SegmenterError: weights that cannot be fetched, or a folder that is not SAM 3's.
        """
        folder = self._weights()
        config = read_sam3_config(folder)
        return ModelInfo(
            name="sam3",
            weights_sha256=sam3_digest(folder),
            gsd_m=None,
            gsd_range_m=None,
            tile_px=config["vision_config"]["backbone_config"].get("image_size", 1008),
            vocabulary=None,
            weights_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            bytes_per_px=_SAM3_BYTES_PER_PX,
            refinements=get_args(Step),
            classes_apart=True,
        )

    def load(self, options: ModelOptions, threads: int | None) -> Segmenter:
        """The model, ready to run; see `Provider.load`."""
        from rs_model.loading import load_segmenter
        from rs_model.sam3 import load_sam3

        return load_segmenter(load_sam3, self._weights(), self.info(), options, threads)

    def adapt(self, request: AdaptRequest, tiles: UnlabelledTiles, reporter: Reporter) -> dict[str, Any]:
        """Train an adapter; see `rs_pipeline.adaptation.Adaptable`."""
        from rs_model.adapt.command import adapt
        from rs_model.sam3 import load_sam3

        return adapt(load_sam3, self._weights(), self.info(), request, tiles, reporter)

    def consistency(self, options: ModelOptions, classes: ClassSet, tiles: UnlabelledTiles, threads: int | None) -> float:
        """How stable its maps are; see `rs_pipeline.adaptation.Adaptable`."""
        from rs_model.adapt.command import consistency
        from rs_model.sam3 import load_sam3

        return consistency(load_sam3, self._weights(), self.info(), options, classes, tiles, threads)

    def _weights(self) -> Path:
        return fetch_sam3() if self.folder is None else self.folder


def tiny_provider(folder: Path | None) -> Provider:
    """Entry point: the weights in `folder`, or the ones the package ships."""
    return TinyProvider(SHIPPED if folder is None else folder)


def sam3_provider(folder: Path | None) -> Provider:
    """Entry point: the weights in `folder`, or the hub's."""
    return Sam3Provider(folder)
