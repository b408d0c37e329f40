"""What became of the items of an archive: a table beside its runs, written after each item is published."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from rs_pipeline.errors import OutputError

Status = Literal["begun", "done", "partial", "outside", "failed"]
"""`begun`: a process is at it, or died over it. `partial`: published, some tiles failed. `outside`: there is no pixel of the area."""
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    """One version of an item, under one set of settings."""

    item: str
    """Collection and id, as they are in its path."""
    version: str
    """Changes when the item's image changes."""
    settings: str
    """Changes when anything changes that decides the products."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of an item."""

    item: str
    version: str
    settings: str
    status: Status
    attempts: int
    """Times it failed, or killed its process, for reasons of its own."""
    finished: str
    """ISO 8601, UTC."""
    seconds: float
    out: str
    """Run folder."""
    run_key: str | None
    """Of the run that was published there."""
    product: str | None
    """Id of its item in the catalog of products."""
    error: str | None

    @property
    def key(self) -> Key:
        """What it is entered under."""
        return Key(self.item, self.version, self.settings)


_COLUMNS = tuple(field.name for field in fields(Row))
_TABLE = """
create table if not exists items (
    item text not null, version text not null, settings text not null,
    status text not null, attempts integer not null, finished text not null, seconds real not null,
    out text not null, run_key text, product text, error text,
    primary key (item, version, settings)
)
"""


class Ledger:
    """A SQLite file; several processes of one host may write it at once.

    It can be lost: items whose run folders are there are found finished when they come up again, and nothing is computed twice.

    Parameters
    ----------
    path: of the file, made with its folder when something is entered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def enter(self, row: Row) -> None:
        """Write what became of an item; on the disk when this returns.

        Raises
        ------
        OutputError: the file cannot be written, or is none of ours.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        with self._open() as connection, connection:
            values = tuple(getattr(row, name) for name in _COLUMNS)
            connection.execute(f"insert or replace into items ({', '.join(_COLUMNS)}) values ({marks})", values)  # noqa: S608 - our own names

    def forget(self, key: Key) -> None:
        """Take an item out.

        Raises
        ------
        OutputError: as `enter`.
        """
        with self._open() as connection, connection:
            connection.execute("delete from items where item = ? and version = ? and settings = ?", (key.item, key.version, key.settings))

    def find(self, key: Key) -> Row | None:
        """What became of one item, None where it was never tried.

        Raises
        ------
        OutputError: the file cannot be read.
        """
        return next(iter(self._select("where item = ? and version = ? and settings = ?", key)), None)

    def rows(self) -> dict[Key, Row]:
        """All of them.

        Raises
        ------
        OutputError: the file cannot be read.
        """
        return {row.key: row for row in self._select("", None)}

    def _select(self, condition: str, key: Key | None) -> list[Row]:
        if not self.path.exists():
            return []
        with self._open() as connection:
            wanted = (key.item, key.version, key.settings) if key is not None else ()
            found = connection.execute(f"select {', '.join(_COLUMNS)} from items {condition}", wanted)  # noqa: S608 - our own names
            return [Row(*values) for values in found]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_TIMEOUT_S)) as connection:
                connection.execute(_TABLE)
                yield connection
        except (sqlite3.Error, OSError) as error:
            fix = "Free disk space, mend permissions, or move the file away: it is made anew from the run folders."
            raise OutputError("a table of finished items", f"{self.path} ({error})", fix) from error
