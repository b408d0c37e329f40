"""Dense CLIP: one feature per patch, in the space of the texts (METHODS.md section 1, row clip).

CLIP was trained on whole images: its last block's attention gathers everything into the class token, and its patch tokens say
little of their own place. The published remedies leave the weights alone and replace that one attention:

- MaskCLIP (Zhou et al., ECCV 2022): each patch keeps its own value.
- SCLIP (Wang et al., ECCV 2024): patches gather by query-query and key-key likeness.
- ClearCLIP (Lan et al., ECCV 2024): by query-query likeness, without the residual and the MLP, which carry the global noise.
- ProxyCLIP (Lan et al., ECCV 2024): by the likeness of another model's tokens, here the segmenter's.

Shapes: N images, n = h·w patches, C channels of the tower, D of the joint space, d of one head.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from rs_model.refine.clip_fusion import cosines, resample_tokens
from rs_pipeline.errors import SegmenterError

Attention = Literal["maskclip", "sclip", "clearclip"]

OVERHEAD_TEMPLATES = (
    "a satellite image of {}.",
    "an aerial photo of {}.",
    "an aerial image showing {}.",
    "a remote sensing image of {}.",
    "an orthophoto of {}.",
    "a drone photo of {}.",
    "a high resolution satellite photo of {}.",
    "a top-down view of {}.",
    "a bird's-eye view of {}.",
    "{} seen from above.",
)
"""One name through several phrasings makes a steadier text than one; these are what captions of such images say."""
PROXY_SHIFT = 1.2
"""ProxyCLIP's β: affinities below this many times the image's mean are not gathered."""
PROXY_SHARPNESS = 3.0
"""ProxyCLIP's γ, the inverse temperature of the rest."""

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


class DenseClip:
    """A frozen open_clip model. Images come as (N, 3, H, W) float32 in [0, 1]; they are resized to a square, so that one patch
    covers H/h × W/w pixels. Each text is encoded once in the life of the object.

    Parameters
    ----------
    model: an open_clip CLIP with a plain VisionTransformer; `load_dense_clip` sees to that.
    tokenizer: texts → (K, length) ids.
    """

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Tensor], attention: Attention, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.tokenizer, self.attention, self.device = tokenizer, attention, device
        visual = self.model.visual
        self.image_size: tuple[int, int] = visual.image_size
        self.grid: tuple[int, int] = visual.grid_size
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (visual.image_mean, visual.image_std))
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, h, w, D) unit length, in the space of `encode_texts`.

        The class token takes part as a key, as in the published code, and is dropped at the end.
        """
        tokens = self.last_block_input(images)
        block = self._last_block
        query, key, value = _heads(block, tokens)
        if self.attention == "clearclip":
            return self._joint(_out(block, F.scaled_dot_product_attention(query, query, value))[:, 1:])
        if self.attention == "sclip":
            value = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
        tokens = tokens + _out(block, value)
        return self._joint((tokens + block.ls_2(block.mlp(block.ln_2(tokens))))[:, 1:])

    @torch.no_grad()
    def proxy_features(self, images: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """ProxyCLIP: CLIP's values, gathered by the likeness of the segmenter's tokens; no residual, no MLP.

        Parameters
        ----------
        images: (N, 3, H, W).
        tokens: (N, n', C') the segmenter's, row by row over `grid` (height, width), which covers the same ground as the images.

        Returns
        -------
        (N, h, w, D) unit length.
        """
        block = self._last_block
        *_, value = _heads(block, self.last_block_input(images))
        weights = proxy_weights(cosines(resample_tokens(tokens, grid, self.grid)))
        # The same weights for all heads; the class token has no counterpart among the segmenter's tokens.
        return self._joint(_out(block, weights[:, None] @ value[:, :, 1:]))

    @torch.no_grad()
    def encode_texts(self, names: Sequence[str]) -> Tensor:
        """K names, at least one → (K, D) unit length: the mean over `OVERHEAD_TEMPLATES`."""
        for name in names:
            if name not in self._texts:
                ids = self.tokenizer([template.format(name) for template in OVERHEAD_TEMPLATES]).to(self.device)
                self._texts[name] = F.normalize(self.model.encode_text(ids, normalize=True).mean(0), dim=-1)
        return torch.stack([self._texts[name] for name in names])

    def last_block_input(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 1 + n, C): class token and patch tokens after all blocks but the last."""
        visual = self.model.visual
        stages = visual.forward_intermediates(
            self.prepare(images),
            indices=[len(visual.transformer.resblocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat([stages["image_intermediates_prefix"][0], stages["image_intermediates"][0]], 1)

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] → the tower's input: its size, its mean, its standard deviation."""
        resized = F.interpolate(images, size=self.image_size, mode="bicubic", antialias=True, align_corners=False)
        return (resized.clamp(0, 1) - self._mean) / self._std  # bicubic overshoots beside sharp edges

    @property
    def _last_block(self) -> Any:
        return self.model.visual.transformer.resblocks[-1]

    def _joint(self, tokens: Tensor) -> Tensor:
        """(N, n, C) patches of the last block's output → (N, h, w, D) unit length."""
        visual = self.model.visual
        projected: Tensor = visual.ln_post(tokens) @ visual.proj
        return F.normalize(projected, dim=-1).view(len(tokens), *self.grid, -1)


def proxy_weights(affinity: Tensor) -> Tensor:
    """(N, n, n) cosines of proxy tokens → ProxyCLIP's attention, rows that sum to 1.

    `softmax(γ(A - β·mean(A)))` over what is positive there. The mean is the image's own: the published code takes the batch's,
    and an image would depend on its neighbours. A token always gathers itself, or a uniform image would have empty rows.
    """
    logits = PROXY_SHARPNESS * (affinity - PROXY_SHIFT * affinity.mean((1, 2), keepdim=True))
    itself = torch.eye(affinity.shape[-1], dtype=torch.bool, device=affinity.device)
    return logits.masked_fill((logits < 0) & ~itself, float("-inf")).softmax(-1)


def load_dense_clip(
    model: str, pretrained: str | None, image_px: int, attention: Attention, device: torch.device, *, allow_random: bool = False
) -> DenseClip:
    """An open_clip model for dense features. Slow; may download.

    Parameters
    ----------
    model: a name that open_clip knows, or the path of an open_clip model config, a .json file.
    pretrained: a tag of that model, or the path of a checkpoint: safetensors, or a torch file that holds tensors only. A local copy
        of OpenAI's weights needs the model's name with -quickgelu; a tag brings this along.
    image_px: side of the square that images are resized to; position embeddings are resampled to it.
    allow_random: accept None for `pretrained`: random weights, for tests and benchmarks.

    Raises
    ------
    SegmenterError: an unknown model or tag, a tower that is no plain ViT, a size that patches do not fill, weights that cannot be
        had or do not fit.
    """
    name = _model_name(model)
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


def _heads(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of a block's attention, (N, heads, 1 + n, d) each."""
    attention: nn.MultiheadAttention = block.attn
    mixed = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = mixed.view(*tokens.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return query, key, value


def _out(block: Any, attended: Tensor) -> Tensor:
    """(N, heads, n, d) → (N, n, C): what the attention branch adds to the residual."""
    projected: Tensor = block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return projected
