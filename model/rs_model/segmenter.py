"""rs-tiny as the pipeline sees it: tiles and classes in, probabilities out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from rs_model.architecture import Architecture
from rs_model.memory import keep_freed_memory
from rs_model.scores import class_probability, word_probability
from rs_model.tiny import Prompts, TinySam3
from rs_model.weights import WEIGHTS, read_weights_config
from rs_model.words import Tokenizer
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import SegmenterError

PAD_TO = 32
"""Heights and widths are padded to a multiple of it."""


class TinySegmenter:
    """A loaded rs-tiny. Texts are encoded once per set of classes, images once for all prompts."""

    def __init__(self, model: TinySam3, tokenizer: Tokenizer, device: torch.device, threads: int | None = None) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.tokenizer, self.device, self.threads = tokenizer, device, threads
        self._texts: dict[tuple[str, ...], Prompts] = {}

    @torch.inference_mode()
    def segment(self, images: NDArray[np.float32], valid: NDArray[np.bool_], classes: ClassSet) -> NDArray[np.float32]:
        """Class probabilities; see `rs_pipeline.segmenter.Segmenter`.

        Raises
        ------
        SegmenterError: a word that the model does not know.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)  # here, not in `load_segmenter`: OpenMP keeps the number per calling thread
        prompts = self._encode(tuple(prompt for c in classes for prompt in c.prompts))
        height, width = valid.shape[1:]
        pixels = torch.from_numpy(np.where(valid[:, None], images, np.float32(0))).to(self.device)
        words = self._words(_pad(pixels), prompts, height, width)
        return np.asarray(class_probability(words, [len(c.prompts) for c in classes]).cpu().numpy(), np.float32)

    def _words(self, pixels: Tensor, prompts: Prompts, height: int, width: int) -> Tensor:
        """(N, 3, H', W') padded images → (N, P, height, width) probability per word."""
        model = self.model
        pyramid = model.encode_images(pixels.contiguous(memory_format=torch.channels_last))
        fused = model.fuse(pyramid, prompts)
        presence = model.decode(fused, prompts).presence_logits[-1]
        semantic = model.semantic_logits(model.embed_pixels(pyramid, fused.last_hidden_state, prompts))
        full = word_probability(semantic, presence, (pixels.shape[2], pixels.shape[3]))
        return full.view(len(pixels), -1, *full.shape[-2:])[:, :, :height, :width]

    def _encode(self, words: tuple[str, ...]) -> Prompts:
        if words not in self._texts:
            ids, mask = (torch.from_numpy(a).to(self.device) for a in self.tokenizer.encode(words))
            self._texts[words] = self.model.encode_text(ids, mask)
        return self._texts[words]


def load_segmenter(folder: Path, device: str, threads: int | None) -> TinySegmenter:
    """The model of a weights folder. Slow.

    Parameters
    ----------
    device, threads: as `Provider.load` has them.

    Raises
    ------
    SegmenterError: a damaged folder, or a device that is not there.
    """
    keep_freed_memory()
    config = read_weights_config(folder)
    tokenizer = Tokenizer(tuple(config["vocabulary"]))
    try:
        model = TinySam3(Architecture(**config["architecture"]), tokenizer.size)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SegmenterError(f"{WEIGHTS} that fits its config.json", f"{folder} ({reason})", "Copy the whole folder again.") from error
    return TinySegmenter(model, tokenizer, find_device(device), threads)


def find_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, … or `auto`: a GPU where there is one.

    Raises
    ------
    SegmenterError: no device of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SegmenterError("a device: auto, cpu, cuda or cuda:N", f"{name!r} ({reason})", "Use --set device=cpu.") from error
    return device


def _pad(pixels: Tensor) -> Tensor:
    """Repeats the last row and column up to a multiple of 32."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % PAD_TO, 0, -height % PAD_TO), mode="replicate")
