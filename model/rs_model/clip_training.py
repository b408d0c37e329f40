"""Training of rs-clip, the small CLIP: recipe and data in, a weights folder out. A killed run goes on from its last checkpoint.

Images and texts meet as in CLIP (Radford et al., ICML 2021), with two differences. A crop is captioned whole and by windows, whose
feature is the mean of their patches, as in RegionCLIP (Zhong et al., CVPR 2022): dense use needs patches that speak for their own
place. And captions are made from labels, so many mean the same: those are not negatives of each other (METHODS.md section 4, TMC).
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rs_model.checkpoint import State, read_state, write_state
from rs_model.clip import OWN, build_clip
from rs_model.clip_captions import CONTEXT, END, PAD, caption, class_shares, encode, meanings, told_classes, train_tokenizer
from rs_model.clip_dense import dense_tokens, joint, last_block_input
from rs_model.clip_recipe import ClipRecipe, read_clip_recipe
from rs_model.labels import CLASSES
from rs_model.memory import keep_freed_memory
from rs_model.mixture import Batch, Mixture, read_mixture
from rs_model.recipe import Recipe
from rs_model.train import one_cycle, report
from rs_model.weights import write_weights
from rs_pipeline.errors import TrainingError

MEAN, STD = 0.5, 0.25
"""Of images that were stretched: about what each band of every scene has."""


def train(config: Path, *, data: Path, out: Path, resume: bool, steps: int | None = None) -> Path:
    """Trains and exports.

    Parameters
    ----------
    config: recipe, see `configs/train/rs-clip.yaml`.
    data: folder of the data sets.
    out: folder of the run; holds `checkpoint.pt` and, in the end, `weights/`.
    resume: go on from the checkpoint in `out`, if there is one; without it a checkpoint there is an error.
    steps: steps in all, in place of the recipe's.

    Returns
    -------
    The weights folder: its model.safetensors is for `refine.clip.pretrained`.

    Raises
    ------
    ConfigError: the recipe. TrainingError: the data, or a checkpoint that is damaged or of another recipe.
    """
    recipe = read_clip_recipe(config, steps)
    out.mkdir(parents=True, exist_ok=True)
    state = read_state(out)
    if state is not None and not resume:
        raise TrainingError("a folder without a checkpoint", f"{out}, which has one", "Give --resume, or another --out.")
    # Of a recipe, a mixture reads what says how crops are drawn: both models' recipes have those keys.
    run = ClipRun(recipe, read_mixture(data, cast("Recipe", recipe)), state)
    run.to_the_end(out)
    folder = out / "weights"
    export(folder, run)
    return folder


class ClipRun:
    """Model, optimiser and moving average of one training run."""

    def __init__(self, recipe: ClipRecipe, mixture: Mixture, state: State | None) -> None:
        torch.set_num_threads(recipe.threads)
        keep_freed_memory()
        torch.manual_seed(recipe.seed)
        self.recipe, self.mixture, self.data_sha256 = recipe, mixture, mixture.digest()
        self.tokenizer = train_tokenizer()
        self.model_cfg = model_config(recipe, self.tokenizer.get_vocab_size())
        self.model = build_clip(self.model_cfg, recipe.crop_px)
        self.contrast = open_clip.ClipLoss()
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
        )
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.step = 0
        if state is not None:
            self._restore(state)

    def _restore(self, state: State) -> None:
        if (state.recipe, state.data_sha256) != (self.recipe.model_dump(mode="json"), self.data_sha256):
            raise TrainingError("a checkpoint of this recipe, number of steps and data", "one of another", "Train into another --out.")
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.average, self.step = dict(state.average), state.step

    def to_the_end(self, out: Path) -> None:
        """The steps that remain, with a checkpoint every so many and after the last."""
        shown = None
        while self.step < self.recipe.steps:
            loss = self.advance(self.mixture.batch(0, self.step))
            shown = loss if shown is None else 0.95 * shown + 0.05 * loss
            if self.step % 10 == 0 or self.step == self.recipe.steps:
                report(f"step {self.step}/{self.recipe.steps}  loss {shown:.3f}  scale {self.model.logit_scale.exp().item():.1f}")
            if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.steps:
                write_state(out, self.state())

    def advance(self, batch: Batch) -> float:
        """One optimiser step; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * one_cycle(self.step / self.recipe.steps, self.recipe.warmup)
        self.model.train()
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise TrainingError("a finite loss", f"{loss.item()} at step {self.step}", "Lower learning_rate in the recipe.")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(self.recipe.most_scale))
        self.step += 1
        self._average()
        return float(loss.item())

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the sizes of windows of the contrast between windows and captions; a size that shows nothing known adds 0."""
        told = [told_classes(class_shares(batch.codes, windows)) for windows in self.recipe.windows]
        shown = [meanings(*orders) for orders in told]
        order, count = (np.concatenate(parts) for parts in zip(*told, strict=True))
        captions, meant = self._captions(order, count, np.concatenate(shown))
        with torch.autocast("cpu", torch.bfloat16):
            texts = self.model.encode_text(encode(self.tokenizer, captions), normalize=True).float()
            features = self._windows((torch.from_numpy(batch.images) - MEAN) / STD)
        scale = self.model.logit_scale.exp()
        losses = []
        for windows, meaning in zip(features, shown, strict=True):
            said = torch.from_numpy(meaning > 0)
            same = torch.from_numpy(meaning[meaning > 0][:, None] == meant)
            per_window, per_text = self.contrast.get_logits(F.normalize(windows[said].float(), dim=-1), texts, scale)
            losses.append(contrast(per_window, per_text, same))
        return torch.stack(losses).mean()

    def _captions(
        self, order: NDArray[np.int64], count: NDArray[np.int64], meaning: NDArray[np.int64]
    ) -> tuple[list[str], NDArray[np.int64]]:
        """Texts for every meaning that is shown, in the order of one window that shows it; and the meaning of each text."""
        rng = np.random.default_rng([self.recipe.seed, self.step, 1])
        captions, meant = [], []
        for shown in np.unique(meaning[meaning > 0]):
            for window in rng.choice(np.flatnonzero(meaning == shown), self.recipe.captions):
                captions.append(caption(order[window, : count[window]].tolist(), rng))
                meant.append(shown)
        return captions or ["nothing"], np.array(meant or [0])

    def _windows(self, images: Tensor) -> list[Tensor]:
        """(N, 3, S, S) → per size of windows, (N · g · g, D) features. The whole crop is seen as the tower sees any image."""
        visual = self.model.visual
        tokens = last_block_input(visual, images)
        patches = joint(visual, dense_tokens(visual, tokens, self.recipe.attention))
        side = visual.grid_size[0]
        maps = patches.transpose(1, 2).reshape(len(images), -1, side, side)
        found = []
        for windows in self.recipe.windows:
            if windows == 1:
                found.append(joint(visual, visual.transformer.resblocks[-1](tokens))[:, 1:].mean(1))
            else:
                found.append(F.avg_pool2d(maps, side // windows).flatten(2).transpose(1, 2).flatten(0, 1))
        return found

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        for name, tensor in self.model.state_dict().items():
            self.average[name].lerp_(tensor, 1 - decay)

    def state(self) -> State:
        """What a checkpoint keeps."""
        recipe = self.recipe.model_dump(mode="json")
        return State(0, self.step, self.model.state_dict(), self.average, self.optimizer.state_dict(), recipe, self.data_sha256)


def contrast(per_window: Tensor, per_text: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE in which all pairs of one meaning are positives, in equal shares.

    Parameters
    ----------
    per_window: (M, T) logits. per_text: (T, M) logits.
    same: (M, T) bool, a window shows what a text says; each window shows what some text says.

    Returns
    -------
    Half the sum of both directions; texts that no window shows count in neither, and without windows it is 0.
    """
    if not len(same):
        return per_window.sum()
    target = same.float()
    shown = same.any(0)
    by_window = F.cross_entropy(per_window, target / target.sum(1, keepdim=True))
    by_text = F.cross_entropy(per_text[shown], (target / target.sum(0, keepdim=True).clamp(min=1)).T[shown])
    return (by_window + by_text) / 2


