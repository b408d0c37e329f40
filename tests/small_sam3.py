"""A SAM 3 of a few thousand random weights, with a tokenizer of single letters, in transformers' format."""

import string

import torch
from rs_model.sam3 import FullSam3
from transformers import CLIPTokenizer, Sam3Config, Sam3Model

SIDE = 56
LETTERS = [*string.ascii_lowercase, *string.digits]


def small_config(side=SIDE):
    shared = {"hidden_size": 32, "num_attention_heads": 2, "dropout": 0.0}
    block = {**shared, "intermediate_size": 48}
    vit = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": side,
        "patch_size": 14, "window_size": 2, "pretrain_image_size": 28, "global_attn_indexes": [1],
    }  # fmt: skip
    text = {
        "vocab_size": 2 * len(LETTERS) + 2, "hidden_size": 32, "intermediate_size": 48, "projection_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "hidden_act": "gelu",
        "bos_token_id": 2 * len(LETTERS), "eos_token_id": 2 * len(LETTERS) + 1, "pad_token_id": 2 * len(LETTERS) + 1,
    }  # fmt: skip
    return Sam3Config(
        vision_config={"backbone_config": {"model_type": "sam3_vit_model", **vit}, "fpn_hidden_size": 32},
        text_config={"model_type": "clip_text_model", **text},
        geometry_encoder_config={**block, "num_layers": 1, "roi_size": 2},
        detr_encoder_config={**block, "num_layers": 2},
        detr_decoder_config={**block, "num_layers": 3, "num_queries": 12},
        mask_decoder_config={**shared, "num_upsampling_stages": 3},
    )


def small_sam(side=SIDE, seed=0):
    """Random weights, larger than SAM 3's own start, so that prompts and images matter."""
    torch.manual_seed(seed)
    sam = Sam3Model(small_config(side)).eval()
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_uniform_(parameter.flatten(1)) if parameter.dim() > 2 else torch.nn.init.normal_(parameter, std=0.2)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return sam


def letter_tokenizer():
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def small_full(side=SIDE, seed=0):
    full = FullSam3(small_sam(side, seed), letter_tokenizer()).eval()
    full.tiles_on_cpu = None  # small enough for several
    return full


def write_folder(folder, side=SIDE):
    small_sam(side).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return folder
