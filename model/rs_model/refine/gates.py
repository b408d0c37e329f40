"""Gates on the token map: by presence, and by what the queries ask for (METHODS.md section 2)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rs_model.refine.importance import late_attention
from rs_model.refine.reweight import reweight
from rs_pipeline.errors import SegmenterError

LEAST_SHARE = 1e-6
"""Attention of a token, in shares of an even look, below which the gate falls no further: log(0) has no gradient and no use."""


def presence_gate(tokens: Tensor, presence: Tensor, strength: float, attention: Tensor | None = None) -> Tensor:
    """`E' = E·((1-s) + s·g)`: tokens turned down where the thing asked for is not there.

    Parameters
    ----------
    tokens: (B, N, C) float.
    presence: (B, 1) logits.
    strength: s, 0…1.
    attention: (B, N), each row sums to 1: what the presence token looked at. With it g = σ(presence + log(N·attention)),
        which is σ(presence) for a token looked at as much as any other; without it g = σ(presence).

    Returns
    -------
    (B, N, C) in the dtype that came.
    """
    if strength == 0:
        return tokens
    if tokens.dim() != 3 or presence.shape != (len(tokens), 1):
        raise ValueError(f"presence must be (B, 1) for tokens {tuple(tokens.shape)}, got {tuple(presence.shape)}")
    logits = presence.to(torch.promote_types(presence.dtype, torch.float32))
    if attention is not None:
        if attention.shape != tokens.shape[:2]:
            raise ValueError(f"attention must be (B, N) for tokens {tuple(tokens.shape)}, got {tuple(attention.shape)}")
        logits = logits + torch.log((attention.to(logits.dtype) * attention.shape[1]).clamp_min(LEAST_SHARE))
    gain = (1 - strength) + strength * torch.sigmoid(logits)
    return (tokens * gain[..., None]).to(tokens.dtype)


def query_gate(tokens: Tensor, importance: Tensor, alpha: Tensor, strength: float) -> Tensor:
    """`reweight` with a strength of its own for each token, `strength`·alpha.

    Parameters
    ----------
    tokens: (B, N, C) float. importance: (B, N), each row sums to 1.
    alpha: (B, N) in [0, 1], of `attention_alpha` or of a `QueryGate`.
    strength: 0 or more.
    """
    if strength == 0:
        return tokens
    return reweight(tokens, importance, strength * alpha)


def attention_alpha(attention: Tensor) -> Tensor:
    """What the queries looked at in the layer before the last, or in the only one.

    Parameters
    ----------
    attention: (B, L, heads, 1+Q, N), each row sums to 1; row 0 is the presence token and is left out.

    Returns
    -------
    (B, N) in [0, 1], float32 at least; the most looked-at token of each row has 1.
    """
    before_last = attention[:, : max(attention.shape[1] - 1, 1)]
    looks = late_attention(before_last, 1)[:, 1:].mean(1)
    return looks / looks.amax(1, keepdim=True)


class QueryGate(nn.Module):
    """`α_i = σ(MLP(P_i ⊕ Q̄))` from each token P_i and the mean query Q̄; 0.5 everywhere until it is trained.

    The first layer is kept as two, for P and for Q̄: the same sum, without N copies of Q̄.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.width = width
        self.patch = nn.Linear(width, hidden)
        self.query = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Tokens (B, N, C) and queries (B, Q, C), any float → (B, N) in [0, 1], in the dtype of the weights."""
        width = self.width
        if tokens.shape[2:] != (width,) or queries.shape[2:] != (width,) or len(tokens) != len(queries):
            raise ValueError(f"a gate of width {width} takes (B, N, C) and (B, Q, C), got {tuple(tokens.shape)} and {tuple(queries.shape)}")
        dtype = self.out.weight.dtype
        seen = self.patch(tokens.to(dtype)) + self.query(queries.to(dtype).mean(1, keepdim=True))
        return torch.sigmoid(self.out(F.gelu(seen))).squeeze(-1)


def save_query_gate(gate: QueryGate, path: Path) -> None:
    """Writes a .safetensors file; it takes the place of an older one at once."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(gate.state_dict(), aside)
    aside.chmod(0o644)  # safetensors makes it readable by its owner alone
    aside.replace(path)


def load_query_gate(path: Path) -> QueryGate:
    """The gate of `save_query_gate`, its sizes read from the tensors, on the CPU and set for inference.

    Raises
    ------
    SegmenterError: no such file, or not of a gate.
    """
    fix = "Point refine.query_gate.weights at a file of save_query_gate, or set refine.query_gate.by to attention."
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SegmenterError("a trained query gate, a .safetensors file", f"{path} ({error})", fix) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    match shapes.get("patch.weight"):
        case (hidden, width):
            gate = QueryGate(width, hidden)
            if shapes == {name: tuple(tensor.shape) for name, tensor in gate.state_dict().items()}:
                gate.load_state_dict(tensors)
                return gate.eval()
    raise SegmenterError("the tensors of one query gate", f"{path} with {', '.join(sorted(shapes)[:8]) or 'none'}", fix)
