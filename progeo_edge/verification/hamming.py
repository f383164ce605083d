"""Nearest binary descriptors: by faiss where it is installed, else by OpenCV; both give the same distances."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

Nearest = tuple[NDArray[np.int32], NDArray[np.intp]]
"""(N, k) distances, the nearest first, and (N, k) rows of the other side. Which of two equally near rows is named
first depends on the library."""


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
    """The fastest search there is. The first call imports faiss (0.15 s), so ask before the first candidate comes."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return by_opencv
    return lambda a, b, k: by_faiss(faiss, a, b, k)


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
