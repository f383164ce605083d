"""Does the approximate search still find the nearest? Asked all the time, at a bounded price per search."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.descriptor_rows import DescriptorRows
from progeo_edge.row_products import row_products
from progeo_edge.similar_rows import rounding_error

ROWS_AT_A_TIME = 8192
"""Rows compared beside each search."""
REMEMBERED = 200
"""Checks that count."""
TOLERATED_SHARE = 0.02
"""Of the checks may have missed the nearest."""
LEAST_MISSES = 3
"""One miss among few checks proves nothing."""


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """How much of the exact answer the active structure returns.

    Attributes:
        recall_at_1: Share of queries whose first answer is as similar as the exact first one; 1 for an empty index.
        recall_at_k: Mean share of the exact top k that was returned.
        num_queries: Queries asked.
    """

    recall_at_1: float
    recall_at_k: float
    num_queries: int

    @classmethod
    def of(cls, answers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> RecallCheck:
        """Of (K,) similarities per query: the exact ones, and those found.

        By similarity and not by id: any of several equal descriptors is a right answer.
        """
        if not answers:
            return cls(1.0, 1.0, 0)
        firsts = [found[0] >= exact[0] for exact, found in answers]
        shares = [np.count_nonzero(found >= exact[-1]) / len(exact) for exact, found in answers]
        return cls(float(np.mean(firsts)), float(np.mean(shares)), len(answers))


class RecallWatch:
    """Compares one query after the other with all rows, a slice of them beside every search.

    What an approximate search found first is a miss when a row that was there is more similar. Rows that change places
    meanwhile may escape, so misses are rather overlooked than invented. Not thread-safe.
    """

    def __init__(self, dimension: int) -> None:
        self._error = 2 * rounding_error(dimension)
        self._verdicts: deque[bool] = deque(maxlen=REMEMBERED)
        self._query: NDArray[np.float32] | None = None
        self._found = 0.0
        self._next_row = 0
        self._end = 0
        self._newcomers: set[int] = set()

    @property
    def num_checks(self) -> int:
        """Queries whose answer was checked, the last ones."""
        return len(self._verdicts)

    @property
    def num_misses(self) -> int:
        """Of those, the ones whose nearest row was not found."""
        return sum(self._verdicts)

    @property
    def is_alarmed(self) -> bool:
        """More was missed than is tolerated."""
        return self.num_misses >= max(LEAST_MISSES, TOLERATED_SHARE * self.num_checks)

    def __str__(self) -> str:
        return f"HNSW missed the nearest keyframe in {self.num_misses} of the last {self.num_checks} checks"

    def added(self, ids: NDArray[np.int64]) -> None:
        """Rows that the pending query could not have found."""
        if self._query is not None:
            self._newcomers.update(ids.tolist())

    def removed(self) -> None:
        """The pending query's answer may be gone: it is not judged."""
        self._query = None

    def searched(self, query: NDArray[np.float32], best: float, rows: DescriptorRows) -> None:
        """A search found this similarity first: go on with the pending check, or take this query if there is none."""
        if self._query is None:
            # A copy: the caller may use its array again.
            self._query, self._found, self._next_row, self._end = query.copy(), best, 0, len(rows)
            self._newcomers.clear()
        end = min(self._next_row + ROWS_AT_A_TIME, self._end)
        similarities = row_products(rows.vectors[self._next_row : end], self._query)
        better = self._next_row + np.flatnonzero(similarities > self._found + self._error)
        if any(int(i) not in self._newcomers for i in rows.ids[better]):
            self._judge(is_miss=True)
        elif end == self._end:
            self._judge(is_miss=False)
        else:
            self._next_row = end

    def _judge(self, *, is_miss: bool) -> None:
        self._verdicts.append(is_miss)
        self._query = None


def turned(vector: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A unit vector about 25 degrees away."""
    noise = rng.standard_normal(len(vector))
    result = vector + 0.5 * noise / max(float(np.linalg.norm(noise)), 1e-9)
    return (result / max(float(np.linalg.norm(result)), 1e-9)).astype(np.float32)
