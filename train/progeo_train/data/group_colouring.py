"""Groups of classes that may be told apart: a greedy colouring of the graph of classes that may show one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_GROUP = -1


@dataclass(frozen=True, slots=True, eq=False)
class RegionClaims:
    """Classes of different homes in one region conflict, all with all, without a list of their pairs.

    Two sequences of one region may show the same place without anyone having said so.

    Attributes:
        classes: (K,) int64 class of each claim; a class may lie in several regions.
        regions: (K,) int64 region, at least 0.
        homes: (K,) int64 what the class belongs to there (a sequence, or itself), at least 0.
    """

    classes: NDArray[np.int64]
    regions: NDArray[np.int64]
    homes: NDArray[np.int64]


def colour_classes(
    num_classes: int, conflicts: NDArray[np.int64], claims: RegionClaims, max_groups: int
) -> NDArray[np.int64]:
    """Give every class a group such that classes in conflict never share one.

    First fit in the order of falling degree (Welsh and Powell, 1967, doi:10.1093/comjnl/10.1.85), equal degrees by
    number; then classes move to emptier groups where no conflict forbids it. The same input gives the same groups.

    Args:
        num_classes: Number of classes, C.
        conflicts: (E, 2) int64 pairs of classes in conflict; repeated and reversed pairs do no harm.
        claims: Conflicts between the homes of a region.
        max_groups: A class that fits into none of so many groups is left out.

    Returns:
        (C,) int64 group, or -1 for a class that is left out; groups count from 0 without holes.
    """
    neighbours = _Neighbours.of(num_classes, conflicts)
    regions = _Regions(num_classes, claims, max_groups)
    group = np.full(num_classes, NO_GROUP, np.int64)
    for number in np.argsort(-neighbours.degrees(), kind="stable").tolist():
        free = _free_groups(number, group, neighbours, regions, max_groups)
        if len(free):
            group[number] = free[0]
            regions.claim(number, int(free[0]))
    _even_out(group, neighbours, regions)
    return group


def distinct_pairs(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Each pair once, in rising order.

    By sorting: numpy.unique of integers hashes, and takes ten times as long for millions of pairs.

    Args:
        pairs: (E, 2) int64 of numbers below `count`.
        count: Numbers there are.
    """
    keys = np.sort(pairs[:, 0] * max(count, 1) + pairs[:, 1])
    keys = keys[np.concatenate([[True], np.diff(keys) > 0])[: len(keys)]]
    return np.stack(np.divmod(keys, max(count, 1)), axis=1)


def _even_out(group: NDArray[np.int64], neighbours: _Neighbours, regions: _Regions) -> None:
    """First fit crowds the first groups; a group of a handful of classes would teach little."""
    num_groups = int(group.max(initial=NO_GROUP)) + 1
    sizes = np.bincount(group[group >= 0], minlength=num_groups)
    for number in np.flatnonzero(group >= 0).tolist():
        free = _free_groups(number, group, neighbours, regions, num_groups)
        if not len(free):
            continue
        emptiest = int(free[np.argmin(sizes[free])])
        if sizes[emptiest] + 1 < sizes[group[number]]:
            sizes[group[number]] -= 1
            sizes[emptiest] += 1
            group[number] = emptiest
            regions.claim(number, emptiest)


def _free_groups(
    number: int, group: NDArray[np.int64], neighbours: _Neighbours, regions: _Regions, num_groups: int
) -> NDArray[np.int64]:
    taken = np.zeros(num_groups + 1, np.bool_)
    taken[group[neighbours.of_class(number)]] = True  # Those without a group (-1) mark the spare last entry.
    return np.flatnonzero(~(taken[:-1] | regions.taken(number)[:num_groups]))


@dataclass(frozen=True, slots=True, eq=False)
class _Neighbours:
    """Adjacency lists, one after the other."""

    start: NDArray[np.int64]
    other: NDArray[np.int64]

    @classmethod
    def of(cls, num_classes: int, pairs: NDArray[np.int64]) -> _Neighbours:
        different = pairs[pairs[:, 0] != pairs[:, 1]]
        pairs = distinct_pairs(np.concatenate([different, different[:, ::-1]]), num_classes)
        start = np.searchsorted(pairs[:, 0], np.arange(num_classes + 1))
        return cls(start.astype(np.int64), np.ascontiguousarray(pairs[:, 1]))

    def of_class(self, number: int) -> NDArray[np.int64]:
        return self.other[self.start[number] : self.start[number + 1]]

    def degrees(self) -> NDArray[np.int64]:
        return np.diff(self.start)


class _Regions:
    """Which home has each group of each region; a claim stays, though its class may move on."""

    def __init__(self, num_classes: int, claims: RegionClaims, num_groups: int) -> None:
        order = np.argsort(claims.classes, kind="stable")
        self._start = np.searchsorted(claims.classes[order], np.arange(num_classes + 1))
        self._regions, self._homes = claims.regions[order], claims.homes[order]
        num_regions = int(claims.regions.max(initial=-1)) + 1
        self._owner = np.full((num_regions, num_groups), -1, np.int64)

    def taken(self, number: int) -> NDArray[np.bool_]:
        claims = slice(self._start[number], self._start[number + 1])
        owner = self._owner[self._regions[claims]]
        blocked: NDArray[np.bool_] = ((owner >= 0) & (owner != self._homes[claims, None])).any(axis=0)
        return blocked

    def claim(self, number: int, group: int) -> None:
        claims = slice(self._start[number], self._start[number + 1])
        self._owner[self._regions[claims], group] = self._homes[claims]
