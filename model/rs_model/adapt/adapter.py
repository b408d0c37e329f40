"""A model dressed for adaptation: what is trained, what stays, and the adapter as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rs_model.adapt.alignment import Alignment
from rs_model.adapt.losses import QueryDistillLoss, TextImageContrast
from rs_model.adapt.low_rank import LowRank, add_low_rank, merge_low_rank
from rs_model.adapt.parts import Model, low_rank_layers, neck_parameters, width_of
from rs_pipeline.adapt_settings import AdaptSettings
from rs_pipeline.adapters import AdapterShape
from rs_pipeline.errors import SegmenterError

LOW_RANK, NECK, ALIGN = "low_rank", "neck", "align"
"""First parts of the tensors' names in an adapter file."""


class Adapter:
    """A frozen model, in place, with parts that learn.

    Everything of the model that is not named by `AdaptSettings.train` keeps its bits, running means of its norms included: the model
    stays in evaluation mode.
    """

    def __init__(self, model: Model, settings: AdaptSettings) -> None:
        self.model = model.eval().requires_grad_(False)
        device = next(model.parameters()).device
        width, train = width_of(model), settings.train
        self.low_rank: dict[str, LowRank] = {}
        if train.low_rank:
            self.low_rank = add_low_rank(model, low_rank_layers(model), train.low_rank, train.low_rank_scale)
        self.neck = neck_parameters(model) if train.neck else {}
        self._neck_was = {name: parameter.detach().clone() for name, parameter in self.neck.items()}
        for parameter in self.neck.values():
            parameter.requires_grad_(True)
        self.alignment = Alignment(width, settings.align).to(device)
        weights = settings.losses
        self.distill = QueryDistillLoss(width).to(device) if weights.distill.weight else None
        self.text_image = TextImageContrast().to(device) if weights.text_image.weight else None
        if settings.checkpointing:
            _compute_again(model)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that is trained, by name; what serves the losses alone begins with `loss`."""
        found = {f"{LOW_RANK}.{name}.{part}": p for name, m in self.low_rank.items() for part, p in (("down", m.down), ("up", m.up))}
        found |= {f"{NECK}.{name}": parameter for name, parameter in self.neck.items()}
        found |= {f"{ALIGN}.{name}": parameter for name, parameter in self.alignment.named_parameters()}
        for prefix, module in (("loss.distill", self.distill), ("loss.text_image", self.text_image)):
            if module is not None:
                found |= {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
        return found

    def constrain(self) -> None:
        """After each step."""
        self.alignment.constrain()
        if self.text_image is not None:
            self.text_image.constrain()

    def plain(self) -> dict[str, Tensor]:
        """Values of the parameters with which low-rank additions and neck are as if there were no adapter."""
        values = {name: parameter.detach() for name, parameter in self.parameters().items()}
        values |= {f"{LOW_RANK}.{name}.up": torch.zeros_like(module.up) for name, module in self.low_rank.items()}
        return values | {f"{NECK}.{name}": was for name, was in self._neck_was.items()}

    def tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an adapter file holds of `values` of the parameters: changes of the neck, the rest as it is; in float32, on the CPU."""
        kept = {name: value for name, value in values.items() if not name.startswith("loss.")}
        for name, was in self._neck_was.items():
            kept[f"{NECK}.{name}"] = values[f"{NECK}.{name}"] - was
        buffers = {f"{ALIGN}.{name}": buffer for name, buffer in self.alignment.named_buffers()}
        return {name: value.detach().float().cpu().contiguous() for name, value in (kept | buffers).items()}

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the parameters have other values: a teacher's, or the best ones. Leave autocast first: it keeps casts of the old ones."""
        parameters = self.parameters()
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = values[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]


def put_on(model: Model, shape: AdapterShape, tensors: Mapping[str, Tensor], *, feedback: bool = True) -> Alignment:
    """Puts an adapter on a model for inference: low-rank additions and changes of the neck go into the weights, in place.

    Parameters
    ----------
    tensors: of an adapter file.
    feedback: False leaves the feedback module out.

    Returns
    -------
    The alignment modules, for `rs_model.segmenter.PromptedSegmenter`.

    Raises
    ------
    SegmenterError: tensors that are not those of the shape and the model.
    """
    device = next(model.parameters()).device
    alignment, left = Alignment(width_of(model), shape.align).to(device).eval().requires_grad_(False), dict(tensors)
    try:
        with torch.no_grad():
            if shape.train.low_rank:
                for name, layer in low_rank_layers(model).items():
                    down, up = (left.pop(f"{LOW_RANK}.{name}.{part}").to(device) for part in ("down", "up"))
                    merge_low_rank(layer, down, up, shape.train.low_rank_scale)
            if shape.train.neck:
                for name, parameter in neck_parameters(model).items():
                    parameter.add_(left.pop(f"{NECK}.{name}").to(parameter))
        alignment.load_state_dict({name.removeprefix(f"{ALIGN}."): value for name, value in left.items()})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SegmenterError("an adapter with the tensors of its settings", reason, "Copy the whole file again, or adapt again.") from error
    alignment.gives_feedback = feedback
    return alignment


def _compute_again(model: Model) -> None:
    """The activations of a ViT's layers are computed again for the gradient instead of being kept; other encoders have no such layers.

    transformers' own switch refuses SAM 3.
    """
    for layer in getattr(model.backbone, "layers", ()):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
