"""rs-tiny: SAM 3's text encoder and heads at small width, fed by a small convolutional backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam3.modeling_sam3 import Sam3SinePositionEmbedding

from rs_model.architecture import Architecture, build_head
from rs_model.pieces import Tokenizer
from rs_model.stages import Prompts, Pyramid
from rs_model.weights import WEIGHTS, read_weights_config
from rs_pipeline.errors import SegmenterError

STRIDES = (4, 8, 16, 32)
PAD_TO = 32
"""Heights and widths are padded to a multiple of it."""


class TinySam3(nn.Module):
    """The model. Images come as (N, 3, H, W) float32 in [0, 1], H and W multiples of 32."""

    has_trained_queries = False
    """Do masks of single queries mean anything; weights say so."""
    cuts_masks = True
    tiles_on_cpu: int | None = None

    def __init__(self, architecture: Architecture, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.architecture, self.tokenizer = architecture, tokenizer
        backbone: Any = timm.create_model(architecture.backbone, pretrained=False, features_only=True)
        if tuple(backbone.feature_info.reduction()[-len(STRIDES) :]) != STRIDES:
            raise ValueError(f"expected an encoder whose last features have strides {STRIDES}, got {backbone.feature_info.reduction()}")
        self.backbone: nn.Module = backbone
        channels: list[int] = backbone.feature_info.channels()[-len(STRIDES) :]
        self.project = nn.ModuleList(nn.Conv2d(c, architecture.width, 1) for c in channels)
        self.position = Sam3SinePositionEmbedding(num_position_features=architecture.width // 2, normalize=True)
        self.head = build_head(architecture, tokenizer.size)

    def fit(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Repeats the last row and column up to a multiple of 32; the second result is the size that masks are made at."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % PAD_TO, 0, -height % PAD_TO), mode="replicate")
        return padded.contiguous(memory_format=torch.channels_last), (padded.shape[-2], padded.shape[-1])

    def encode_images(self, images: Tensor, refine: Callable[[Tensor, tuple[int, int]], Tensor] | None = None) -> Pyramid:
        """(N, 3, H, W) in [0, 1] → `Pyramid`. `refine` may change the backbone's tokens at stride 16, (N, n, D) on a grid (h, w)."""
        *finer, coarse, coarsest = self.backbone((images - 0.5) * 4)[-len(STRIDES) :]
        tokens, grid = coarse.flatten(2).transpose(1, 2), (coarse.shape[-2], coarse.shape[-1])
        if refine is not None:
            tokens = refine(tokens, grid)
            coarse = tokens.transpose(1, 2).reshape(coarse.shape)
        *levels, context = (project(f) for project, f in zip(self.project, (*finer, coarse, coarsest), strict=True))
        levels[2] = levels[2] + F.interpolate(context, size=grid, mode="bilinear", align_corners=False)
        position = self.position(levels[2].shape, levels[2].device, levels[2].dtype)
        return Pyramid(cast("tuple[Tensor, Tensor, Tensor]", tuple(levels)), position, tokens)

    def encode_text(self, prompts: Sequence[str]) -> Prompts:
        """Texts → `Prompts`.

        Raises
        ------
        SegmenterError: a text without a letter or digit, or a long one.
        """
        ids, mask = (torch.from_numpy(a).to(self.head.device) for a in self.tokenizer.encode(prompts))
        return self.encode_ids(ids, mask)

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Prompts:
        """Token ids and their mask, (P, T) int64 each → `Prompts`."""
        text = self.head.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
        return Prompts(text.pooler_output, mask.bool())


def load_tiny(folder: Path) -> TinySam3:
    """The model of a weights folder.

    Raises
    ------
    SegmenterError: a damaged folder.
    """
    config = read_weights_config(folder)
    try:
        model = TinySam3(Architecture(**config["architecture"]), Tokenizer.from_json(config["tokenizer"]))
        model.load_state_dict(load_file(folder / WEIGHTS))
        model.has_trained_queries = bool(config.get("trained_queries", False))
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SegmenterError(f"{WEIGHTS} that fits its config.json", f"{folder} ({reason})", "Copy the whole folder again.") from error
    return model.to(memory_format=torch.channels_last)
