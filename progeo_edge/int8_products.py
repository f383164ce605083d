"""The one place that calls numkong: products of int8 rows with a query, whole numbers and hence the same everywhere.

The exactness of the search rests on them. So the library is only used when it multiplies right on this processor.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

FOLDED_WIDTH = 256
"""Short rows are multiplied several at a time, as one row of this many bytes."""
PACKED_UP_TO = 320
"""Above this many bytes numkong's pairwise product reads memory faster than its packed one (measured)."""

_TRIED_WIDTHS = (3, 64, 100, 128, 256, 384, 512)
_TRIED_ROWS = 67

_LOGGER = logging.getLogger(__name__)


@cache
def is_available() -> bool:
    """Whether the library can be imported and is right about some products of the largest and other codes."""
    try:
        import numkong
    except ImportError as error:
        _LOGGER.info("numkong cannot be imported (%s): large indices are searched exactly by NumPy, more slowly", error)
        return False
    if not _is_right(numkong):
        _LOGGER.warning("numkong multiplies wrongly on this processor and is not used; report it with its version")
        return False
    return True


def spare_rows(width: int) -> int:
    """Rows that an array must have beyond those that are multiplied."""
    return max(1, FOLDED_WIDTH // width) if width <= PACKED_UP_TO else 1


def products(codes: NDArray[np.int8], count: int, query: NDArray[np.int8]) -> NDArray[np.int32] | NDArray[np.float64]:
    """(count,) products, whole numbers of either type, of the first rows of (C, W) codes with a (W,) query.

    `codes` is contiguous and has `spare_rows(W)` rows more. Only after `is_available`.
    """
    import numkong

    return _products(numkong, codes, count, query)


def _products(
    library: ModuleType, codes: NDArray[np.int8], count: int, query: NDArray[np.int8]
) -> NDArray[np.int32] | NDArray[np.float64]:
    width = codes.shape[1]
    if width > PACKED_UP_TO:
        # Its own float64 result, which holds these whole numbers: asked for another type it takes many times as long.
        return np.asarray(library.cdist(query[None], codes[:count], "dot"), dtype=np.float64).reshape(-1)
    # Row j of the folded query sees the j-th of the rows that lie one after the other in memory.
    folds = spare_rows(width)
    folded = np.zeros((folds, folds, width), dtype=np.int8)
    folded[np.arange(folds), np.arange(folds)] = query
    blocks = -(-count // folds)
    rows = codes[: blocks * folds].reshape(blocks, folds * width)
    packed = library.dots_pack(folded.reshape(folds, -1))
    return np.asarray(library.dots_packed(rows, packed), dtype=np.int32).reshape(-1)[:count]


def _is_right(library: ModuleType) -> bool:
    rng = np.random.default_rng(0)
    for width in _TRIED_WIDTHS:
        codes = rng.integers(-127, 128, size=(_TRIED_ROWS + spare_rows(width), width), dtype=np.int8)
        codes[0], codes[1] = 127, -127
        for query in (np.full(width, 127, dtype=np.int8), codes[2]):
            expected = codes[:_TRIED_ROWS].astype(np.int64) @ query.astype(np.int64)
            if not np.array_equal(_products(library, codes, _TRIED_ROWS, query), expected):
                return False
    return True
