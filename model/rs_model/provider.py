"""rs-tiny's place in the pipeline's list of models. Imports no torch until a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rs_model.weights import MODEL_TYPE, SHIPPED, read_weights_config, weights_digest
from rs_pipeline.segmenter import ModelInfo, Provider, Segmenter


@dataclass(frozen=True)
class TinyProvider:
    """A weights folder, described at once and loaded when asked."""

    folder: Path

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
            description="SAM 3's text encoder and heads at small width: five land-cover classes, CPU, no download",
            weights_sha256=weights_digest(self.folder),
            gsd_m=float(config["gsd_m"]),
            gsd_range_m=(float(finest), float(coarsest)),
            tile_px=int(config["tile_px"]),
            vocabulary=tuple(config["vocabulary"]),
            fuller_model="SAM 3 (facebook/sam3)",
        )

    def load(self, device: str, threads: int | None) -> Segmenter:
        """The model, ready to run; see `Provider.load`."""
        from rs_model.segmenter import load_segmenter

        return load_segmenter(self.folder, device, threads)


def tiny_provider(folder: Path | None) -> Provider:
    """Entry point: the weights in `folder`, or the ones the package ships."""
    return TinyProvider(SHIPPED if folder is None else folder)
