"""How a run tells what it does, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Listens to a run."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` steps begins."""
        ...

    def advance(self, steps: int) -> None:
        """Steps of the present stage were done."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know."""
        ...


class Silent:
    """A reporter that keeps quiet."""

    def stage(self, name: str, total: int) -> None:
        """Ignored."""

    def advance(self, steps: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
