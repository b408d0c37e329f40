"""Phrases for training: what `phrases.yaml` holds, and what can be composed of it. Held-out phrases never come up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from rs_model.pieces import Tokenizer, normal
from rs_model.words import SYNONYMS

OTHER = "other"
"""What is none of the classes."""

_ONSETS: tuple[str, ...] = ("b", "bl", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p")
_ONSETS += ("pl", "pr", "qu", "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z", "")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oo", "ou", "y")
_CODAS = ("", "", "", "b", "ck", "d", "g", "l", "m", "n", "nd", "ng", "p", "r", "rt", "s", "st", "t", "x", "m")


@dataclass(frozen=True)
class Kind:
    """What is known of the words of one class, or of `OTHER`."""

    nouns: tuple[str, ...]
    """With plurals."""
    adjectives: tuple[str, ...]
    """That give the class away."""
    held_out: Mapping[str, tuple[str, ...]]
    """By the kinds that `phrases.yaml` explains."""


@dataclass(frozen=True)
class Language:
    """`phrases.yaml`, read."""

    kinds: Mapping[str, Kind]
    """By class, and `OTHER`."""
    qualifiers: tuple[str, ...]
    prefixes: tuple[str, ...]
    endings: tuple[str, ...]
    templates: tuple[str, ...]
    relations: tuple[str, ...]

    def texts(self) -> list[str]:
        """Every phrase that training is composed of, once, frames with nothing in them."""
        return [*(text for kind in self.kinds.values() for text in (*kind.nouns, *kind.adjectives)), *self.frames()]

    def frames(self) -> list[str]:
        """What goes around a noun of any kind."""
        around = [*self.templates, *self.relations]
        return [*self.qualifiers, *self.prefixes, *self.endings, *(frame.replace("{}", " ") for frame in around)]

    def withheld(self) -> list[str]:
        """Every held-out phrase."""
        return [phrase for kind in self.kinds.values() for phrases in kind.held_out.values() for phrase in phrases]


@cache
def language() -> Language:
    """What the package's `phrases.yaml` holds."""
    data: dict[str, Any] = yaml.safe_load((files("rs_model") / "phrases.yaml").read_text(encoding="utf-8"))
    kinds = {name: _read_kind(data["classes"][name], SYNONYMS[name]) for name in SYNONYMS}
    kinds[OTHER] = _read_kind({"nouns": data["other"]["concepts"], "held_out": data["other"]["held_out"]}, ())
    return Language(kinds, *(tuple(data[name]) for name in ("qualifiers", "prefixes", "endings", "templates", "relations")))


def _read_kind(data: Mapping[str, Any], synonyms: Sequence[str]) -> Kind:
    counted = data["nouns"]
    nouns = dict.fromkeys((*synonyms, *counted, *map(plural, counted), *data.get("mass", ())))
    return Kind(tuple(nouns), tuple(data.get("adjectives", ())), {name: tuple(phrases) for name, phrases in data["held_out"].items()})


def plural(noun: str) -> str:
    """The plural of a noun, by rule; of several words the last has it, but before "of" and "in": patches of soil."""
    for joint in (" of ", " in ", " with ", " to "):
        head, found, rest = noun.partition(joint)
        if found:
            return f"{plural(head)}{found}{rest}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def class_nouns() -> tuple[str, ...]:
    """Every noun that a class goes by in training, sorted; those that end in another one are left out, as "apartment building" is."""
    nouns = {normal(noun) for name in SYNONYMS for noun in language().kinds[name].nouns}
    return tuple(sorted(noun for noun in nouns if not any(rest in nouns for rest in _tails(noun))))


def _tails(noun: str) -> list[str]:
    words = noun.split()
    return [" ".join(words[start:]) for start in range(1, len(words))]


@cache
def build_tokenizer() -> Tokenizer:
    """The tokenizer of these phrases. What classes are called counts twice and what phrases are made with more, as that should be whole
    before concepts are.
    """
    named = [noun for name in SYNONYMS for noun in language().kinds[name].nouns]
    return Tokenizer.train([*language().texts(), *named, *language().frames() * 5])


def training_phrase(name: str, rng: np.random.Generator) -> str:
    """A phrase for a class: its own name half of the time, what it is called most often a quarter, else something composed."""
    lot = rng.random()
    if lot < 0.5:
        return name
    return _pick(SYNONYMS[name], rng) if lot < 0.75 else composed_phrase(name, rng)


def composed_phrase(name: str, rng: np.random.Generator) -> str:
    """A phrase for a class, of any of its nouns."""
    return _allowed(lambda: _framed(_class_phrase(name, rng), rng))


