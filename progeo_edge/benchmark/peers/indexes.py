"""Search over descriptors: NumPy, faiss, hnswlib, usearch and ours, each with one thread."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.memory import own_mb
from progeo_edge.benchmark.peers.frames import search_product
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.config import SearchConfig

SEARCH = "search"
_OURS = SearchConfig()
HNSW_M, HNSW_EF_CONSTRUCTION, HNSW_EF = _OURS.hnsw_m, _OURS.hnsw_ef_construction, _OURS.hnsw_ef
"""The same for every HNSW: the defaults of ours."""

_BUILD_CHUNK = 50_000
"""Rows handed over at a time, so that a copy on the way does not double the memory."""

Vectors = NDArray[np.float32]


class IndexPeer(ABC):
    """One index. Settings: "vectors" and "queries" (.npy files of (N, D) unit rows, float32), "k", "threads".

    The rows are its ids. What it takes to build and what it holds afterwards are in its facts.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.import_libraries(settings)
        vectors = np.load(settings["vectors"], mmap_mode="r", allow_pickle=False)
        queries = np.load(settings["queries"], allow_pickle=False)
        self.num_vectors, self.dimension = vectors.shape
        self.k = int(settings["k"])
        self.open()
        before_mb, started = own_mb(), time.perf_counter()
        for first in range(0, len(vectors), _BUILD_CHUNK):
            # A copy in memory, as a program has it; the mapping itself would count as a file's.
            self.add(first, np.array(vectors[first : first + _BUILD_CHUNK]))
        build_s, after_mb = time.perf_counter() - started, own_mb()
        grown_mb = None if before_mb is None or after_mb is None else after_mb - before_mb
        self._facts = {"runs": self.name(), "build_s": build_s, "memory_mb": grown_mb}
        self.steps: Mapping[str, Step] = {SEARCH: lambda item: self.search(queries[item % len(queries)])}

    @staticmethod
    @abstractmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Import what `open` needs, so that it is not counted as the index's memory."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it is, "build_s", and "memory_mb" that it holds."""
        return self._facts

    @abstractmethod
    def name(self) -> str:
        """What it is, with its version."""

    @abstractmethod
    def open(self) -> None:
        """Make it empty."""

    @abstractmethod
    def add(self, first: int, vectors: Vectors) -> None:
        """Take in rows; the first has this id."""

    @abstractmethod
    def search(self, query: Vectors) -> NDArray[np.int64]:
        """(k,) ids of the nearest, best first."""


class NumpyIndex(IndexPeer):
    """float32 product, argpartition, sort."""

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:  # noqa: D102
        return

    def name(self) -> str:  # noqa: D102
        return f"NumPy {np.__version__}"

    def open(self) -> None:  # noqa: D102
        self._vectors = np.empty((self.num_vectors, self.dimension), np.float32)

    def add(self, first: int, vectors: Vectors) -> None:  # noqa: D102
        self._vectors[first : first + len(vectors)] = vectors

    def search(self, query: Vectors) -> NDArray[np.int64]:  # noqa: D102
        return search_product(self._vectors, query, self.k)


