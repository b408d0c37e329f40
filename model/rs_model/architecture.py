"""Sizes of rs-tiny, and SAM 3's configuration at those sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import Sam3Config, Sam3Model

from rs_model.pieces import END, PAD, SEQUENCE_LENGTH, START


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the model, as config.json holds them."""

    backbone: str = "cs3darknet_focus_s"
    """timm's name; features at strides 4, 8, 16 and 32 are used."""
    width: int = 64
    heads: int = 4
    intermediate: int = 256
    text_layers: int = 2
    encoder_layers: int = 2
    decoder_layers: int = 2
    queries: int = 100


def build_head(architecture: Architecture, vocab_size: int) -> Sam3Model:
    """SAM 3's text encoder and heads, started for this width, without what serves images and boxes.

    SAM 3's own start (deviation 0.02) is meant for 256 channels and more: at 64 a prompt would arrive a thousand times weaker
    than the image, and training would take hundreds of steps to notice that prompts differ.
    """
    head = Sam3Model(head_config(architecture, vocab_size))
    del head.vision_encoder, head.geometry_encoder
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(cast("nn.Embedding", head.text_encoder.get_input_embeddings()).weight)
    return head


def head_config(architecture: Architecture, vocab_size: int) -> Sam3Config:
    """SAM 3's configuration at this width. The image encoder is as small as can be: it is thrown away."""
    a = architecture
    shared = {"hidden_size": a.width, "num_attention_heads": a.heads, "dropout": 0.0}
    block = {**shared, "intermediate_size": a.intermediate}
    vit = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16, "window_size": 2, "pretrain_image_size": 32, "global_attn_indexes": [0],
    }  # fmt: skip
    text = {
        "vocab_size": vocab_size, "hidden_size": a.width, "intermediate_size": a.intermediate, "projection_dim": a.width,
        "num_hidden_layers": a.text_layers, "num_attention_heads": a.heads, "max_position_embeddings": SEQUENCE_LENGTH,
        "hidden_act": "gelu", "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END,
    }  # fmt: skip
    return Sam3Config(
        vision_config={"backbone_config": {"model_type": "sam3_vit_model", **vit}, "fpn_hidden_size": a.width},
        text_config={"model_type": "clip_text_model", **text},
        geometry_encoder_config={**block, "num_layers": 1, "roi_size": 1},
        detr_encoder_config={**block, "num_layers": a.encoder_layers},
        detr_decoder_config={**block, "num_layers": a.decoder_layers, "num_queries": a.queries},
        mask_decoder_config={**shared, "num_upsampling_stages": 2},
    )
