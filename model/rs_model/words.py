"""Words and their numbers: the vocabulary of the small models, and prompts as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.errors import SegmenterError

SYNONYMS: dict[str, tuple[str, ...]] = {
    "building": ("building", "buildings", "house", "houses", "roof", "roofs", "rooftop", "warehouse", "built structure"),
    "land": ("land", "bare land", "bare ground", "ground", "bare soil", "soil", "sand", "desert", "earth", "barren land"),
    "road": ("road", "roads", "street", "streets", "highway", "highways", "paved road", "asphalt", "motorway", "track", "path"),
    "vegetation": ("vegetation", "tree", "trees", "grass", "forest", "plants", "bushes", "green area", "park", "woodland", "bush", "shrub"),
    "water": ("water", "river", "rivers", "lake", "lakes", "pond", "ponds", "sea", "canal", "water body"),
}
"""What each training class may be called. The order of the classes is the order of `labels.CLASSES`."""

PAD, START, END = 0, 1, 2
SEQUENCE_LENGTH = 8
"""Tokens per prompt: a start, up to six words, an end."""


def known_words() -> tuple[str, ...]:
    """Every word of `SYNONYMS`, sorted, each once."""
    return tuple(sorted({word for phrases in SYNONYMS.values() for phrase in phrases for word in phrase.split()}))


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """One token per word."""

    vocabulary: tuple[str, ...]
    """Words in the order of their ids, which begin after `END`."""

    @property
    def size(self) -> int:
        """Number of token ids, the three special ones included."""
        return len(self.vocabulary) + 3

    def encode(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and their mask.

        Returns
        -------
        ids: (P, 8) int64, padded with `PAD`.
        mask: (P, 8) int64, 1 where there is a token.

        Raises
        ------
        SegmenterError: an empty prompt, one of more than six words, or an unknown word.
        """
        ids = np.full((len(prompts), SEQUENCE_LENGTH), PAD, np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            tokens = [START, *self._words(prompt), END]
            row[: len(tokens)] = tokens
        return ids, (ids != PAD).astype(np.int64)

    def _words(self, prompt: str) -> list[int]:
        words = prompt.lower().split()
        if not 1 <= len(words) <= SEQUENCE_LENGTH - 2:
            raise SegmenterError(f"a prompt of 1…{SEQUENCE_LENGTH - 2} words", f"{prompt!r}", "Shorten the prompt.")
        number = {word: i for i, word in enumerate(self.vocabulary, start=END + 1)}
        unknown = [word for word in words if word not in number]
        if unknown:
            raise SegmenterError(f"words among {', '.join(self.vocabulary)}", ", ".join(map(repr, unknown)), "Choose another word.")
        return [number[word] for word in words]