class OurIndex(IndexPeer):
    """`PlaceIndex` with its defaults. Setting "exact": never HNSW."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._exact = bool(settings.get("exact"))
        super().__init__(settings)

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:  # noqa: D102
        importlib.import_module("progeo_edge.index")

    @property
    def facts(self) -> Mapping[str, Any]:  # noqa: D102
        return {**self._facts, "kind": self._index.kind}

    def name(self) -> str:  # noqa: D102
        return f"progeo-edge {importlib.import_module('progeo_edge').__version__}, {self._index.kind}"

    def open(self) -> None:  # noqa: D102
        from progeo_edge.index import PlaceIndex

        config = SearchConfig(hnsw_above=2**62) if self._exact else SearchConfig()
        self._index = PlaceIndex(self.dimension, config)

    def add(self, first: int, vectors: Vectors) -> None:  # noqa: D102
        self._index.add(np.arange(first, first + len(vectors)), vectors)

    def search(self, query: Vectors) -> NDArray[np.int64]:  # noqa: D102
        return self._index.search(query, self.k)[0]


class FaissIndex(IndexPeer):
    """Setting "kind": "flat" (exact) or "hnsw"."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._kind = settings["kind"]
        super().__init__(settings)

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:  # noqa: D102
        importlib.import_module("faiss").omp_set_num_threads(settings["threads"])

    def name(self) -> str:  # noqa: D102
        return f"faiss {importlib.import_module('faiss').__version__}, {self._kind}"

    def open(self) -> None:  # noqa: D102
        faiss = importlib.import_module("faiss")
        if self._kind == "flat":
            self._index = faiss.IndexFlatIP(self.dimension)
            return
        self._index = faiss.IndexHNSWFlat(self.dimension, HNSW_M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction, self._index.hnsw.efSearch = HNSW_EF_CONSTRUCTION, HNSW_EF

    def add(self, first: int, vectors: Vectors) -> None:  # noqa: D102
        self._index.add(vectors)

    def search(self, query: Vectors) -> NDArray[np.int64]:  # noqa: D102
        return np.asarray(self._index.search(query[None], self.k)[1][0], dtype=np.int64)


class HnswlibIndex(IndexPeer):
    """hnswlib, inserted in the order of the rows."""

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:  # noqa: D102
        importlib.import_module("hnswlib")

    def name(self) -> str:  # noqa: D102
        return f"hnswlib {importlib.import_module('importlib.metadata').version('hnswlib')}"

    def open(self) -> None:  # noqa: D102
        self._index = importlib.import_module("hnswlib").Index(space="ip", dim=self.dimension)
        self._index.init_index(self.num_vectors, M=HNSW_M, ef_construction=HNSW_EF_CONSTRUCTION)
        self._index.set_ef(HNSW_EF)

    def add(self, first: int, vectors: Vectors) -> None:  # noqa: D102
        self._index.add_items(vectors, np.arange(first, first + len(vectors)), num_threads=1)

    def search(self, query: Vectors) -> NDArray[np.int64]:  # noqa: D102
        found = self._index.knn_query(query, k=self.k, num_threads=1)[0][0]
        return np.asarray(found, dtype=np.int64)


class UsearchIndex(IndexPeer):
    """usearch's HNSW in float32. Setting "exact": its exact search over the same array instead."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._exact = bool(settings.get("exact"))
        super().__init__(settings)

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:  # noqa: D102
        importlib.import_module("usearch.index")

    def name(self) -> str:  # noqa: D102
        version = importlib.import_module("importlib.metadata").version("usearch")
        return f"usearch {version}, {'exact' if self._exact else 'hnsw'}"

    def open(self) -> None:  # noqa: D102
        self._usearch = importlib.import_module("usearch.index")
        if self._exact:
            self._vectors = np.empty((self.num_vectors, self.dimension), np.float32)
            return
        self._index = self._usearch.Index(
            ndim=self.dimension,
            metric="ip",
            dtype="f32",
            connectivity=HNSW_M,
            expansion_add=HNSW_EF_CONSTRUCTION,
            expansion_search=HNSW_EF,
        )

    def add(self, first: int, vectors: Vectors) -> None:  # noqa: D102
        if self._exact:
            self._vectors[first : first + len(vectors)] = vectors
        else:
            self._index.add(np.arange(first, first + len(vectors)), vectors, threads=1)

    def search(self, query: Vectors) -> NDArray[np.int64]:  # noqa: D102
        if self._exact:
            found = self._usearch.search(self._vectors, query, self.k, "ip", exact=True, threads=1)
        else:
            found = self._index.search(query, self.k, threads=1)
        return np.asarray(found.keys, dtype=np.int64)
