"""A `Reporter` that draws on the terminal's stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _SpeedColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "")


class TerminalReporter:
    """Progress bars with speed and time left; notes above them."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, emoji=False)
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _SpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int) -> None:
        """A new bar, in the place of those of a run before."""
        if any(task.description == name for task in self._progress.tasks):
            for task in self._progress.task_ids:
                self._progress.remove_task(task)
        self._progress.add_task(name, total=total)

    def advance(self, steps: int) -> None:
        """Move the present bar."""
        self._progress.advance(self._progress.task_ids[-1], steps)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)
