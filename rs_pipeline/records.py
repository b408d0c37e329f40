"""What a store knows of the runs that use it: who they were for, and whether they ended."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Self

from rs_pipeline.errors import StoreError
from rs_pipeline.groups import Work
from rs_pipeline.places import Place

_FOLDER = "runs"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a store."""

    run_key: str
    out: str
    """Run folder, absolute."""
    classes: tuple[str, ...]
    planned: int
    """Tiles."""
    groups: tuple[str, ...]
    """Folders of the tiles it needs."""
    started: str
    finished: str | None = None

    @classmethod
    def of(cls, work: Work, run_key: str, out: str) -> Self:
        """The record of a run that begins now."""
        return cls(run_key, out, work.job.classes.names, work.job.plan.count(), work.groups, _now())

    @property
    def name(self) -> str:
        """Its file: one for each run and place that it goes to."""
        return f"{hashlib.sha256(f'{self.run_key} {self.out}'.encode()).hexdigest()[:16]}.json"

    def write(self, base: Place) -> None:
        """Put it into the store. What a killed process had begun of it goes: a run folder has one run at a time.

        Raises
        ------
        StoreError: the store cannot be written.
        """
        folder = base.at(_FOLDER)
        for half_written in [name for name in folder.names() if name.startswith(f".{self.name}.")]:
            folder.remove(half_written)
        folder.write(self.name, json.dumps(asdict(self), indent=1).encode())

    def remove(self, base: Place) -> None:
        """Take it out of the store.

        Raises
        ------
        StoreError: the store cannot be written.
        """
        base.at(_FOLDER).remove(self.name)

    def ended(self) -> Self:
        """The record of the same run, finished now."""
        return replace(self, finished=_now())


def read_records(base: Place) -> list[RunRecord]:
    """The runs that used a store, in the order they began.

    Raises
    ------
    StoreError: the store cannot be read.
    """
    folder = base.at(_FOLDER)
    texts = [folder.read(name) for name in folder.names() if name.endswith(".json")]
    try:
        facts = [json.loads(text) for text in texts if text is not None]
        records = [RunRecord(**{**f, "classes": tuple(f["classes"]), "groups": tuple(f["groups"])}) for f in facts]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            "records of runs", f"{folder.where} ({error})", "Remove the damaged file: it only says who used the tiles."
        ) from error
    return sorted(records, key=lambda record: (record.started, record.out))


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
