"""SAM 3 at full width with random weights: the cost of the real model, for machines without its weights."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from rs_model.sam3 import TEXT_TOKENS, FullSam3
from transformers import Sam3Config, Sam3Model

VOCABULARY = 49408


class HashingTokenizer:
    """Stands in for CLIP's: a token per word, by its checksum. As many tokens, as much work; no meaning is needed."""

    def __call__(self, text: str | Sequence[str], **_: Any) -> Any:
        """Ids and mask of one text or several, padded to SAM 3's length."""
        if isinstance(text, str):
            return SimpleNamespace(input_ids=self._ids(text))
        ids = torch.tensor([(self._ids(t) + [VOCABULARY - 1] * TEXT_TOKENS)[:TEXT_TOKENS] for t in text])
        mask = torch.tensor([[int(i < len(self._ids(t))) for i in range(TEXT_TOKENS)] for t in text])
        out = SimpleNamespace(input_ids=ids, attention_mask=mask)
        out.to = lambda device: SimpleNamespace(input_ids=ids.to(device), attention_mask=mask.to(device))
        return out

    def _ids(self, text: str) -> list[int]:
        return [VOCABULARY - 2, *(zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in text.split()), VOCABULARY - 1]


def random_sam3(device: torch.device, layers: int | None = None) -> FullSam3:
    """840 million random weights, always the same; `layers` of the image encoder's 32, the last one global as in the whole."""
    torch.manual_seed(0)
    config = Sam3Config()
    if layers is not None:
        vit = config.vision_config.backbone_config
        vit.num_hidden_layers, vit.global_attn_indexes = layers, [i for i in range(layers) if (i + 1) % 8 == 0 or i == layers - 1]
    with device:  # made where they are used: half a minute of CPU otherwise
        sam = Sam3Model(config)
    return FullSam3(sam, HashingTokenizer()).to(device).eval()  # type: ignore[arg-type]
