"""Exact search that reads a fraction of the bytes: bounds for all rows, full comparisons where they leave a doubt.

The bounds need numkong. Without it, for few rows, and where the bounds cannot tell rows apart (all of them equal, say),
the plain product of everything answers, which is as exact and slower.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge import int8_products
from progeo_edge.coded_rows import CodedRows
from progeo_edge.leading_axes import Axes, better_axes, choose_axes
from progeo_edge.similar_rows import SimilarRows, by_product, compared, lowest_of_interest

CODED_FROM = 8192
"""Rows below which the plain product is as fast."""
WAITING = 256
"""Rows that are searched by product until so many can be coded together."""
CODED_AT_A_TIME = 2048
"""More at a time would make an `add`, and a search beside it, wait for long."""
ROWS_PER_BLOCK = 32
HOPELESS_SHARE = 0.3
"""Of all rows: comparing so many, here and there in memory, takes as long as the product of all."""


class ProvenSearch:
    """Codes of the first rows of an array of descriptors, and the search by them. Not thread-safe.

    Args:
        dimension: Length D of the descriptors.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.clear()

    def clear(self) -> None:
        """Give up the codes."""
        self._codes = CodedRows(self._dimension, None)
        self._rows_at_choice = CODED_FROM // 2
        self._is_on = False

    def __len__(self) -> int:
        """Rows that are coded."""
        return len(self._codes)

    @property
    def axes(self) -> Axes:
        """Those that rows are coded along; None for all D."""
        return self._codes.axes

    @property
    def bytes_per_row(self) -> int:
        """Memory beside the descriptors."""
        return self._codes.bytes_per_row if self._is_on else 0

    def search(self, vectors: NDArray[np.float32], query: NDArray[np.float32], k: int) -> SimilarRows:
        """What may be among the k nearest of (N, D) vectors, the first of which are coded here."""
        waiting = by_product(vectors, query, k, first=len(self))
        if len(self) == 0:
            return waiting
        known = self._doubtful(vectors[: len(self)], query, k)
        if known is None:
            known = by_product(vectors[: len(self)], query, k)
        return known.joined(waiting)

    def _doubtful(self, vectors: NDArray[np.float32], query: NDArray[np.float32], k: int) -> SimilarRows | None:
        """Coded rows whose bounds do not rule them out; None when those are too many."""
        bounds = self._codes.upper_bounds(query)
        high = _reached_by_blocks(bounds, k)
        if high is None:
            return None
        promising = np.flatnonzero(bounds >= high)
        if len(promising) > HOPELESS_SHARE * len(bounds):
            return None
        first = compared(vectors, promising, query)
        low = lowest_of_interest(first.similarities, k, self._dimension)
        others = np.flatnonzero((bounds >= low) & (bounds < high))
        if len(others) > HOPELESS_SHARE * len(bounds):
            return None
        return first.joined(compared(vectors, others, query)) if len(others) else first

    # -- keeping up with the rows ------------------------------------------------------------------------------------

    def swapped(self, a: int, b: int, vectors: NDArray[np.float32]) -> None:
        """Two rows have been exchanged."""
        a, b = min(a, b), max(a, b)
        if b < len(self):
            self._codes.swap(a, b)
        elif a < len(self):
            self._codes.replace(a, vectors[a])

    def dropped_last(self, count: int) -> None:
        """So many rows are left. Half of what would be coded anew is not worth the memory."""
        if len(self) > count:
            self._codes.drop_last()
        if count < CODED_FROM // 2 and self._is_on:
            self.clear()

    def is_due(self, count: int) -> bool:
        """Whether axes are to be chosen: at first and then whenever the rows have doubled."""
        return count >= max(CODED_FROM, 2 * self._rows_at_choice) and int8_products.is_available()

    def choose(self, sample: NDArray[np.float32], count: int) -> Axes:
        """The axes for so many rows like the (S, D) sample; changes nothing, so it needs no lock."""
        return better_axes(sample, count, self.axes) if self._is_on else choose_axes(sample, count)

    def use(self, axes: Axes, count: int) -> None:
        """Code along these axes from now on; rows coded along others wait to be coded again."""
        if axes is not self.axes:
            self._codes = CodedRows(self._dimension, axes)
        self._rows_at_choice = count
        self._is_on = True

    def catch_up(self, vectors: NDArray[np.float32]) -> int:
        """Code some of the (N, D) rows, if enough wait for it. Returns how many were coded."""
        if not self._is_on or len(vectors) - len(self) < WAITING:
            return 0
        rows = vectors[len(self) : len(self) + CODED_AT_A_TIME]
        self._codes.append(rows)
        return len(rows)


def _reached_by_blocks(bounds: NDArray[np.float32], k: int) -> float | None:
    """A value that at least k bounds reach, and not many more; None for too few rows.

    The k-th largest of the maxima of blocks, which are far fewer than the rows. A block takes rows from all over: the
    nearest ones of a drive follow each other, and would hide in one block of neighbours.
    """
    rows_per_block = min(ROWS_PER_BLOCK, len(bounds) // (4 * k))
    if rows_per_block == 0:
        return None
    num_blocks = len(bounds) // rows_per_block
    maxima = bounds[: num_blocks * rows_per_block].reshape(rows_per_block, num_blocks).max(axis=0)
    return float(np.partition(maxima, num_blocks - k)[num_blocks - k])
