"""What an archive keeps beside its runs: the table of items, claims, and the adapters that were tried."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rs_pipeline.errors import OutputError

BOOKS = ".archive"
"""Folder below the archive's outputs."""
_ADAPTERS, _CURRENT, _HISTORY, _HELD_OUT = "adapters", "current.json", "history.jsonl", "held-out.json"


class AdapterBooks:
    """The adapters of an archive: each trial's file, which one is current, and what became of every trial.

    Parameters
    ----------
    outputs: folder of the archive's runs.
    """

    def __init__(self, outputs: Path) -> None:
        self.folder = outputs / BOOKS / _ADAPTERS

    def current(self) -> dict[str, Any] | None:
        """The entry of the adapter that was promoted last, None before the first.

        Raises
        ------
        OutputError: the book is damaged.
        """
        found: dict[str, Any] | None = self._read(_CURRENT)
        return found

    def history(self) -> list[dict[str, Any]]:
        """Every trial, oldest first.

        Raises
        ------
        OutputError: the book is damaged.
        """
        path = self.folder / _HISTORY
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error

    def held_out(self) -> list[str] | None:
        """Names of the items that adapters are compared on; None before the first trial."""
        found: list[str] | None = self._read(_HELD_OUT)
        return found

    def keep_held_out(self, names: list[str]) -> None:
        """From now on these."""
        self._write(_HELD_OUT, json.dumps(names))

    def enter(self, trial: dict[str, Any]) -> None:
        """A trial, promoted where its `promoted` is true; in the history first, so that no later one is called as it is."""
        lines = [json.dumps(entry) for entry in (*self.history(), trial)]
        self._write(_HISTORY, "\n".join(lines) + "\n")
        if trial["promoted"]:
            self._write(_CURRENT, json.dumps(trial))

    def _read(self, name: str) -> Any:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        aside = path.with_name(f".{name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            raise OutputError(
                "a folder for the archive's adapters", f"{self.folder} ({error})", "Check permissions and disk space."
            ) from error


def current_adapter(outputs: Path) -> str | None:
    """Path of the adapter that runs of an archive are to wear; None where none was promoted yet.

    Raises
    ------
    OutputError: the book is damaged.
    """
    found = AdapterBooks(outputs).current()
    return str(found["adapter"]) if found is not None else None


def _damaged(path: Path, error: Exception) -> OutputError:
    return OutputError("a readable book of adapters", f"{path} ({error})", "Mend or delete it; adapters beside it stay.")
