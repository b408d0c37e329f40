"""Prompts as numbers: word pieces, of which any text has some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pieces

from rs_pipeline.errors import SegmenterError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
_SPECIAL = ("[PAD]", "[START]", "[END]", "[UNKNOWN]")
SEQUENCE_LENGTH = 24
"""Tokens per prompt: a start, up to 22 pieces, an end."""
_MOST = SEQUENCE_LENGTH - 2
PIECES = 1200
"""Token ids in all, the special ones included."""

_CUTS = (0.0, 0.1, 0.3)
"""Shares of the merges that a word which is split for training keeps: none leaves its characters."""
_SPLIT = 0.2
"""Share of the words that are split for training."""


def normal(text: str) -> str:
    """Lower case without accents; words of letters and digits, one space between them. Empty where there are none."""
    return str(_normalizer().normalize_str(text))


@cache
def _normalizer() -> normalizers.Normalizer:
    plain = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    return normalizers.Sequence([*plain, normalizers.Replace(Regex(r"[\W_]+"), " "), normalizers.Strip()])


@dataclass(frozen=True)
class Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) of words, and spaces as pieces of their own: a word in a compound has the pieces that it
    has alone. Any text has tokens; characters that training never saw are `UNKNOWN`.
    """

    json: str
    """As the library `tokenizers` writes it."""

    @classmethod
    def train(cls, phrases: Iterable[str]) -> Tokenizer:
        """The tokenizer that packs these phrases best; the same for the same phrases."""
        pieces = Pieces(models.BPE(unk_token=_SPECIAL[UNKNOWN], fuse_unk=True))
        pieces.normalizer = _normalizer()
        pieces.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
        letters = [*"abcdefghijklmnopqrstuvwxyz0123456789 "]
        pieces.train_from_iterator(
            phrases,
            trainers.BpeTrainer(vocab_size=PIECES, special_tokens=list(_SPECIAL), initial_alphabet=letters, show_progress=False),
        )
        return cls(pieces.to_str())

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Inverse of `to_json`.

        Raises
        ------
        SegmenterError: not a tokenizer.
        """
        tokenizer = cls(text)
        try:
            ids = [tokenizer._whole.token_to_id(token) for token in _SPECIAL]
        except Exception as error:  # the library raises nothing narrower
            raise _damaged(" ".join(str(error).split())) from error
        if ids != [PAD, START, END, UNKNOWN]:
            raise _damaged(f"one without {', '.join(_SPECIAL)} as its first tokens")
        return tokenizer

    def to_json(self) -> str:
        """All of it, for a weights folder."""
        return self.json

    @property
    def size(self) -> int:
        """Number of token ids, the special ones included."""
        return int(self._whole.get_vocab_size())

    def encode(self, prompts: Sequence[str], *, rng: np.random.Generator | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and their mask.

        Parameters
        ----------
        rng: splits some of the words into smaller pieces, down to characters, for training (as Kudo 2018 and Provilkov et al. 2020 do):
            what is learnt of words then reaches their parts. None: each word as it packs best.

        Returns
        -------
        ids: (P, 24) int64, padded with `PAD`.
        mask: (P, 24) int64, 1 where there is a token.

        Raises
        ------
        SegmenterError: a prompt without letters and digits, or one of more than 22 pieces.
        """
        ids = np.full((len(prompts), SEQUENCE_LENGTH), PAD, np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            tokens = [START, *self._pieces(prompt, rng), END]
            row[: len(tokens)] = tokens
        return ids, (ids != PAD).astype(np.int64)

    def fits(self, prompt: str) -> bool:
        """True for what `encode` takes."""
        return 1 <= len(self._whole.encode(prompt).ids) <= _MOST

    def _pieces(self, prompt: str, rng: np.random.Generator | None) -> list[int]:
        whole: list[int] = self._whole.encode(prompt).ids
        if not whole:
            raise SegmenterError("a prompt with a letter or digit", f"{prompt!r}", "Give the class a name in words.")
        if len(whole) > _MOST:
            came = f"{len(whole)} of {prompt[:80]!r}"
            raise SegmenterError(f"a prompt of at most {_MOST} word pieces", came, "Shorten the prompt: a few plain words do best.")
        if rng is None:
            return whole
        split = self._split(normal(prompt).split(" "), rng)
        return split if len(split) <= _MOST else whole

    def _split(self, words: Sequence[str], rng: np.random.Generator) -> list[int]:
        space = self._whole.token_to_id(" ") or UNKNOWN
        ids: list[int] = []
        for word in words:
            finer = rng.random() < _SPLIT
            pieces = self._finer[int(rng.integers(len(self._finer)))] if finer else self._whole
            ids += [*([space] if ids else []), *pieces.encode(word).ids]
        return ids

    @cached_property
    def _whole(self) -> Pieces:
        return Pieces.from_str(self.json)

    @cached_property
    def _finer(self) -> tuple[Pieces, ...]:
        """The same pieces, made by the first merges alone."""
        whole = json.loads(self.json)
        model = whole["model"]
        cut = [model["merges"][: int(share * len(model["merges"]))] for share in _CUTS]
        return tuple(Pieces.from_str(json.dumps(whole | {"model": model | {"merges": merges}})) for merges in cut)


def _damaged(came: str) -> SegmenterError:
    return SegmenterError("the tokenizer of a weights folder", came, "Copy the whole folder again.")
