"""Two-pass pruning: in its second pass the decoder looks only at the tokens that mattered in the first (METHODS.md section 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

KEYED = ("vision_features", "vision_pos_encoding")
"""Arguments with one vector per token."""


def kept_tokens(importance: Tensor, strength: float) -> Tensor:
    """The most important tokens of each row.

    Parameters
    ----------
    importance: (B, N).
    strength: share of the tokens to drop, 0…1; one token always stays.

    Returns
    -------
    (B, k) int64 indices, ascending; k = round((1 - strength)·N). Of equals the first ones are kept.
    """
    if importance.dim() != 2:
        raise ValueError(f"importance must be (B, N), got {tuple(importance.shape)}")
    count = max(1, round((1 - strength) * importance.shape[1]))
    # a stable sort, because topk breaks ties as it likes
    order = torch.sort(importance, dim=1, descending=True, stable=True).indices
    return order[:, :count].sort(dim=1).values


@contextmanager
def pruned_keys(decoder: nn.Module, kept: Tensor) -> Iterator[None]:
    """Inside, the vision cross-attention of a `Sam3DetrDecoder` has only the kept tokens as keys and values.

    They are gathered, not masked: attention takes less time. Attention that is put out has k columns instead of N.

    Parameters
    ----------
    decoder: its `layers` take vision_features (B, N, C), vision_pos_encoding (B, N, C) and vision_cross_attn_mask
        (B, heads, 1+Q, N) or None by name, as transformers' do.
    kept: (B, k) int64, of `kept_tokens`.
    """

    def gather(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        features, bias = kwargs["vision_features"], kwargs["vision_cross_attn_mask"]
        if len(kept) != len(features):
            raise ValueError(f"kept tokens of {len(kept)} rows for a decoder of {len(features)}")
        fewer = {name: kwargs[name].gather(1, kept[:, :, None].expand(-1, -1, features.shape[2])) for name in KEYED}
        if bias is not None:
            fewer["vision_cross_attn_mask"] = bias.gather(3, kept[:, None, None].expand(*bias.shape[:3], -1))
        return args, kwargs | fewer

    layers = cast("nn.ModuleList", decoder.layers)
    handles = [layer.register_forward_pre_hook(gather, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
