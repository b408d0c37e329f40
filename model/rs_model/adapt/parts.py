"""Which parts of a model an adaptation trains (METHODS.md section 3): low-rank additions to queries and values, and the neck."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from rs_model.sam3 import FullSam3
from rs_model.tiny import TinySam3

Model = TinySam3 | FullSam3


def low_rank_layers(model: Model) -> dict[str, nn.Linear]:
    """Query and value projections by their names in the model.

    Of SAM 3, those of the ViT. rs-tiny's image encoder has no attention: of its DETR encoder, where image tokens first attend to anything.
    """
    if isinstance(model, FullSam3):
        root, prefix, part = model.backbone, "backbone", ".attention."
    else:
        root, prefix, part = model.head.detr_encoder, "head.detr_encoder", "_attn."
    return {
        f"{prefix}.{name}": module
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear) and part in name and name.endswith((".q_proj", ".v_proj"))
    }


def neck_parameters(model: Model) -> dict[str, nn.Parameter]:
    """What lies between image encoder and heads, by name in the model; not SAM 3's level that nothing reads (METHODS.md, trap 10)."""
    if isinstance(model, FullSam3):
        prefix, neck = "head.vision_encoder.neck", model.head.vision_encoder.neck
        named = {name: p for name, p in neck.named_parameters() if not name.startswith("fpn_layers.3.")}
    else:
        prefix, named = "project", dict(model.project.named_parameters())
    return {f"{prefix}.{name}": parameter for name, parameter in named.items()}


def width_of(model: Model) -> int:
    """Channels of the heads' tokens."""
    return int(cast("Any", model.head.detr_encoder).hidden_size)
