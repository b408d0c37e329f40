"""Words that a model was not trained on: said while planning, and again where nothing was found by them.

A model that takes any text answers any word. One that was trained on few classes should score low for all else, and that says nothing
of the ground.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import SCORE_MAX, Class, ClassSet
from rs_pipeline.segmenter import ModelInfo


def describe_unfamiliar(info: ModelInfo, classes: ClassSet) -> list[str]:
    """A note that names the prompts the model was not trained on; none where it knows all, or where its training says nothing."""
    if info.trained_on is None:
        return []
    unknown = dict.fromkeys(prompt for c in classes for prompt in c.prompts if not _knows(info, prompt))
    if not unknown:
        return []
    return [f"{_names(tuple(unknown))}: {_trained(info)}, and what it makes of other words is a guess{_fuller(info)}"]


def describe_not_found(info: ModelInfo, classes: ClassSet, highest: NDArray[np.uint8]) -> list[str]:
    """A note for each class that no pixel reaches the threshold of, if the model was trained neither on its name nor on its prompts.

    Parameters
    ----------
    highest: (K,) uint8, highest score of each class over what was observed: 0…254 means 0…1.
    """
    if info.trained_on is None:
        return []
    return [
        f"nothing of {c.name!r} was found (highest score {score / SCORE_MAX:.2f}): {_trained(info)}{_fuller(info)}"
        for c, score in zip(classes, highest.tolist(), strict=True)
        if score < c.threshold * SCORE_MAX and not _is_familiar(info, c)
    ]


def _is_familiar(info: ModelInfo, wanted: Class) -> bool:
    return any(_knows(info, text) for text in (wanted.name, *wanted.prompts))


def _knows(info: ModelInfo, prompt: str) -> bool:
    """True where a prompt is, or ends in, what a class went by: the last noun says what a phrase is of."""
    words = _words(prompt)
    known = {_words(text) for text in (*(info.trained_on or ()), *info.trained_words)}
    return any(words[start:] in known for start in range(len(words)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _names(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))


def _trained(info: ModelInfo) -> str:
    return f"{info.name} was trained on {', '.join(info.trained_on or ())}"


def _fuller(info: ModelInfo) -> str:
    return f"; {info.fuller_model} takes any text" if info.fuller_model else ""