def other_phrase(rng: np.random.Generator) -> str:
    """A phrase for what is none of the classes: a concept, or a word that nobody knows."""
    return _allowed(lambda: _framed(_foreign_phrase(rng), rng))


def _class_phrase(name: str, rng: np.random.Generator) -> str:
    """The noun decides, being last; where nobody knows it, what is said of it does."""
    kind = language().kinds[name]
    noun, lot = _pick(kind.nouns, rng), rng.random()
    if lot < 0.25:
        return noun
    if lot < 0.43:
        return _qualified(noun, kind.adjectives, rng)
    if lot < 0.58:
        return f"{_pick(kind.adjectives, rng)} {pseudo_word(rng)}"
    if lot < 0.72:
        return _compound(name, rng)
    if lot < 0.90:
        return f"{_stranger(rng)} {noun}"
    return _pick(language().relations, rng).format(noun, _anything(rng))


def _compound(name: str, rng: np.random.Generator) -> str:
    """A word of a class with another one before it, or an ending after it: compounds and derivations that nobody wrote down."""
    kind, lot = language().kinds[name], rng.random()
    noun = _pick([noun for noun in kind.nouns if " " not in noun], rng)
    if lot < 0.4:
        return noun + _pick(language().endings, rng)
    if lot < 0.5:
        return pseudo_word(rng) + noun
    return _pick(language().prefixes if lot < 0.8 else kind.adjectives, rng) + noun


def _foreign_phrase(rng: np.random.Generator) -> str:
    """Of a concept or a word that nobody knows, whatever class is named with it."""
    kinds = language().kinds
    concept, lot = _pick(kinds[OTHER].nouns, rng), rng.random()
    if lot < 0.35:
        phrase = concept
    elif lot < 0.50:
        phrase = _qualified(concept, (), rng)
    elif lot < 0.72:
        phrase = pseudo_word(rng)
    elif lot < 0.82:
        phrase = _qualified(pseudo_word(rng), (), rng)
    else:
        named = kinds[_pick(tuple(SYNONYMS), rng)]
        if lot < 0.84:
            phrase = f"{_pick(named.adjectives, rng)} {concept}"
        elif lot < 0.92:
            phrase = f"{_pick(named.nouns, rng)} {concept}"
        else:
            phrase = _pick(language().relations, rng).format(concept, _anything(rng))
    return phrase


def _qualified(noun: str, adjectives: Sequence[str], rng: np.random.Generator) -> str:
    """One or two words before a noun."""
    count = 1 + int(rng.random() < 0.25)
    choice = [adjectives if adjectives and rng.random() < 0.5 else language().qualifiers for _ in range(count)]
    return " ".join([*(_pick(words, rng) for words in choice), noun])


def _framed(phrase: str, rng: np.random.Generator) -> str:
    return _pick(language().templates, rng).format(phrase) if rng.random() < 0.3 else phrase


def _stranger(rng: np.random.Generator) -> str:
    """A concept or a word that nobody knows."""
    return pseudo_word(rng) if rng.random() < 0.6 else _pick(language().kinds[OTHER].nouns, rng)


def _anything(rng: np.random.Generator) -> str:
    kinds = language().kinds
    return _pick(kinds[_pick(tuple(kinds), rng)].nouns, rng)


def pseudo_word(rng: np.random.Generator) -> str:
    """A word that nobody knows: one to three random syllables, or the beginning of one concept and the end of another."""
    if rng.random() < 0.5:
        count = int(rng.integers(1, 4))
        return "".join(_pick(_ONSETS, rng) + _pick(_VOWELS, rng) + _pick(_CODAS, rng) for _ in range(count))
    first, last = (_pick(language().kinds[OTHER].nouns, rng).replace(" ", "") for _ in range(2))
    return first[: (len(first) + 1) // 2] + last[len(last) // 2 :]


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _allowed(make: Callable[[], str]) -> str:
    """What is made, again until it holds nothing that is held out and fits a prompt."""
    while _is_withheld(phrase := make()) or not build_tokenizer().fits(phrase):
        pass
    return phrase


def _is_withheld(phrase: str) -> bool:
    words, phrases = _withheld()
    text = normal(phrase)
    return not words.isdisjoint(text.split()) or any(f" {held} " in f" {text} " for held in phrases)


@cache
def _withheld() -> tuple[frozenset[str], tuple[str, ...]]:
    """Words that held-out phrases alone have, and the phrases."""
    phrases = tuple(map(normal, language().withheld()))
    known = {word for text in language().texts() for word in normal(text).split()}
    return frozenset(word for phrase in phrases for word in phrase.split() if word not in known), phrases
