"""Training state on disk: written aside and renamed, so that a killed run leaves the last whole one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rs_pipeline.errors import TrainingError

NAME = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class State:
    """What a run needs to go on as if it had not stopped."""

    phase: int
    """Index into the recipe's phases."""
    step: int
    """Steps done of it."""
    model: dict[str, Any]
    average: dict[str, Any]
    """Moving average of the weights: what is shipped."""
    optimizer: dict[str, Any]
    recipe: dict[str, Any]
    """The recipe that made it, JSON form."""
    data_sha256: str
    began: dict[str, Any] = field(default_factory=dict)
    """The weights at the phase's first step, where something goes back to them."""


def write_state(folder: Path, state: State) -> None:
    """Puts `checkpoint.pt` in place of the last one."""
    aside = folder / f".{NAME}.{os.getpid()}"
    with aside.open("wb") as file:
        torch.save({name: getattr(state, name) for name in State.__slots__}, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / NAME)


def read_state(folder: Path) -> State | None:
    """The last state, or None where there is none.

    Raises
    ------
    TrainingError: a checkpoint that is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return State(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError("a whole checkpoint", f"{path} ({reason[:120]})", "Delete it and train again, without --resume.") from error
