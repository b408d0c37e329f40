"""A plane graph of many vertices as chains between its ends and crossings, and without its short branches: pure.

Vertices and edges are arrays; Python objects are made per chain, none per vertex.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray


def chains(edges: NDArray[np.int64], fixed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part a graph into chains: paths that begin and end at vertices of other degree than 2, or fixed ones, and pass none.

    A chain begins at its lower end, a ring without a crossing at its lowest vertex, and goes to the lower neighbour first: the order of
    the edges does not matter.

    Parameters
    ----------
    edges: (edges, 2), pairs of vertices, each once.
    fixed: (vertices,), no chain passes these.

    Returns
    -------
    The vertices of all chains, one after the other, and where in there each chain begins.
    """
    ends = np.concatenate([edges, edges[:, ::-1]])
    ends = ends[np.lexsort(ends.T[::-1])]
    degree = np.bincount(ends[:, 0], minlength=len(fixed))
    passed = (degree == 2) & ~fixed
    path, starts = array("q"), array("q")
    passing = bytearray(passed)
    both = array("q", np.bincount(ends[:, 0], weights=ends[:, 1], minlength=len(fixed)).astype(np.int64).tobytes())

    def walk(start: int, step: int) -> None:
        begin, last, here = len(path), start, step
        path.append(start)
        while passing[here] and here != start:
            path.append(here)
            last, here = here, both[here] - last  # the sum of two neighbours gives the one from the other
        path.append(here)
        if (here, last) < (start, step):  # the same chain, from its other end
            del path[begin:]
        else:
            starts.append(begin)

    for start, step in ends[~passed[ends[:, 0]]].tolist():
        walk(start, step)
    in_rings = passed.copy()
    in_rings[np.asarray(path, np.int64)] = False
    first = np.searchsorted(ends[:, 0], np.arange(len(fixed)))
    for start in np.flatnonzero(in_rings).tolist():
        if passing[start]:
            begin = len(path)
            walk(start, int(ends[first[start], 1]))
            for vertex in path[begin:]:
                passing[vertex] = 0
    return np.asarray(path, np.int64), np.asarray(starts, np.int64)


def prune(
    points: NDArray[np.float64], edges: NDArray[np.int64], limit_m: NDArray[np.float64], fixed: NDArray[np.bool_], grain_m: float
) -> NDArray[np.int64]:
    """Cut off short branches, shortest first: what stays at a crossing is the longer way on. Gives the edges that stay.

    Parameters
    ----------
    points: (vertices, 2), metres.
    edges: (edges, 2), pairs of vertices, each once.
    limit_m: (vertices,), branches from here that are shorter are cut off.
    fixed: (vertices,), these may have edges that are not among `edges`, and are neither ends nor passed.
    grain_m: lengths that differ by less are equal, and the place of their ends decides.
    """
    if not len(edges):
        return edges
    path, starts = chains(edges, fixed)
    sizes = np.diff(starts, append=len(path))
    steps = np.linalg.norm(np.diff(points[path], axis=0), axis=1)
    within = np.ones(len(steps), np.bool_)
    within[starts[1:] - 1] = False
    lengths = np.add.reduceat(np.where(within, steps, 0.0), starts)
    ends = list(zip(path[starts].tolist(), path[starts + sizes - 1].tolist(), strict=True))
    stays = np.repeat(_Pruning(points, limit_m, fixed, grain_m, ends, lengths.tolist()).run(), sizes)[:-1] & within
    return np.column_stack([path[:-1][stays], path[1:][stays]])


class _Pruning:
    """Chains by their ends, joined into one where only two are left at a crossing."""

    def __init__(
        self,
        points: NDArray[np.float64],
        limit_m: NDArray[np.float64],
        fixed: NDArray[np.bool_],
        grain_m: float,
        ends: list[tuple[int, int]],
        lengths: list[float],
    ) -> None:
        self._points, self._limit_m, self._fixed, self._grain_m = points, limit_m, fixed, grain_m
        self._ends, self._lengths = ends, lengths
        self._is_part_of = list(range(len(ends)))
        self._cut = [False] * len(ends)
        self._at: dict[int, list[int]] = defaultdict(list)
        for chain, (one, other) in enumerate(ends):
            self._at[one].append(chain)
            self._at[other].append(chain)
        self._spurs: list[tuple[int, float, float, float, int]] = []

    def run(self) -> list[bool]:
        """Whether each chain stays."""
        for chain in range(len(self._ends)):
            self._consider(chain)
        while self._spurs:
            *_, length, chain = heappop(self._spurs)
            if self._is_part_of[chain] == chain and self._lengths[chain] == length:
                self._cut_off(chain)
        return [not self._cut[self._whole(chain)] for chain in range(len(self._ends))]

    def _consider(self, chain: int) -> None:
        for end, foot in (self._ends[chain], self._ends[chain][::-1]):
            length = self._lengths[chain]
            is_spur = len(self._at[end]) == 1 and not self._fixed[end] and len(self._at[foot]) > 2
            if is_spur and length + self._grain_m < self._limit_m[foot]:
                heappush(self._spurs, (round(length / self._grain_m), *self._points[end].tolist(), length, chain))

    def _cut_off(self, chain: int) -> None:
        self._cut[chain] = True
        for vertex in self._ends[chain]:
            self._at[vertex].remove(chain)
            if len(self._at[vertex]) == 2 and not self._fixed[vertex]:
                self._join(vertex)

    def _join(self, vertex: int) -> None:
        one, other = self._at[vertex]
        if one == other:  # a ring that closes here
            return
        near, far = (sum(self._ends[chain]) - vertex for chain in (one, other))
        self._is_part_of[other] = one
        self._lengths[one] += self._lengths[other]
        self._ends[one] = (near, far)
        del self._at[vertex]
        self._at[far][self._at[far].index(other)] = one
        self._consider(one)

    def _whole(self, chain: int) -> int:
        while (parent := self._is_part_of[chain]) != chain:
            self._is_part_of[chain] = chain = self._is_part_of[parent]
        return chain
