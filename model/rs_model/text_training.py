"""The first stage of training: the text encoder alone learns which phrases mean which class, and which mean none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rs_model.phrases import OTHER, composed_phrase, language, other_phrase, training_phrase
from rs_model.pieces import Tokenizer
from rs_model.words import SYNONYMS

MEANINGS = (*SYNONYMS, OTHER)
"""The classes in their order, and what is none of them."""

Encode = Callable[[Tensor, Tensor], Tensor]
"""Token ids and their mask, (P, T) int64 each, to features (P, T, C)."""


OTHER_SHARE = 0.35
"""Share of the phrases that mean none of the classes."""
COMPOSED_SHARE = 0.8
"""Share of the other ones that are composed; the rest is drawn as training with images draws it."""
_GROUP = 32
"""Phrases of about the same length that are encoded at once: most are half as long as the longest."""


def pretrain_text(
    encode: Encode,
    reader: nn.Linear,
    parameters: Iterable[nn.Parameter],
    tokenizer: Tokenizer,
    *,
    seed: int,
    steps: int,
    phrases: int,
    learning_rate: float,
) -> None:
    """Trains encoder and reader: cross-entropy over the six meanings, of the mean over a prompt's tokens, which SAM 3 scores queries
    against, and of its last token. The same seed, weights and number of threads give the same.

    Parameters
    ----------
    encode: the text encoder.
    reader: as `new_reader` makes it.
    parameters: what of the text encoder is trained.
    phrases: per step.
    learning_rate: top of one cycle.
    """
    optimizer = torch.optim.AdamW([*parameters, *reader.parameters()], lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, cycle_momentum=False)
    for step in range(steps):
        loss = text_loss(encode, reader, tokenizer, phrases, np.random.default_rng([seed, step]))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def new_reader(width: int, seed: int) -> nn.Linear:
    """The layer that features (P, C) are read by, C = `width`. It serves training and `measure_text`; a trained model goes without."""
    reader = nn.Linear(width, len(MEANINGS))
    with torch.no_grad():
        reader.weight.normal_(std=width**-0.5, generator=torch.Generator().manual_seed(seed))
        reader.bias.zero_()
    return reader


def text_loss(encode: Encode, reader: nn.Linear, tokenizer: Tokenizer, count: int, rng: np.random.Generator) -> Tensor:
    """The loss of `count` phrases that are drawn by `rng` alone."""
    phrases, meanings = draw_phrases(count, rng)
    mean, last = _pooled(encode, tokenizer.encode(phrases, rng=rng))
    target = torch.from_numpy(meanings)
    return F.cross_entropy(reader(mean), target) + F.cross_entropy(reader(last), target)


def draw_phrases(count: int, rng: np.random.Generator) -> tuple[list[str], NDArray[np.int64]]:
    """Phrases, and the index of each one's meaning in `MEANINGS`, (count,)."""
    phrases, meanings = [], rng.integers(len(SYNONYMS), size=count)
    meanings[rng.random(count) < OTHER_SHARE] = len(SYNONYMS)
    for meaning in meanings:
        if MEANINGS[meaning] == OTHER:
            phrases.append(other_phrase(rng))
        else:
            draw = composed_phrase if rng.random() < COMPOSED_SHARE else training_phrase
            phrases.append(draw(MEANINGS[meaning], rng))
    return phrases, meanings


@torch.no_grad()
def measure_text(encode: Encode, reader: nn.Linear, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    """Share, 0…1, of the held-out phrases that get their meaning: by meaning and kind."""
    kinds = language().kinds
    return {
        meaning: {kind: float(np.mean([m == meaning for m in read_text(encode, reader, tokenizer, held)])) for kind, held in of.items()}
        for meaning in MEANINGS
        for of in [kinds[meaning].held_out]
    }


@torch.no_grad()
def read_text(encode: Encode, reader: nn.Linear, tokenizer: Tokenizer, phrases: Sequence[str]) -> list[str]:
    """The likeliest meaning of each phrase."""
    mean, last = _pooled(encode, tokenizer.encode(phrases))
    likely = F.log_softmax(reader(mean), -1) + F.log_softmax(reader(last), -1)
    return [MEANINGS[index] for index in likely.argmax(-1).tolist()]


def resolved_share(shares: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Means over what `measure_text` gives: of the classes' phrases, and of the others'. Kinds have equally many phrases."""
    named = [share for meaning, kinds in shares.items() if meaning != OTHER for share in kinds.values()]
    return float(np.mean(named)), float(np.mean(list(shares[OTHER].values())))


def _pooled(encode: Encode, encoded: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Mean over the tokens of each prompt, and its last one: (P, C) each."""
    ids, mask = map(torch.from_numpy, encoded)
    order = mask.sum(1).argsort(stable=True)
    parts = [_pool(encode, ids[part], mask[part]) for part in torch.split(order, _GROUP)]
    mean, last = (torch.cat(pooled)[order.argsort()] for pooled in zip(*parts, strict=True))
    return mean, last


def _pool(encode: Encode, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    count = mask.sum(1)
    longest = int(count.max())
    features = encode(ids[:, :longest], mask[:, :longest])
    total = (features * mask[:, :longest, None]).sum(1)
    return total / count[:, None], features[torch.arange(len(features)), count - 1]
