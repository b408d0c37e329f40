"""What self-training minimises (METHODS.md section 3): `L = L_seg + 0.1 L_attn + 0.05 L_contrast + 0.02 L_boundary`, each a module.

Rows are images with prompts, B of them; n = h · w tokens on a grid, C channels, Q queries. What teaches is never moved: teachers, attention
and queries are detached here, whoever calls.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Form = Literal["kl", "topk", "rank", "l1"]

RANK_PAIRS = 256
"""Pairs of tokens that the rank form compares in each row."""
RANK_MARGIN = 0.1
"""Of token energies whose mean is 1."""


class MaskConsistencyLoss(nn.Module):
    """L_seg: the student, shown another view, is to say what the teacher says where the teacher is sure.

    KL(teacher ‖ student) over the pixels to which the teacher gives a probability of at least `sure`, or at most 1 - `sure`; each kind
    weighs half, or what is not there would outweigh what is, and classes would vanish. It is 0 where the two agree: pseudo-labels that are
    rounded to 0 and 1 pull at a student that agrees already (decision 35).
    """

    def __init__(self, sure: float = 0.8) -> None:
        super().__init__()
        self.sure = sure

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Scalar, 0 where the teacher is sure of nothing.

        Parameters
        ----------
        student, teacher: (B, H, W) probabilities on the same pixels.
        valid: (B, H, W) bool, pixels that were seen in both views.
        """
        p, t = (probability.float().clamp(1e-6, 1 - 1e-6) for probability in (student, teacher.detach()))
        apart = t * (t.log() - p.log()) + (1 - t) * ((1 - t).log() - (1 - p).log())
        kinds = (t >= self.sure) & valid, (t <= 1 - self.sure) & valid
        return torch.stack([(apart * kind).sum() / kind.sum().clamp(min=1) for kind in kinds]).mean()


