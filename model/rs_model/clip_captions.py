"""What the labels of a crop say of it, as a caption; and captions as tokens.

Shapes: N crops of S × S pixels, each cut into g × g windows, 5 classes. A meaning is the set of classes that a caption names, as
bits: 1 for the first class, 2 for the second, 4 for the third ….
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, digits, punctuation

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from rs_model.clip_dense import OVERHEAD_TEMPLATES
from rs_model.labels import CLASSES
from rs_model.words import SYNONYMS

KNOWN_SHARE = 0.9
"""Least share of a window whose class is known; of others nothing is said."""
TOLD_SHARE = 0.8
"""Classes are named, largest first, until they cover so much of what is known."""
MOST_CLASSES = 3
CONTEXT = 32
"""Tokens per text, START and END included: the longest caption of three two-word classes, and room. Longer texts are cut."""
PIECES = 600
"""Size of the vocabulary, at most."""
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("[PAD]", "[START]", "[END]", "[UNKNOWN]")


def class_shares(codes: NDArray[np.uint8], windows: int) -> NDArray[np.float32]:
    """(N, S, S) label codes → (N · g · g, 5) share of each window that is of each class, crops and windows row by row."""
    count, side = codes.shape[:2]
    cells = codes.reshape(count, windows, side // windows, windows, side // windows)
    return np.stack([(cells == c).mean((2, 4), dtype=np.float32) for c in range(len(CLASSES))], -1).reshape(-1, len(CLASSES))


def told_classes(shares: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which classes a caption names, largest first.

    Parameters
    ----------
    shares: (M, 5), see `class_shares`.

    Returns
    -------
    order: (M, 5) classes by falling share.
    count: (M,) how many of them are named, 1…3; 0 where too little is known, or more than three would have to be named.
    """
    order = np.argsort(-shares, axis=1, kind="stable")
    known = shares.sum(1)
    covered = np.cumsum(np.take_along_axis(shares, order, 1), 1)
    count = 1 + (covered < TOLD_SHARE * known[:, None]).sum(1)
    return order, np.where((known >= KNOWN_SHARE) & (count <= MOST_CLASSES), count, 0)


def meanings(order: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) meaning of each window, 0 where nothing is said; parameters as `told_classes` returns them."""
    named = np.arange(order.shape[1]) < count[:, None]
    return np.asarray(((1 << order) * named).sum(1), np.int64)


def caption(classes: Sequence[int], rng: np.random.Generator) -> str:
    """A caption that names these classes in this order, each by its own name or, as often, by a synonym."""
    names = [CLASSES[c] if rng.random() < 0.5 else str(rng.choice(SYNONYMS[CLASSES[c]])) for c in classes]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return str(rng.choice(OVERHEAD_TEMPLATES)).format(listed)


def train_tokenizer() -> Tokenizer:
    """Sub-word pieces of all that captions say, the same on every machine. Any text has tokens: letters, digits and a few signs are
    pieces, too, and anything else is `UNKNOWN`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    # Words begin with a mark. Marked ends (`end_of_word_suffix`) are numbered in an order that differs from run to run.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=list(SPECIAL), initial_alphabet=[*ascii_lowercase, *digits, *punctuation], show_progress=False
    )
    phrases = [phrase for synonyms in SYNONYMS.values() for phrase in synonyms]
    tokenizer.train_from_iterator([template.format(phrase) for template in OVERHEAD_TEMPLATES for phrase in phrases], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[START]} $A {SPECIAL[END]}", special_tokens=[(SPECIAL[i], i) for i in (START, END)]
    )
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(length=CONTEXT, pad_id=PAD, pad_token=SPECIAL[PAD])
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """K texts → (K, 32) int64 ids: START, pieces, END, then PAD."""
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])
