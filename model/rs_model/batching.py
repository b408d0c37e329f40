"""Batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class Batches:
    """Runs work on ranges of items; a range that does not fit into memory is halved, and stays halved from then on."""

    def __init__(self, most: int | None) -> None:
        self.size = most
        """Items at once; None is all of them."""

    def run(self, work: Callable[[slice], T], count: int) -> list[T]:
        """Results of `work` over 0…count in order.

        Raises
        ------
        torch.OutOfMemoryError, RuntimeError: a single item does not fit.
        """
        results: list[T] = []
        start = 0
        while start < count:
            stop = min(start + (self.size or count), count)
            try:
                results.append(work(slice(start, stop)))
            except RuntimeError as error:
                if stop - start == 1 or not _is_out_of_memory(error):
                    raise
                self.size = (stop - start) // 2
            else:
                start = stop
                continue
            # After the handler, so that the error's traceback no longer holds the tensors that did not fit.
            torch.cuda.empty_cache()
        return results


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA says it by type; the CPU's allocator by its words alone."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