class PatchImportanceLoss(nn.Module):
    """L_attn: the energy of the tokens, ‖P_i‖ as a share of their sum, is to be where the decoder looked, `w`.

    Forms: `kl` KL(w ‖ energy); `topk` minus the logarithm of the energy on the tokens of the largest `w`; `rank` a hinge on pairs of
    tokens whose order differs; `l1` the sum of the differences. `w` is detached: the teacher would get 800 times the gradient otherwise.
    """

    def __init__(self, form: Form = "kl", top_share: float = 0.1) -> None:
        super().__init__()
        self.form, self.top_share = form, top_share

    def forward(self, tokens: Tensor, importance: Tensor) -> Tensor:
        """Scalar, from tokens (B, n, C) and w (B, n), each row of which sums to 1; 0 without a row."""
        w = importance.detach().float()
        if not len(w):
            return tokens.sum() * 0
        norm = torch.linalg.vector_norm(tokens.float(), dim=-1)
        energy = norm / norm.sum(1, keepdim=True).clamp(min=1e-6)
        loss: Tensor
        if self.form == "kl":
            loss = (torch.xlogy(w, w) - w * energy.clamp(min=1e-12).log()).sum(1).mean()
        elif self.form == "l1":
            loss = (energy - w).abs().sum(1).mean()
        elif self.form == "topk":
            top = w.topk(max(1, round(self.top_share * w.shape[1])), dim=1).indices
            loss = -energy.gather(1, top).sum(1).clamp(min=1e-12).log().mean()
        else:
            loss = self._rank(energy * energy.shape[1], w)
        return loss

    @staticmethod
    def _rank(energy: Tensor, w: Tensor) -> Tensor:
        """Pairs of the most looked at tokens with ones spread over the rest."""
        order = w.argsort(1, descending=True)
        count = min(RANK_PAIRS, w.shape[1] // 2)
        if not count:
            return energy.sum() * 0
        rest = torch.linspace(w.shape[1] // 2, w.shape[1] - 1, count, device=w.device).long()
        more, less = energy.gather(1, order[:, :count]), energy.gather(1, order[:, rest])
        return F.relu(RANK_MARGIN - (more - less)).mean()


class PatchContrastLoss(nn.Module):
    """L_contrast: InfoNCE of patches inside a sure mask (positives to each other) against patches outside it (negatives).

    The `masks` surest rows are taken and `patches` tokens drawn on either side of each, so that cost does not grow with n². Divided by the
    loss of chance, log(1 + negatives): its gradient is that of 1, and not of two hundred binary cross-entropies.
    """

    def __init__(self, masks: int = 8, patches: int = 32, temperature: float = 0.1, sure: float = 0.8) -> None:
        super().__init__()
        self.masks, self.patches, self.temperature, self.sure = masks, patches, temperature, sure

    def forward(self, tokens: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Scalar, from tokens (B, n, C) and probabilities (B, n) on their grid; 0 where no row has two patches on either side."""
        mask = mask.detach()
        inside, outside = mask >= self.sure, mask <= 1 - self.sure
        able = torch.nonzero((inside.sum(1) >= 2) & (outside.sum(1) >= 2))[:, 0]
        if not len(able):
            return tokens.sum() * 0
        surest = (mask * inside).sum(1)[able] / inside.sum(1)[able]
        rows = able[surest.argsort(descending=True)[: self.masks]]
        return torch.stack([self._row(tokens[b], inside[b], outside[b], generator) for b in rows]).mean()

    def _row(self, tokens: Tensor, inside: Tensor, outside: Tensor, generator: torch.Generator) -> Tensor:
        patches = F.normalize(tokens.float(), dim=-1)
        within, without = (patches[_draw(where, self.patches, generator)] for where in (inside, outside))
        similar, different = within @ within.T / self.temperature, within @ without.T / self.temperature
        others = ~torch.eye(len(within), dtype=torch.bool, device=within.device)
        rivals = different.logsumexp(1, keepdim=True)
        loss = (torch.logaddexp(similar, rivals) - similar)[others].mean()
        return loss / math.log(1 + len(without))


def _draw(where: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most so many indices of the True ones."""
    found = torch.nonzero(where)[:, 0]
    return found[torch.randperm(len(found), generator=generator)[:most].to(found.device)]


class BoundaryLoss(nn.Module):
    """L_boundary: a patch at the border of a mask stays at least as far from the mean of its neighbours as it was.

    The border is `mask ^ erosion(mask)`; distances are those of normalised tokens. Nothing is asked of patches that moved apart.
    """

    def forward(self, tokens: Tensor, before: Tensor, mask: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
        """Scalar, from tokens (B, n, C), those of the unadapted model `before` (B, n, C; detached), probabilities (B, n) and what was seen
        (B, n) bool; 0 without a border.
        """
        border = mask_border(mask.detach() >= 0.5, grid) & ~mask_border(valid, grid) & valid
        if not border.any():
            return tokens.sum() * 0
        now, was = _apartness(tokens, grid)[border], _apartness(before.detach(), grid)[border]
        return F.relu(1 - now / was.clamp(min=1e-3)).mean()


def mask_border(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, n) bool → (B, n) bool: `mask ^ erosion(mask)`, the erosion by 3 x 3; the image's edge is no border."""
    maps = mask.view(len(mask), 1, *grid).float()
    eroded = -F.max_pool2d(-maps, 3, stride=1, padding=1)  # what lies outside counts as -inf, which is to say not at all
    return (maps != eroded).flatten(1)


def _apartness(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, n, C) → (B, n): distance of each normalised token to the mean of its eight neighbours."""
    maps = F.normalize(tokens.float(), dim=-1).transpose(1, 2).reshape(len(tokens), -1, *grid)
    total = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * 9
    apart: Tensor = torch.linalg.vector_norm(maps - (total - maps) / 8, dim=1)
    return apart.flatten(1)


class QueryDistillLoss(nn.Module):
    """L_distill: `‖F_patch − W F_query[q*]‖`, q* the query that looks at the patch most; stop-gradient on the query.

    Both are of unit length, so that tokens cannot escape by shrinking. W starts as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carry = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.carry.weight)

    def forward(self, tokens: Tensor, queries: Tensor, looks: Tensor, valid: Tensor) -> Tensor:
        """Scalar, from tokens (B, n, C), queries (B, Q, C), their looks (B, Q, n) and what was seen (B, n) bool; 0 where nothing was."""
        if not valid.any():
            return tokens.sum() * 0
        best = looks.detach().argmax(1)
        taught = queries.detach().gather(1, best[..., None].expand(-1, -1, queries.shape[-1]))
        apart = F.normalize(tokens.float(), dim=-1) - F.normalize(self.carry(taught).float(), dim=-1)
        loss: Tensor = torch.linalg.vector_norm(apart[valid], dim=-1).mean()
        return loss


class TextImageContrast(nn.Module):
    """TMC: `0.5 (L_image→text + L_text→image)`, the mean token inside each row's mask against the words of all rows.

    Rows of one class are no negatives of each other.
    """

    SHARPEST = math.log(100)

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, seen: Tensor, said: Tensor, classes: Tensor) -> Tensor:
        """Scalar, from what was seen (B, C), what was said (B, C) and class indices (B,); 0 where all rows are of one class."""
        if bool((classes == classes[:1]).all()):
            return seen.sum() * 0
        logits = F.normalize(seen.float(), dim=-1) @ F.normalize(said.float(), dim=-1).T * self.logit_scale.exp()
        same = classes[:, None] == classes[None]
        # Others of one's own class are left out: they are neither the answer nor wrong.
        masked = logits.masked_fill(same & ~torch.eye(len(classes), dtype=torch.bool, device=same.device), -torch.inf)
        right = torch.arange(len(classes), device=logits.device)
        return 0.5 * (F.cross_entropy(masked, right) + F.cross_entropy(masked.T, right))

    @torch.no_grad()
    def constrain(self) -> None:
        """After each step: `exp(logit_scale) ≤ 100`."""
        self.logit_scale.clamp_(max=self.SHARPEST)
