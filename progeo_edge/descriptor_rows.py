"""Descriptors and their keyframe ids, one row each, without holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DescriptorRows:
    """Rows [0, len) of growing arrays, and the row of every id. Not thread-safe, and nothing is checked.

    The arrays grow in place, so a view of them must not outlive the next `append`.

    Attributes:
        ids: (C,) int64, C at least len.
        vectors: (C, D) float32.
        row_of_id: Where each id stands.
    """

    def __init__(self, dimension: int) -> None:
        self.ids = np.zeros(0, dtype=np.int64)
        self.vectors = np.zeros((0, dimension), dtype=np.float32)
        self.row_of_id: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """New rows at the end."""
        end = self._count + len(ids)
        grow(self.ids, end)
        grow(self.vectors, end)
        self.ids[self._count : end] = ids
        self.vectors[self._count : end] = vectors
        self.row_of_id.update(zip(ids.tolist(), range(self._count, end), strict=True))
        self._count = end

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        for array in (self.ids, self.vectors):
            array[[a, b]] = array[[b, a]]
        for row in (a, b):
            self.row_of_id[int(self.ids[row])] = row

    def drop_last(self) -> None:
        """Forget the last row."""
        self._count -= 1
        del self.row_of_id[int(self.ids[self._count])]

    def of_ids(self, ids: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Positions in `ids` of those that are here, and their descriptors."""
        rows = [self.row_of_id.get(keyframe_id, -1) for keyframe_id in ids]
        known = np.flatnonzero(np.array(rows, dtype=np.int64) >= 0)
        return known, self.vectors[[rows[position] for position in known.tolist()]]


def grow(array: NDArray[Any], count: int) -> None:
    """Make room for `count` rows, and a quarter more than there was, without a copy where the system can move pages.

    In place: no view of the array may be kept by anybody.
    """
    if count > len(array):
        array.resize((max(count, len(array) * 5 // 4), *array.shape[1:]), refcheck=False)
