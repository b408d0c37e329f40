"""What callers from Python give: paths, areas and names in the forms that come to hand, as the settings take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from rs_pipeline.errors import UsageError

Area = str | Path | Sequence[float]
"""A vector file, or minx, miny, maxx, maxy in degrees."""


def as_path(given: str | PathLike[str], name: str) -> Path:
    """A path, whether it comes as one or as text.

    Parameters
    ----------
    name: of the argument, for the error.

    Raises
    ------
    UsageError: it is neither.
    """
    if not isinstance(given, str | PathLike):
        raise UsageError(f"{name}: a path, as str or Path", described(given), "Give one.")
    return Path(given)


def as_names(given: str | Sequence[str], name: str) -> tuple[str, ...]:
    """Names, in a sequence or separated by commas.

    Raises
    ------
    UsageError: it is neither.
    """
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(",") if part.strip())
    if not _is_series(given) or not all(isinstance(part, str) for part in given):
        raise UsageError(f"{name}: names, in a sequence or separated by commas", described(given), f"Give {name}=['road', 'water'], say.")
    return tuple(given)


def as_paths(given: str | Path | Sequence[str | Path], name: str) -> tuple[str, ...]:
    """Paths or URLs, one or a sequence of them, as text.

    Raises
    ------
    UsageError: it is neither.
    """
    if isinstance(given, str | PathLike):
        return (str(given),)
    if not _is_series(given) or not all(isinstance(part, str | PathLike) for part in given):
        raise UsageError(f"{name}: a path or URL, or a sequence of them", described(given), "Give them as str or Path.")
    return tuple(map(str, given))


def as_area(given: Area) -> str:
    """An area as `--aoi` takes it.

    Raises
    ------
    UsageError: neither a path nor four numbers.
    """
    if isinstance(given, str | PathLike):
        return str(given)
    try:
        numbers = [float(number) for number in given] if _is_series(given) else []
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4:
        fix = "Give the numbers, or write the geometry into a file, with its CRS, and give its path."
        raise UsageError("aoi: a vector file, or minx, miny, maxx, maxy in degrees", described(given), fix)
    return ",".join(map(repr, numbers))


def plain(given: Any) -> Any:
    """A setting with its paths as text, in mappings and sequences, too."""
    if isinstance(given, PathLike):
        return str(given)
    if isinstance(given, Mapping):
        return {key: plain(value) for key, value in given.items()}
    return type(given)(plain(value) for value in given) if type(given) in {list, tuple} else given


def described(given: object) -> str:
    """A value and its type, on one short line."""
    text = " ".join(repr(given).split())
    return f"{text[:60]}{'…' if len(text) > 60 else ''} ({type(given).__name__})"


def _is_series(given: object) -> bool:
    """A sequence, or an array as numpy's, whose order means something."""
    return isinstance(given, Sequence) or (hasattr(given, "__len__") and hasattr(given, "tolist"))
