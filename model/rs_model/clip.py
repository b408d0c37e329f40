"""Which CLIP constrains a run: the small one that ships with the product, one that `rs-seg train` made, or any of open_clip's."""

from __future__ import annotations

import json
import pickle
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from rs_model.clip_captions import encode
from rs_model.clip_dense import Attention, DenseClip
from rs_model.weights import CONFIG, WEIGHTS
from rs_pipeline.errors import SegmenterError

OWN = "rs-clip"
"""Name of the small model."""
SHIPPED_CLIP = Path(__file__).parent / "weights" / OWN
"""Weights that the package carries."""
USUAL_MODEL = "ViT-B-16"
"""Of weights that are named without a model."""

NOT_PLAIN = (
    *("timm_model_name", "attentional_pool", "block_type", "qk_norm", "scaled_cosine_attn"),
    *("scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
)
"""Keys of a model config's vision_cfg which, when set, make a tower whose last block cannot be replaced as it is here."""
LOAD_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError, StopIteration),
    *(SafetensorError, pickle.UnpicklingError),
)
"""What open_clip lets through for a config or checkpoint that is damaged or belongs to another model."""


def load_dense_clip(
    model: str, pretrained: str | None, image_px: int, attention: Attention, device: torch.device, *, allow_random: bool = False
) -> DenseClip:
    """A CLIP for dense features. Slow; may download, but not `rs-clip`.

    Parameters
    ----------
    model: `rs-clip`, a name that open_clip knows, or the path of an open_clip model config, a .json file.
    pretrained: a tag of that model, or the path of a checkpoint: safetensors, or a torch file that holds tensors only. A local copy
        of OpenAI's weights needs the model's name with -quickgelu; a tag brings this along. With `rs-clip`, None is the weights that
        the package ships and a model.safetensors that `rs-seg train` wrote is taken; any other weights are those of ViT-B-16.
    image_px: side of the square that images are resized to; position embeddings are resampled to it.
    allow_random: accept None for `pretrained`: random weights, for tests and benchmarks.

    Raises
    ------
    SegmenterError: an unknown model or tag, a tower that is no plain ViT, a size that patches do not fill, weights that cannot be
        had or do not fit.
    """
    own = _own_folder(model, pretrained)
    if own is not None:
        return load_own_clip(own, image_px, attention, device)
    name = _model_name(USUAL_MODEL if model == OWN else model)
    _check_tower(name, image_px)
    tag = _check_weights(name, pretrained, allow_random=allow_random)
    try:
        network = open_clip.create_model(
            name,
            pretrained=pretrained,
            force_image_size=image_px,
            force_quick_gelu=bool(tag.get("quick_gelu")),
            pretrained_text=False,  # the text tower's weights come with the checkpoint or not at all
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(name)
    except LOAD_ERRORS as error:
        raise SegmenterError(
            f"weights that fit the CLIP model {name}",
            f"{pretrained} ({_first_line(error)})",
            "Bring the checkpoint of this model again, whole, or set the model it belongs to with --set refine.clip.model=NAME.",
        ) from error
    return DenseClip(network, tokenizer, attention, device)


def load_own_clip(folder: Path, image_px: int, attention: Attention, device: torch.device) -> DenseClip:
    """The small CLIP of a weights folder; no network.

    Raises
    ------
    SegmenterError: a damaged folder, or a size that patches do not fill.
    """
    config = read_own_config(folder)
    try:
        _check_size(image_px, config["model_cfg"]["vision_cfg"]["patch_size"])
        network = build_clip(config["model_cfg"], image_px)
        open_clip.set_model_preprocess_cfg(network, config["preprocess_cfg"])
        state = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        open_clip.model.resize_pos_embed(state, network)
        network.load_state_dict(state)
        tokenizer = Tokenizer.from_str(config["tokenizer"])
    except SegmenterError:
        raise
    except Exception as error:  # a damaged tokenizer raises no narrower one
        raise SegmenterError(
            f"{WEIGHTS} that fits its {CONFIG}", f"{folder} ({_first_line(error)})", "Copy the whole folder again."
        ) from error
    return DenseClip(network, partial(encode, tokenizer), attention, device)


def build_clip(model_cfg: dict[str, Any], image_px: int) -> Any:
    """An open_clip CLIP with random weights, for images of this size."""
    return open_clip.CLIP(**model_cfg | {"vision_cfg": model_cfg["vision_cfg"] | {"image_size": image_px}})


def read_own_config(folder: Path) -> dict[str, Any]:
    """config.json of a weights folder of rs-clip.

    Raises
    ------
    SegmenterError: no such file, one that is not JSON, or of another model.
    """
    fix = f"Take a folder that `rs-seg train` wrote by configs/train/{OWN}.yaml."
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise SegmenterError(f"a {CONFIG} in the weights folder", f"{folder} ({_first_line(error)})", fix) from error
    if not isinstance(config, dict) or config.get("model_type") != OWN:
        raise SegmenterError(f"{CONFIG} of an {OWN} model", str(folder / CONFIG), fix)
    return config


def _own_folder(model: str, pretrained: str | None) -> Path | None:
    """Where the small CLIP's weights are, if these settings mean it."""
    if model != OWN:
        return None
    if pretrained is None:
        return SHIPPED_CLIP
    path = Path(pretrained)
    ours = path.name == WEIGHTS and (path.parent / CONFIG).is_file()
    return path.parent if ours else None


def _model_name(model: str) -> str:
    """The name under which open_clip knows the model; that of a config file is its stem, which from then on hides a shipped one."""
    if model.endswith(".json"):
        path = Path(model)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SegmenterError(
                "an open_clip model config", f"{model} ({_first_line(error)})", "Check the path and the file's content."
            ) from error
        # open_clip passes over a file without these keys in silence.
        if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("vision_cfg", "text_cfg")):
            raise SegmenterError(
                "an open_clip model config with embed_dim, vision_cfg and text_cfg",
                model,
                "Of a hub's open_clip_config.json, bring what stands under model_cfg.",
            )
        open_clip.add_model_config(path)
        model = path.stem
    name = model.replace("/", "-")
    known = open_clip.list_models()
    if name not in known:
        by_lower = {k.lower(): k for k in known}
        near = [by_lower[k] for k in get_close_matches(name.lower(), by_lower, 4)]
        advice = f"Near: {', '.join(near)}" if near else "Try ViT-B-16"
        raise SegmenterError("a CLIP model that open_clip knows", repr(model), f"{advice}; or give the path of a model config .json.")
    return name


