"""Where tiles are kept: a folder that this machine sees, or a prefix of an object store (`remote_place`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.errors import StoreError
from rs_pipeline.locks import hold, is_held


class Place(Protocol):
    """Files by name, `/` between folders; each is whole or not there. All methods raise `StoreError` where the place fails."""

    @property
    def where(self) -> str:
        """Absolute path, or URL."""
        ...

    @property
    def name(self) -> str:
        """Last part of `where`."""
        ...

    @property
    def has_locks(self) -> bool:
        """False where `hold` holds nobody off."""
        ...

    def at(self, name: str) -> Place:
        """A folder of this one."""
        ...

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Put a file of these parts under a name, in the place of what was there."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        ...

    def load(self, name: str) -> NDArray[np.uint8] | None:
        """The array of an `.npy` file, mapped where that can be; None where there is none."""
        ...

    def names(self) -> Iterator[str]:
        """Every file below, also the half-written."""
        ...

    def folders(self) -> list[str]:
        """Names of the folders directly below, sorted."""
        ...

    def size(self) -> int:
        """Bytes of everything below."""
        ...

    def remove(self, name: str = "") -> None:
        """Take away a file, a folder with all that is in it, or this place itself."""
        ...

    def remove_empty(self) -> None:
        """Take away this place if nothing is in it, whatever others put there meanwhile."""
        ...

    def hold(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Keep others off while the block runs, or those who want it alone; the place is made if need be.

        Raises
        ------
        BlockingIOError: another process holds it.
        """
        ...

    def is_held(self) -> bool:
        """True where a process holds it."""
        ...


def open_place(where: str | Path) -> Place:
    """The place of a path or a URL that fsspec knows; nothing is made or looked for yet.

    Raises
    ------
    StoreError: a URL that nothing installed can read.
    """
    text = str(where)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return LocalPlace(Path(text).absolute())
    from rs_pipeline.remote_place import connect

    return connect(text)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder: files are written aside, synced and renamed in."""

    folder: Path
    has_locks = True

    @property
    def where(self) -> str:
        """The path."""
        return str(self.folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def at(self, name: str) -> LocalPlace:
        """See `Place`."""
        return LocalPlace(self.folder / name)

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """See `Place`; the file is on the disk when this returns."""
        path = self.folder / name
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise no_room(str(path), error) from error

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        path = self.folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(str(path), error) from error

    def load(self, name: str) -> NDArray[np.uint8] | None:
        """See `Place`: a memory map."""
        path = self.folder / name
        try:
            array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(str(path), error) from error
        except (ValueError, EOFError) as error:
            raise damaged(str(path), error) from error
        return array

    def names(self) -> Iterator[str]:
        """See `Place`."""
        for parent, _, files in os.walk(self.folder):
            below = Path(parent).relative_to(self.folder).as_posix()
            yield from (files if below == "." else (f"{below}/{file}" for file in files))

    def folders(self) -> list[str]:
        """See `Place`."""
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(self.where, error) from error

    def size(self) -> int:
        """See `Place`."""
        total = 0
        for name in self.names():
            with suppress(FileNotFoundError):  # a run at work renames and removes
                total += (self.folder / name).stat().st_size
        return total

    def remove(self, name: str = "") -> None:
        """See `Place`."""
        path = self.folder / name
        if path.is_symlink():
            return  # the user's way of putting a store elsewhere
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError("a tile store that can be removed", f"{path} ({error})", "Check permissions.") from error

    def remove_empty(self) -> None:
        """See `Place`."""
        with suppress(OSError):  # the system looks and removes in one step
            self.folder.rmdir()

    @contextmanager
    def hold(self, *, shared: bool = False) -> Iterator[None]:
        """See `Place`."""
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold(self.folder / "lock", shared=shared))
            except BlockingIOError:
                raise
            except OSError as error:
                fix = "Check permissions and disk space."
                raise StoreError("a tile store that can be written", f"{self.folder} ({error})", fix) from error
            yield

    def is_held(self) -> bool:
        """See `Place`."""
        return is_held(self.folder / "lock")


def no_room(where: str, error: Exception) -> StoreError:
    """The error for a file that cannot be written."""
    fix = "Free disk space or mend permissions, and run again: what is done stays."
    return StoreError("room to keep a tile", f"{where} ({error})", fix)


def unreadable(where: str, error: Exception) -> StoreError:
    """The error for a place that does not let itself be read."""
    return StoreError("a tile store that can be read", f"{where} ({error})", "Check permissions, and run again: what is done stays.")


def damaged(where: str, error: Exception) -> StoreError:
    """The error for a file that is not what was written."""
    return StoreError("a tile as it was written", f"{where} ({error})", "Delete it and run again.")
