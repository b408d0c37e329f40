"""The one error tree.

Every message says three things in one line: what was expected, what came, what to do. The command line prints
the line and leaves with `exit_code`; a traceback is for bugs only.
"""

from __future__ import annotations

from typing import ClassVar


class RsSegError(Exception):
    """Something the user can mend. Picklable, so it crosses process borders whole.

    Parameters
    ----------
    expected: what was needed, as a noun phrase.
    got: what came instead, with the offending value.
    fix: what to do about it, as a sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, expected: str, got: str, fix: str) -> None:
        super().__init__(expected, got, fix)
        self.expected = expected
        self.got = got
        self.fix = fix

    def __str__(self) -> str:
        return f"expected {self.expected}; got {self.got}. {self.fix}"


class UsageError(RsSegError):
    """A flag or argument that cannot be understood."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or `--set` that names an unknown key or holds a bad value."""


class NothingThereError(RsSegError):
    """All is well, and there is nothing to do: no scene, or no pixel of the area."""


class AoiError(RsSegError):
    """An area of interest that is missing, empty, or without a CRS."""


class OutsideError(AoiError, NothingThereError):
    """An area of interest that holds no pixel of any scene."""


class CatalogError(RsSegError):
    """A source or catalog that cannot be read."""


class NoSceneError(CatalogError, NothingThereError):
    """A catalog that holds no scene for the request."""


class RasterError(RsSegError):
    """An image that cannot be read as the run needs it."""


class BlankError(RasterError, NothingThereError):
    """An image without a valid pixel."""


class SegmenterError(RsSegError):
    """A model that is unknown, cannot be loaded, or does not know a word."""


class ClusterError(RsSegError):
    """Workers that cannot be reached or that died."""


class StoreError(RsSegError):
    """A tile store that cannot be written or read back."""


class OutputError(RsSegError):
    """A run folder that cannot be written."""


class TrainingError(RsSegError):
    """A training run that cannot start or go on."""