def _check_tower(name: str, image_px: int) -> None:
    vision: dict[str, Any] = open_clip.get_model_config(name)["vision_cfg"]
    defaults = open_clip.CLIPVisionCfg()
    layers, patch = vision.get("layers", defaults.layers), vision.get("patch_size", defaults.patch_size)
    special = [key for key in NOT_PLAIN if vision.get(key)]
    if special or not isinstance(layers, int) or not isinstance(patch, int) or layers < 2:
        reason = f"it sets {special[0]}" if special else f"layers {layers}, patches {patch}"
        raise SegmenterError(
            "a CLIP model whose image tower is a plain ViT of two blocks or more",
            f"{name} ({reason})",
            "Take one such as ViT-B-16 or ViT-L-14 with --set refine.clip.model=NAME.",
        )
    _check_size(image_px, patch)


def _check_size(image_px: int, patch: int) -> None:
    if image_px % patch:
        nearest = max(1, round(image_px / patch)) * patch
        raise SegmenterError(
            f"an image size that patches of {patch} px fill", f"{image_px} px", f"Use --set refine.clip.image_px={nearest}."
        )


def _check_weights(name: str, pretrained: str | None, *, allow_random: bool) -> dict[str, Any]:
    """What open_clip notes of a tag, once its file is here; empty for a local checkpoint and for random weights."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    offered = ", ".join(tags) or "none"
    local = "bring a local checkpoint with --set refine.clip.pretrained=PATH"
    if pretrained is None:
        if not allow_random:
            raise SegmenterError(f"weights for {name}", "none", f"Set a tag ({offered}), or {local}.")
        return {}
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        try:
            open_clip.download_pretrained(tag)
        except (OSError, RuntimeError, ValueError) as error:
            raise SegmenterError(
                f"the weights {pretrained} of {name} from the network",
                _first_line(error),
                f"Offline, {local}.",
            ) from error
    elif not Path(pretrained).is_file():
        raise SegmenterError(f"a tag of {name} ({offered}) or the path of a checkpoint", repr(pretrained), f"Set a tag, or {local}.")
    return tag


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