def model_config(recipe: ClipRecipe, vocabulary: int) -> dict[str, Any]:
    """The arguments of `open_clip.CLIP`."""
    t = recipe.towers
    return {
        "embed_dim": t.joint,
        "vision_cfg": {
            "image_size": recipe.crop_px, "patch_size": t.patch_px, "width": t.width, "layers": t.layers,
            "head_width": t.head_width, "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocabulary, "width": t.text_width, "layers": t.text_layers,
            "heads": t.text_heads, "pool_type": "eos", "eos_id": END, "pad_id": PAD,
        },
    }  # fmt: skip


def export(folder: Path, run: ClipRun) -> None:
    """Writes the averaged weights as float16, with all that says what they mean."""
    config = {
        "model_type": OWN,
        "model_cfg": run.model_cfg,
        "preprocess_cfg": {"mean": [MEAN] * 3, "std": [STD] * 3},
        "tokenizer": run.tokenizer.to_str(),
        "training": {
            "classes": list(CLASSES),
            "recipe": run.recipe.model_dump(mode="json"),
            "steps": run.step,
            "data_sha256": run.data_sha256,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "open_clip": open_clip.__version__},
        },
    }
    write_weights(folder, config, {name: tensor.half().contiguous() for name, tensor in run.average.items()})
