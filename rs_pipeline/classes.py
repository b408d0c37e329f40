"""What a run looks for: the classes, in the order asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

BACKGROUND = 0
"""Label of a pixel that was seen and belongs to no class."""
NOT_OBSERVED = 255
"""Label, and uint8 score, of a pixel that was not seen."""
MAX_CLASSES = 254
SCORE_MAX = 254
"""uint8 score that means 1.0."""


@dataclass(frozen=True, slots=True)
class Class:
    """One thing to look for."""

    value: int
    """Value in the label raster, 1…254."""
    name: str
    """Layer name and legend entry."""
    prompts: tuple[str, ...]
    """Words the segmenter is asked for; a class is as likely as its likeliest word (METHODS.md section 0)."""
    colour: tuple[int, int, int]
    """RGB, 0…255 each."""
    threshold: float
    """Least probability, 0…1, for a pixel to belong to the class."""

    def __post_init__(self) -> None:
        if not BACKGROUND < self.value < NOT_OBSERVED:
            raise ValueError(f"a class value is 1…254, got {self.value}")
        if not self.prompts:
            raise ValueError(f"class {self.name!r} has no prompt")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"a threshold is 0…1, got {self.threshold} for class {self.name!r}")


@dataclass(frozen=True, slots=True)
class ClassSet:
    """The classes of a run, in the order asked: values are 1…N."""

    classes: tuple[Class, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"a run has 1…{MAX_CLASSES} classes, got {len(self.classes)}")
        if [c.value for c in self.classes] != list(range(1, len(self.classes) + 1)):
            raise ValueError("class values count from 1 in order")

    def __iter__(self) -> Iterator[Class]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in value order."""
        return tuple(c.name for c in self.classes)

    def at_threshold(self, threshold: float) -> ClassSet:
        """The same classes, all with one threshold, 0…1."""
        return ClassSet(tuple(replace(c, threshold=threshold) for c in self.classes))

    def to_list(self) -> list[dict[str, Any]]:
        """JSON-ready form; `from_list` gives the set back."""
        return [asdict(c) for c in self.classes]

    @classmethod
    def from_list(cls, data: list[dict[str, Any]]) -> ClassSet:
        """Inverse of `to_list`."""
        return cls(
            tuple(
                Class(d["value"], d["name"], tuple(d["prompts"]), (d["colour"][0], d["colour"][1], d["colour"][2]), d["threshold"])
                for d in data
            )
        )
