"""The one place that calls hnswlib: an HNSW graph over unit vectors whose every call is safe.

hnswlib checks little: a vector of another dimension is read out of bounds, a full graph raises, a k above the count
raises, a search beside an insertion is undefined, a save to a full disk reports nothing, and a damaged file crashes
the process. Callers hand over checked arrays and hold a lock; this class does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import SearchConfig

_SEED = 100
_INITIAL_CAPACITY = 1024


class HnswGraph:
    """Approximate nearest neighbours by inner product (Malkov and Yashunin, arXiv 1603.09320).

    Every vector gets a fresh label, counted up from 0 and never used again, so that a removed vector that comes back
    is inserted anew instead of patched in place. Not thread-safe.
    """

    def __init__(self, dimension: int, config: SearchConfig) -> None:
        self._native: Any = hnswlib.Index(space="ip", dim=dimension)
        self._config = config
        self._ready = False
        self.num_inserted = 0
        self.num_removed = 0

    def __len__(self) -> int:
        """Vectors that can be found."""
        return self.num_inserted - self.num_removed

    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Insert (N, D) vectors; returns their (N,) labels."""
        labels = np.arange(self.num_inserted, self.num_inserted + len(vectors), dtype=np.int64)
        self._reserve(self.num_inserted + len(vectors))
        # One thread: with more, the graph depends on their timing and two runs give different closures.
        self._native.add_items(vectors, labels, num_threads=1)
        self.num_inserted += len(vectors)
        return labels

    def remove(self, label: int) -> None:
        """Take one vector out of all answers. Its node stays as a stepping stone until the graph is rebuilt."""
        self._native.mark_deleted(label)
        self.num_removed += 1

    def search(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
        """Labels of about the k nearest, in any order; None when the graph could not reach that many."""
        k = min(k, len(self))
        if k == 0:
            return np.zeros(0, dtype=np.int64)
        self._native.set_ef(max(self._config.hnsw_ef, k))
        try:
            labels, _ = self._native.knn_query(query[None], k=k, num_threads=1)
        except RuntimeError:  # hnswlib's answer when fewer than k live nodes were reached
            return None
        return np.asarray(labels[0]).astype(np.int64)

    def save(self, path: Path) -> bool:
        """Write hnswlib's own format; False when the file did not arrive in full."""
        self._native.save_index(str(path))
        return path.is_file() and path.stat().st_size == self._native.index_file_size()

    @classmethod
    def load(
        cls, path: Path, dimension: int, config: SearchConfig, *, num_inserted: int, num_removed: int
    ) -> HnswGraph:
        """Read what `save` wrote. Only for bytes whose checksum was compared: damaged ones crash the process.

        Raises:
            RuntimeError: hnswlib refuses the file, or it holds another number of vectors.
        """
        graph = cls(dimension, config)
        graph._native.load_index(str(path), max_elements=max(_INITIAL_CAPACITY, num_inserted))
        graph._native.set_num_threads(1)
        if graph._native.get_current_count() != num_inserted:
            raise RuntimeError(f"graph holds {graph._native.get_current_count()} vectors, expected {num_inserted}")
        graph._ready = True
        graph.num_inserted, graph.num_removed = num_inserted, num_removed
        return graph

    def _reserve(self, count: int) -> None:
        if not self._ready:
            self._native.init_index(
                max_elements=max(_INITIAL_CAPACITY, count),
                M=self._config.hnsw_m,
                ef_construction=self._config.hnsw_ef_construction,
                random_seed=_SEED,
            )
            self._native.set_num_threads(1)
            self._ready = True
        elif count > self._native.get_max_elements():
            self._native.resize_index(max(count, 2 * self._native.get_max_elements()))
