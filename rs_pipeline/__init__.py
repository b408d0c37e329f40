"""Area of interest and class names in, georeferenced class layers out."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rs_pipeline.api import open_products, open_run, segment

__all__ = ["open_products", "open_run", "segment"]
__version__ = "0.1.0"

# Warnings of a library without a handler would go to stderr; who wants them listens.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """The functions of `rs_pipeline.api`, imported at their first use: the command line must start at once."""
    if name in __all__:
        return getattr(importlib.import_module("rs_pipeline.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
