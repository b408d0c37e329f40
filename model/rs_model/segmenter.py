"""A model as the pipeline sees it: tiles and classes in, class probabilities out. SAM 3 and rs-tiny go through the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam3Model

from rs_model.batching import Batches
from rs_model.calibration import Calibration, Scaling, queries_of, training_class
from rs_model.chain import Chain
from rs_model.scores import Instances, best_queries, class_probability, word_probability
from rs_model.seams import seams
from rs_model.stages import Aligner, Prompts, Pyramid, cut_masks, embed_pixels, fuse, mask_logits, query_boxes, score, semantic_logits
from rs_model.views import mean_over_views, views_of
from rs_pipeline.classes import ClassSet
from rs_pipeline.errors import SegmenterError
from rs_pipeline.options import ModelOptions


class PromptableModel(Protocol):
    """An image encoder and a text encoder before SAM 3's head."""

    head: Sam3Model
    has_trained_queries: bool
    cuts_masks: bool
    """Are its queries' masks good for nothing outside their own boxes."""
    tiles_on_cpu: int | None
    """Tiles per forward pass on a CPU, at the utmost; None: as many as come."""

    def fit(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images at a size the encoder takes, and the size that masks are made at: the images lie in its upper left corner."""
        ...

    def encode_images(self, images: Tensor, refine: Callable[[Tensor, tuple[int, int]], Tensor] | None = None) -> Pyramid:
        """(N, 3, H, W) in [0, 1] → `Pyramid`."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Prompts:
        """Texts → `Prompts`."""
        ...


class _Asked:
    """The classes of a call as the model takes them, K of P words."""

    def __init__(self, prompts: Prompts, classes: ClassSet, apart: Sequence[str], calibration: Calibration) -> None:
        self.prompts = prompts
        self.words = [c.prompts for c in classes]
        self.counts = [len(group) for group in self.words]
        self.parting = [c.name in apart and word == 0 for c in classes for word in range(len(c.prompts))]
        """(P,) do a word's queries keep the objects of its class apart: of several words, each of which has its own, the first."""
        self.scalings = [calibration.get(queries_of(training_class([word]) or "")) for group in self.words for word in group]
        """(P,) of the scores of a word's queries."""


class PromptedSegmenter:
    """A loaded model. Texts are encoded once per set of classes, images once for all prompts, prompts in batches."""

    def __init__(
        self,
        model: PromptableModel,
        chain: Chain,
        options: ModelOptions,
        device: torch.device,
        threads: int | None = None,
        calibration: Calibration | None = None,
        aligner: Aligner | None = None,
    ) -> None:
        self.model, self.chain, self.options, self.device, self.threads = model, chain, options, device, threads
        self.aligner = aligner
        scoring = options.scoring
        if scoring.calibrated and not calibration:
            fix = "Set it to null, or fit one with `python -m rs_model.calibrate --write`."
            raise SegmenterError("weights with a calibration", "scoring.calibrated=true, and weights without", fix)
        self.calibration: Calibration = {} if scoring.calibrated is False or calibration is None else calibration
        self._views = views_of(scoring.tta)
        if scoring.geometry_token and not hasattr(model.head, "geometry_encoder"):
            raise SegmenterError("a model with a geometry encoder", "scoring.geometry_token=true", "Set it to false.")
        width = int(cast("Any", model.head.detr_encoder).hidden_size)
        if chain.gate is not None and chain.gate.width != width:
            raise SegmenterError(f"a query gate of width {width}", f"one of {chain.gate.width}", "Use one trained on this model.")
        self.with_instances = model.has_trained_queries if scoring.instances is None else scoring.instances
        if scoring.apart and not (self.with_instances and all(view.is_plain for view in self._views)):
            other = "several views of a tile" if self.with_instances else "queries that are not used"
            fix = "Leave scoring.apart empty, or set scoring.instances to true and scoring.tta to one view."
            raise SegmenterError("queries that find objects one by one, in a tile as it is", f"scoring.apart and {other}", fix)
        self._half = options.dtype == "bfloat16" or (options.dtype == "auto" and device.type == "cuda")
        self._tiles = Batches(model.tiles_on_cpu if device.type == "cpu" else None)
        self._prompts = Batches(options.prompt_batch)
        self._texts: dict[tuple[str, ...], Prompts] = {}

    def precision(self) -> torch.autocast:
        """A context in which to call the model's parts."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    @torch.inference_mode()
    def segment(self, images: NDArray[np.float32], valid: NDArray[np.bool_], classes: ClassSet) -> NDArray[np.float32]:
        """Class probabilities; see `rs_pipeline.segmenter.Segmenter`.

        Raises
        ------
        SegmenterError: a word that the model does not know.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)  # here, not when loaded: OpenMP keeps the number per calling thread
        seen = np.where(valid[:, None], images, np.float32(0))
        with self.precision():
            asked = _Asked(self.encode_texts(classes), classes, self.options.scoring.apart, self.calibration)
            maps = self._tiles.run(lambda part: self._mean(seen[part], valid[part], asked), len(seen))
        return np.concatenate([self._calibrated(part.float(), asked.words).cpu().numpy() for part in maps])

    def _mean(self, seen: NDArray[np.float32], valid: NDArray[np.bool_], asked: _Asked) -> Tensor:
        """(N, 3, H, W) → (N, K, H, W): the tile as it is, or the mean over its views."""
        images = torch.from_numpy(seen).to(self.device)
        if all(view.is_plain for view in self._views):
            return self._segment(images, asked)
        # Models of one input size say which; the others take any.
        fixed = getattr(self.model, "image_size", None) is not None
        where = torch.from_numpy(valid).to(self.device)
        return mean_over_views(lambda view: self._segment(view, asked), images, where, self._views, fixed_input=fixed)

    def _calibrated(self, maps: Tensor, words: Sequence[Sequence[str]]) -> Tensor:
        """Each class's probabilities by the scaling of the training class that its words are for; other classes as they are."""
        for k, prompts in enumerate(words):
            scaling = self.calibration.get(training_class(prompts) or "")
            if scaling is not None:
                maps[:, k] = _scaled(maps[:, k], scaling)
        return maps

    def _segment(self, images: Tensor, asked: _Asked) -> Tensor:
        """(N, 3, H, W) → (N, K, H, W)."""
        fitted, size = self.model.fit(images)
        pyramid = self.model.encode_images(fitted, self.chain.backbone)
        parts = self._prompts.run(lambda part: self._words(pyramid, asked, part, size), len(asked.prompts))
        found, gaps = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        maps = self.chain.maps(class_probability(found, asked.counts), fitted, pyramid, asked.words)
        if any(asked.parting):
            maps = maps.masked_fill(torch.stack([group.any(1) for group in torch.split(gaps, asked.counts, 1)], 1), 0)
        return maps[:, :, : images.shape[2], : images.shape[3]]

    def _words(self, pyramid: Pyramid, asked: _Asked, part: slice, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(N, P, H, W) probability per word, and bool where objects touch, of words that are `parting`; without an extent if none is.

        Presence is known before the costly masks: absent prompts get none.
        """
        sam, scoring = self.model.head, self.options.scoring
        prompts = asked.prompts[part]
        fused = fuse(sam, pyramid, prompts, geometry_token=scoring.geometry_token)
        if self.aligner is not None:
            fused = self.aligner.before_decoder(sam, pyramid, fused)
        fused, decoded = self.chain.encoder(sam, fused)
        # What multiplies all of a prompt's scores: no pixel of it could be above.
        most = torch.sigmoid(decoded.presence[:, 0].float()) ** min(scoring.presence_power, 1.0)
        present = torch.nonzero(most >= scoring.absent_below)[:, 0]
        maps = torch.zeros(len(fused.tokens), *size, device=self.device)
        gaps = torch.zeros(len(fused.tokens), *(size if any(asked.parting) else (0, 0)), dtype=torch.bool, device=self.device)
        if len(present):
            some, presence = fused[present], decoded.presence[present]
            pixels = embed_pixels(sam, pyramid, some if self.aligner is None else self.aligner.before_masks(some))
            instances = None
            if self.with_instances:
                scores = score(sam, decoded, fused)[present]
                index, best = best_queries(scores, presence, scoring.query_threshold, scoring.top_queries)
                if index.shape[1]:
                    masks, boxes = self._masks(decoded.layers[:, present], pixels, index)
                    for word, (parts, scaling) in enumerate(zip(asked.parting[part], asked.scalings[part], strict=True)):
                        rows = present % len(prompts) == word
                        if parts:
                            gaps[present[rows]] = seams(masks[rows], boxes[rows], best[rows], size)
                        if scaling is not None:
                            best[rows] = torch.where(best[rows] > 0, _scaled(best[rows], scaling), 0)
                    instances = Instances(masks, best)
            maps[present] = word_probability(semantic_logits(sam, pixels), presence, size, instances, scoring.presence_power)
        shape = (len(pyramid.position), len(prompts))
        return maps.view(*shape, *maps.shape[1:]), gaps.view(*shape, *gaps.shape[1:])

    def _masks(self, layers: Tensor, pixels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """(L, B, Q, C) queries after each layer, (B, k) chosen ones → (B, k, h, w) logits of their masks, and (B, k, 4) boxes."""
        sam, row = self.model.head, torch.arange(len(index), device=index.device)[:, None]
        masks, boxes = mask_logits(sam, pixels, layers[-1][row, index]), query_boxes(sam, layers)[-1][row, index]
        return cut_masks(masks, boxes) if self.model.cuts_masks else masks, boxes

    @torch.inference_mode()
    def encode_texts(self, classes: ClassSet) -> Prompts:
        """The classes' prompts, in order; each set of them is encoded once.

        Raises
        ------
        SegmenterError: a word that the model does not know, or a text that is too long.
        """
        words = tuple(word for c in classes for word in c.prompts)
        if words not in self._texts:
            with self.precision():
                self._texts[words] = self.model.encode_text(words)
        return self._texts[words]


def _scaled(probability: Tensor, scaling: Scaling) -> Tensor:
    return torch.sigmoid(torch.logit(probability) / scaling.temperature + scaling.bias)


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
