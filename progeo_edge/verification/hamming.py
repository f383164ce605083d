"""Nearest binary descriptors: by faiss where it is installed, else numkong, else OpenCV, with the same distances."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

Nearest = tuple[NDArray[np.int32], NDArray[np.intp]]
"""(N, k) distances, the nearest first, and (N, k) rows of the other side. Which of two equally near rows is named
first depends on the library."""

_LOGGER = logging.getLogger(__name__)


def nearest(a: NDArray[np.uint8], b: NDArray[np.uint8], k: int) -> Nearest:
    """The k rows of b with the fewest bits that differ from each row of a.

    Args:
        a: (N, bytes) uint8.
        b: (M, bytes) uint8, at least k rows.
        k: How many.
    """
    return search()(np.ascontiguousarray(a), np.ascontiguousarray(b), k)


@cache
def search() -> Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Nearest]:
    """The fastest search there is. The first call may import faiss (0.15 s): ask before the first candidate comes."""
    try:
        import faiss
    except ImportError:
        return _without_faiss()
    return lambda a, b, k: by_faiss(faiss, a, b, k)


def _without_faiss() -> Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Nearest]:
    try:
        import numkong
    except ImportError as error:
        _LOGGER.info("numkong cannot be imported (%s): OpenCV matches, in four times the time", error)
        return by_opencv
    if not _counts_right(numkong):
        _LOGGER.warning("numkong counts bits wrongly on this processor and is not used; report it with its version")
        return by_opencv
    return lambda a, b, k: by_numkong(numkong, a, b, k)


def by_opencv(a: NDArray[np.uint8], b: NDArray[np.uint8], k: int) -> Nearest:
    """See `nearest`."""
    distances, rows = cv2.batchDistance(a, b, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=k)
    return np.asarray(distances, dtype=np.int32), rows.astype(np.intp)


def by_faiss(faiss: ModuleType, a: NDArray[np.uint8], b: NDArray[np.uint8], k: int) -> Nearest:
    """See `nearest`. One thread: a few milliseconds are not worth waking the others, which then spin for a while."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        distances, rows = faiss.knn_hamming(a, b, k)
    finally:
        faiss.omp_set_num_threads(threads)
    return distances, rows.astype(np.intp, copy=False)


def by_numkong(numkong: ModuleType, a: NDArray[np.uint8], b: NDArray[np.uint8], k: int) -> Nearest:
    """See `nearest`. All distances on the calling thread, and the smallest of each row, k times."""
    all_distances = _all_distances(numkong, a, b)
    each = np.arange(len(a))
    rows = np.empty((len(a), k), dtype=np.intp)
    distances = np.empty((len(a), k), dtype=np.int32)
    for rank in range(k):
        rows[:, rank] = all_distances.argmin(axis=1)
        distances[:, rank] = all_distances[each, rows[:, rank]]
        all_distances[each, rows[:, rank]] = np.iinfo(np.uint32).max
    return distances, rows


def _all_distances(numkong: ModuleType, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(N, M) bits that differ; the array may be written to."""
    return np.asarray(numkong.hammings_packed(a, numkong.hammings_pack(b)), dtype=np.uint32)


def _counts_right(numkong: ModuleType) -> bool:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (count, 32), dtype=np.uint8) for count in (37, 67))
    b[0], b[1] = ~a[0], a[1]
    expected = np.unpackbits(a[:, None] ^ b[None], axis=2).sum(axis=2)
    return np.array_equal(_all_distances(numkong, a, b), expected)
