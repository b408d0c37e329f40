"""What the DETR decoder's queries look at, which it does not tell by itself (METHODS.md section 0)."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3DetrDecoder


class DecoderAttentionCollector:
    """A context in which a decoder gives its attention.

    Fused attention gives no weights, in silence; the decoder alone is switched to the plain one, since the image encoder's would fill the
    memory, and is switched back on leaving.
    """

    def __init__(self, decoder: Sam3DetrDecoder) -> None:
        self._decoder = decoder
        self._usual = ""
        self.attention: Tensor | None = None
        """(B, L, heads, 1 + Q, n) what each query looked at in the image when `decode` was last called, rows summing to 1; row 0 is the
        presence token. None before."""

    def __enter__(self) -> Self:
        self._usual = self._decoder.config._attn_implementation  # noqa: SLF001 - transformers has no public getter
        self._decoder.set_attn_implementation("eager")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._decoder.set_attn_implementation(self._usual)

    def decode(self, **inputs: Any) -> Any:
        """What the decoder gives for `inputs`."""
        out = self._decoder(**inputs, output_attentions=True)
        # Three attentions per layer, flat: self, text, vision.
        self.attention = torch.stack(out.attentions[2::3], 1)
        return out
