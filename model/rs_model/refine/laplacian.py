"""Graph Laplacian: solves `(I + λL) E' = E`, which smooths among like tokens and stops at edges (METHODS.md section 1).

The graph joins each token with its 8 neighbours, by weights exp((cos - 1)/τ) of the tokens' cosine; L = D - W, symmetric, so
the sum over the grid does not change and a constant stays. The eigenvalues of the system lie in [1, 1 + 16λ].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor
from torch.nn import functional as F

from rs_model.refine.token_map import to_map, to_tokens

SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to four of the eight neighbours; the other four are the same edges seen from the other end."""


@dataclass(frozen=True, slots=True)
class Edges:
    """All edges along one shift."""

    here: tuple[slice, slice, slice]
    """Where they start on a (B, h, w, …) map."""
    there: tuple[slice, slice, slice]
    """Where they end."""
    weight: Tensor
    """(B, h - |rows|, w - |columns|, 1), times λ."""


def laplacian(
    tokens: Tensor, grid: tuple[int, int], strength: float, temperature: float, solver: Literal["cg", "sparse"], steps: int
) -> Tensor:
    """Tokens drawn towards those neighbours that are like them.

    Parameters
    ----------
    tokens: (B, N, C) float.
    grid: h and w, h·w = N.
    strength: λ, 0 or more.
    temperature: τ, above 0: how unlike two tokens may be and still mix.
    solver: "cg" makes `steps` conjugate-gradient steps wherever the tokens are (the error falls by about
        (√κ-1)/(√κ+1) a step or faster, κ = 1 + 16λ: 10 steps are ample at λ = 1 and few at λ = 10); "sparse" solves exactly on the CPU
        and passes no gradient.
    steps: for "cg" only; there is no early stop, so that a row never depends on its batch.

    Returns
    -------
    (B, N, C) in the dtype that came.
    """
    if strength == 0:
        return tokens
    if solver == "sparse":
        field = to_map(tokens.detach().cpu().double(), grid)
        solved = _solve_sparse(_edges(field, strength, temperature), field)
        return to_tokens(solved, tokens.dtype).to(tokens.device)
    field = to_map(tokens, grid)
    return to_tokens(_conjugate_gradients(_edges(field, strength, temperature), field, steps), tokens.dtype)


def _edges(field: Tensor, strength: float, temperature: float) -> list[Edges]:
    h, w = field.shape[1:3]
    unit = F.normalize(field, dim=-1)
    found = []
    for rows, columns in SHIFTS:
        here = (slice(None), slice(h - rows), slice(max(0, -columns), w - max(0, columns)))
        there = (slice(None), slice(rows, h), slice(max(0, columns), w - max(0, -columns)))
        cosine = (unit[here] * unit[there]).sum(-1, keepdim=True)
        found.append(Edges(here, there, strength * torch.exp((cosine - 1) / temperature)))
    return found


def _apply(edges: list[Edges], field: Tensor) -> Tensor:
    """(I + λL) times a (B, h, w, C) map; by differences, so that a constant comes out to the last bit at any λ."""
    product = field.clone()
    for edge in edges:
        step = field[edge.here] - field[edge.there]
        product[edge.here].addcmul_(edge.weight, step)
        product[edge.there].addcmul_(edge.weight, step, value=-1)
    return product


def _conjugate_gradients(edges: list[Edges], right: Tensor, steps: int) -> Tensor:
    """Hestenes and Stiefel (1952), started at the right-hand side; each channel of each row is a system of its own."""
    tiny = torch.finfo(right.dtype).tiny  # what is solved stays solved: 0 / tiny, never 0 / 0
    solution = right
    residual = right - _apply(edges, right)
    direction, square = residual, _dot(residual, residual)
    for _ in range(steps):
        product = _apply(edges, direction)
        length = square / _dot(direction, product).clamp_min(tiny)
        solution = torch.addcmul(solution, length, direction)
        residual = torch.addcmul(residual, length, product, value=-1)
        left = _dot(residual, residual)
        direction = torch.addcmul(residual, left / square.clamp_min(tiny), direction)
        square = left
    return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, 1, 1, C): inner products over the grid."""
    return (a * b).sum((1, 2), keepdim=True)


def _solve_sparse(edges: list[Edges], right: Tensor) -> Tensor:
    """The exact solution, by an LU factorisation per row; (B, h, w, C) float64 on the CPU."""
    h, w = right.shape[1:3]
    index = np.arange(h * w).reshape(1, h, w)
    start = np.concatenate([index[edge.here].ravel() for edge in edges])
    end = np.concatenate([index[edge.there].ravel() for edge in edges])
    weight = torch.cat([edge.weight.flatten(1) for edge in edges], 1).numpy()
    solved = np.empty(right.flatten(1, 2).shape)
    for row, system in enumerate(right.flatten(1, 2).numpy()):
        one_way = sparse.csr_array((weight[row], (start, end)), shape=(h * w, h * w))
        joined = one_way + one_way.T
        matrix = sparse.diags_array(1 + joined.sum(0)) - joined
        # symmetric and diagonally dominant: no pivoting is needed, and this order fills in least
        factors = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
        solved[row] = factors.solve(system)
    return torch.from_numpy(solved).view_as(right)
