"""What CLIP's patch features say of a class, and how much of it the segmenter believes (METHODS.md section 1, row clip).

Shapes: N images, T texts, K classes, n = g·g' tokens of the segmenter with C channels, h·w patches of CLIP with D channels,
H·W pixels. All tensors are float32 and all grids of one image cover the same ground.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CONTRAST = -1
"""The class of a text that only competes, such as "background"."""
FLOOR = 1e-6
"""Least probability whose logarithm is taken: a class that one side rules out stays unlikely, but is not infinitely so."""
LEAST_SPREAD = 1e-4
"""Standard deviation of cosines far below which a row is constant up to rounding, and correlates with nothing."""


def class_prior(
    features: Tensor, texts: Tensor, class_of_text: Sequence[int], classes: int, scale: float, size: tuple[int, int] | None = None
) -> Tensor:
    """Probability of each class by CLIP alone: a softmax of `scale` · cosine over all texts.

    A class is as likely as its likeliest text. The texts of a class share the softmax, so two that mean the same halve each
    other: give synonyms that differ. One class and no contrast text leave nothing to compete with: the prior is 1 everywhere.

    Parameters
    ----------
    features: (N, h, w, D) unit length.
    texts: (T, D) unit length.
    class_of_text: T numbers, 0…K-1 or `CONTRAST`; a contrast text takes its share of the softmax and is then dropped.
    scale: inverse temperature; CLIP was trained up to 100.
    size: height and width that come out, h and w if None. Similarities are enlarged before the softmax, as the project does
        with all logits: enlarged probabilities blur every edge.

    Returns
    -------
    (N, K, h, w) or (N, K, *size) in [0, 1]; the sum over K is at most 1.
    """
    similarity = torch.einsum("nhwd,td->nthw", features, texts)
    if size is not None:
        similarity = F.interpolate(similarity, size=size, mode="bilinear", align_corners=False)
    probability = (scale * similarity).softmax(1)
    texts_of = [[text for text, c in enumerate(class_of_text) if c == wanted] for wanted in range(classes)]
    return torch.stack([probability[:, rows].amax(1) for rows in texts_of], 1)


def fuse_loglinear(probability: Tensor, prior: Tensor, strength: float | Tensor) -> Tensor:
    """`P^(1-β) · prior^β`, in log space.

    Where β is 0 the probability comes back bit for bit; for a plain 0 it is the same tensor. A prior of 1 everywhere (one class,
    no contrast text: see `class_prior`) turns this into `P^(1-β)`, which raises every score and knows nothing: the caller
    refuses or warns.

    Parameters
    ----------
    probability: (N, K, H, W) in [0, 1].
    prior: (N, K, h, w) in [0, 1]. A coarser one is enlarged as it is, bilinearly: its logarithm, enlarged, would fall far below
        both neighbours where two sure patches meet, and draw a dark seam there. Best is `class_prior` with `size`.
    strength: β in [0, 1], a number or broadcastable to (N, 1, H, W).

    Returns
    -------
    (N, K, H, W) in [0, 1].
    """
    if not isinstance(strength, Tensor):
        if strength == 0:
            return probability
        strength = torch.tensor(strength, dtype=probability.dtype, device=probability.device)
    if prior.shape[-2:] != probability.shape[-2:]:
        prior = F.interpolate(prior, size=probability.shape[-2:], mode="bilinear", align_corners=False)
    fused = torch.lerp(probability.clamp_min(FLOOR).log(), prior.clamp_min(FLOOR).log(), strength).exp()
    return torch.where(strength == 0, probability, fused)


def agreement(tokens: Tensor, grid: tuple[int, int], features: Tensor) -> Tensor:
    """How far the segmenter and CLIP see the same structure: the gate on β.

    Per patch, the Pearson correlation between its affinities to all other patches in the segmenter's tokens and in CLIP's
    features. The patch itself is left out: its affinity is 1 in both, and that one point would correlate pure noise. Nothing is
    fitted, unlike a projection between the two spaces, which fits noise as well (METHODS.md, trap 5). A patch that is alike to
    all others, as on a uniform image, has no structure to compare: 0, so the segmenter is left alone.

    Parameters
    ----------
    tokens: (N, n, C), row by row over `grid` (height, width).
    features: (N, h, w, D) of `DenseClip.features`, in either form of the fusion. Proxy features were gathered by these very
        tokens, and agree with them even where the tokens are noise.

    Returns
    -------
    (N, 1, h, w) in [0, 1].
    """
    count, height, width, _ = features.shape
    ours = _centred_rows(cosines(resample_tokens(tokens, grid, (height, width))))
    clips = _centred_rows(cosines(features.flatten(1, 2)))
    our_spread, clips_spread = (rows.square().mean(-1).sqrt().clamp_min(LEAST_SPREAD) for rows in (ours, clips))
    return ((ours * clips).mean(-1) / (our_spread * clips_spread)).clamp(0, 1).view(count, 1, height, width)


def resample_tokens(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(N, n, C) tokens over `grid` → (N, h·w, C) over `size`, bilinear; a coarser grid takes the mean of what it covers."""
    maps = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid).float()
    return F.interpolate(maps, size=size, mode="bilinear", antialias=True, align_corners=False).flatten(2).transpose(1, 2)


def cosines(tokens: Tensor) -> Tensor:
    """(N, n, C) → (N, n, n) affinity of each token to each, -1…1."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def _centred_rows(affinity: Tensor) -> Tensor:
    """(N, n, n) less the mean of each row, both without the diagonal, which becomes 0."""
    others = 1 - torch.eye(affinity.shape[-1], dtype=affinity.dtype, device=affinity.device)
    mean = (affinity * others).sum(-1, keepdim=True) / others.sum(-1, keepdim=True).clamp_min(1)
    return (affinity - mean) * others
