"""SAM 3 at full width: `transformers.Sam3Model` with weights that the user brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Sam3Model
from transformers.utils import logging

from rs_model.stages import Prompts, Pyramid
from rs_pipeline.errors import SegmenterError, UsageError

TEXT_TOKENS = 32
"""Tokens per prompt, padding included: what SAM 3's text encoder was trained on."""


class FullSam3(nn.Module):
    """The model. Images come as (N, 3, S, S) float32 in [0, 1], S the `image_size` of its configuration (1008)."""

    has_trained_queries = True
    cuts_masks = False
    tiles_on_cpu: int | None = 1
    """A tile with eight prompts takes 3 GB, and fills the cores by itself."""

    def __init__(self, sam: Sam3Model, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.head, self.tokenizer = sam, tokenizer
        self.image_size = int(sam.config.image_size)
        self.backbone = sam.vision_encoder.backbone
        self.patch_size = int(self.backbone.config.patch_size)

    def fit(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pads to a square by repeating the last row or column and resizes it to S; masks are made at the square's own size."""
        height, width = images.shape[-2:]
        side = max(height, width)
        square = F.pad(images, (0, side - width, 0, side - height), mode="replicate")
        if side != self.image_size:
            square = F.interpolate(square, (self.image_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
        return square, (side, side)

    def encode_images(self, images: Tensor, refine: Callable[[Tensor, tuple[int, int]], Tensor] | None = None) -> Pyramid:
        """(N, 3, S, S) in [0, 1] → `Pyramid`. `refine` may change the ViT's tokens (N, n, 1024) on a grid (h, w), before the neck."""
        tokens = self.backbone((images - 0.5) / 0.5).last_hidden_state
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        if refine is not None:
            tokens = refine(tokens, grid)
        levels, positions = self.head.vision_encoder.neck(tokens.reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2))
        return Pyramid(levels[:3], positions[2], tokens)

    def encode_text(self, prompts: Sequence[str]) -> Prompts:
        """Texts → `Prompts` (P, 32, 256).

        Raises
        ------
        UsageError: a text of more tokens than the model reads.
        """
        for prompt in prompts:
            tokens = len(self.tokenizer(prompt).input_ids)
            if tokens > TEXT_TOKENS:
                raise UsageError(f"a prompt of at most {TEXT_TOKENS} tokens", f"{tokens} in {prompt!r}", "Shorten the prompt.")
        text = self.tokenizer(list(prompts), padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").to(self.head.device)
        encoded = self.head.get_text_features(input_ids=text.input_ids, attention_mask=text.attention_mask, return_dict=True)
        return Prompts(encoded.pooler_output, text.attention_mask.bool())


def load_sam3(folder: Path) -> FullSam3:
    """The model of a folder in transformers' format, in float32 on the CPU. Slow: 3.4 GB.

    Raises
    ------
    SegmenterError: files that are damaged, of another model, or do not hold all of its weights.
    """
    fix = "Copy the whole folder again, or leave --model at sam3 to fetch it."
    quiet: Any = logging  # it ships no types
    quiet.disable_progress_bar()
    try:
        loaded: Any = Sam3Model.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SegmenterError("SAM 3 in transformers' format, with its tokenizer", f"{folder} ({reason})", fix) from error
    sam, facts = loaded
    if facts["missing_keys"] or facts["mismatched_keys"]:
        lacking = sorted(facts["missing_keys"]) or sorted(key for key, *_ in facts["mismatched_keys"])
        raise SegmenterError("all weights of SAM 3", f"{folder} without {lacking[0]} and {len(lacking) - 1} more", fix)
    return FullSam3(sam, tokenizer)
