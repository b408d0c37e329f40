"""State of an adaptation on disk: written aside and renamed, so that a killed one leaves the last whole one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rs_pipeline.errors import OutputError, TrainingError

Tensors = dict[str, Tensor]


@dataclass(slots=True)
class State:
    """What an adaptation needs to go on as if it had not stopped."""

    made_by: dict[str, Any]
    """Base, classes, settings and digest of the tiles, JSON form."""
    step: int
    """Steps done."""
    own: Tensors
    """The parameters."""
    teacher: Tensors
    """Their moving average."""
    best: Tensors
    """The average where it was most consistent."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    """A row per check: step, consistency, and under `loss.NAME` the mean of each loss since the check before."""

    @property
    def before(self) -> float:
        """Consistency of the unadapted model."""
        return self.history[0]["consistency"]

    @property
    def best_row(self) -> dict[str, float]:
        """The check of the most consistent adapter; of equal ones the first."""
        return max(self.history[1:], key=lambda row: row["consistency"], default=self.history[0])


def write_state(path: Path, state: State) -> None:
    """Puts a checkpoint in the place of the last one.

    Raises
    ------
    OutputError: it cannot be written; the last one stays.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            torch.save({name: getattr(state, name) for name in State.__slots__}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer has an error of its own for a full disk
        aside.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise OutputError("a place for the checkpoint", f"{path} ({reason})", "Check permissions and disk space.") from error


def read_state(path: Path, made_by: dict[str, Any], device: torch.device) -> State | None:
    """The last state, or None where there is none.

    Raises
    ------
    TrainingError: a checkpoint that is damaged, or of another base, other classes, settings or tiles.
    """
    if not path.is_file():
        return None
    fix = "Give another --out, or delete it."
    try:
        state = State(**torch.load(path, map_location=device, weights_only=True))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError("a whole checkpoint", f"{path} ({reason[:120]})", fix) from error
    if state.made_by != made_by:
        other = ", ".join(key for key in made_by if state.made_by.get(key) != made_by[key])
        raise TrainingError("a checkpoint of this adaptation", f"{path}, of another: {other}", fix)
    return state
