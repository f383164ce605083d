"""PlaceIndex: which keyframes look most like this one? Exact while small, HNSW with an exact tail when large."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError
from progeo_edge.hnsw_graph import HnswGraph
from progeo_edge.index_input import check_at_least_one, check_descriptors, check_ids, check_query

TAIL_LIMIT = 1024
"""Descriptors outside the graph that are searched exactly before some are moved into it."""
MOVE_BATCH = 32
"""Descriptors moved into the graph at a time, so that neither an `add` nor a search beside it stalls for long."""

# Above the rounding error of a float32 product, so that ties survive the first selection.
_TIE_MARGIN = np.float32(1e-5)


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


@dataclass(frozen=True, slots=True, eq=False)
class GraphSnapshot:
    """What an HNSW graph holds.

    Attributes:
        ids: (N,) int64 keyframe ids that can be found in it.
        labels: (N,) int64 labels of those in the graph.
        descriptors: (N, D) float32.
        num_inserted: Nodes of the graph, removed ones included.
        num_removed: Nodes that only serve as stepping stones.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    num_inserted: int
    num_removed: int


class PlaceIndex:
    """Descriptors by keyframe id, searched by cosine. Safe to use from several threads.

    All descriptors are kept in one array, which is searched by a matrix product. Above `config.hnsw_above` the older
    ones are also in an HNSW graph, and only the rest, the tail, is searched by product. The graph proposes; the
    similarities returned always come from the array, so exact and approximate answers never differ in a value.

    Args:
        dimension: Length D of the descriptors.
        config: Where the switch stands, and the parameters of HNSW.

    Raises:
        InputError: dimension under 1.
    """

    def __init__(self, dimension: int, config: SearchConfig) -> None:
        self.dimension = check_at_least_one(dimension, "dimension of the descriptors")
        self.config = config
        self._lock = threading.RLock()
        self._count = 0
        self._vectors = np.zeros((0, self.dimension), dtype=np.float32)
        self._ids = np.zeros(0, dtype=np.int64)
        self._row_of_id: dict[int, int] = {}
        # Rows [0, len(graph)) are in the graph, the others are the tail.
        self._graph: HnswGraph | None = None
        self._labels = np.zeros(0, dtype=np.int64)
        self._row_of_label: dict[int, int] = {}

    def __len__(self) -> int:
        """Descriptors that can be found."""
        return self._count

    def __contains__(self, keyframe_id: object) -> bool:
        return keyframe_id in self._row_of_id

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids, ascending."""
        with self._lock:
            return np.sort(self._ids[: self._count])

    @property
    def kind(self) -> Literal["exact", "hnsw"]:
        """What answers a search now."""
        return "exact" if self._graph is None else "hnsw"

    def add(self, ids: ArrayLike, descriptors: ArrayLike) -> None:
        """Make keyframes findable. All or, on an error, none.

        Args:
            ids: (N,) integers, not negative, not in the index yet; an id that was removed may come back.
            descriptors: (N, D) rows of unit norm (within 1e-3).

        Raises:
            InputError: wrong shape, type or value.
        """
        new_ids = check_ids(ids)
        vectors = check_descriptors(descriptors, self.dimension)
        if len(new_ids) != len(vectors):
            raise InputError(f"{len(new_ids)} ids for {len(vectors)} descriptors; give one id per row")
        with self._lock:
            known = [i for i in new_ids.tolist() if i in self._row_of_id]
            if known:
                raise InputError(f"id {known[0]} is in the index already; remove it before adding it again")
            self._append(new_ids, vectors)
        self._migrate(len(new_ids))

    def remove(self, ids: ArrayLike) -> None:
        """Forget keyframes. All or, on an error, none.

        Raises:
            InputError: an id that is not in the index, or given twice.
        """
        old_ids = check_ids(ids)
        with self._lock:
            unknown = [i for i in old_ids.tolist() if i not in self._row_of_id]
            if unknown:
                raise InputError(f"id {unknown[0]} is not in the index; remove only ids that were added")
            for keyframe_id in old_ids.tolist():
                self._remove_row(self._row_of_id[keyframe_id])
            self._drop_worn_graph()
        self._migrate(len(old_ids))

    def search(self, query: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest keyframes by cosine.

        Args:
            query: (D,) descriptor of unit norm (within 1e-3).
            k: Answers wanted, at least 1; fewer come back from a smaller index.

        Returns:
            (K,) ids and (K,) similarities in [-1, 1], best first, equal similarities by lower id; K = min(k, len).

        Raises:
            InputError: wrong shape, type or value.
        """
        vector = check_query(query, self.dimension)
        k = check_at_least_one(k, "k")
        with self._lock:
            return self._search(vector, k, use_graph=True)

    def descriptors(self, ids: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Descriptors by id, in time that does not depend on the size of the index.

        Args:
            ids: Keyframe ids, known or not, repeated or not.

        Returns:
            (M,) which of the ids are in the index, as positions in `ids`; and their (M, D) descriptors.
        """
        with self._lock:
            rows = [self._row_of_id.get(keyframe_id, -1) for keyframe_id in ids]
            known = np.flatnonzero(np.array(rows, dtype=np.int64) >= 0)
            return known, self._vectors[[rows[position] for position in known.tolist()]]

    def sample(self, count: int, seed: int) -> NDArray[np.float32]:
        """(M, D) descriptors drawn with replacement, M = count, or 0 from an empty index."""
        with self._lock:
            if self._count == 0:
                return np.zeros((0, self.dimension), dtype=np.float32)
            return np.asarray(self._vectors[np.random.default_rng(seed).integers(self._count, size=count)])

    def self_check(self, num_queries: int = 100, k: int = 10, seed: int = 0) -> RecallCheck:
        """Compare the active structure with exact search, on descriptors of the index turned by about 25 degrees.

        Args:
            num_queries: Queries to draw, at least 1.
            k: Depth of the comparison.
            seed: Of the draw.
        """
        num_queries, k = check_at_least_one(num_queries, "num_queries"), check_at_least_one(k, "k")
        rng = np.random.default_rng(seed)
        firsts, shares = [], []
        for _ in range(num_queries):
            with self._lock:
                if self._count == 0:
                    return RecallCheck(1.0, 1.0, 0)
                query = _turned(self._vectors[rng.integers(self._count)], rng)
                _, exact = self._search(query, k, use_graph=False)
                _, found = self._search(query, k, use_graph=True)
            firsts.append(found[0] >= exact[0])
            # By similarity, not id: any of several equal descriptors is a right answer.
            shares.append(np.count_nonzero(found >= exact[-1]) / len(exact))
        return RecallCheck(float(np.mean(firsts)), float(np.mean(shares)), num_queries)

    # -- the graph, for the cache beside a map -----------------------------------------------------------------------

    def snapshot(self, graph_path: Path) -> GraphSnapshot | None:
        """Write the graph to a file in hnswlib's format and say what is in it; None while there is no graph.

        Raises:
            OSError: the file did not arrive in full, as on a full disk.
        """
        with self._lock:
            graph = self._graph
            if graph is None:
                return None
            if not graph.save(graph_path):
                raise OSError(f"{graph_path} was not written in full; is the disk full?")
            rows = slice(0, len(graph))
            return GraphSnapshot(
                self._ids[rows].copy(),
                self._labels[rows].copy(),
                self._vectors[rows].copy(),
                graph.num_inserted,
                graph.num_removed,
            )

    def adopt(self, graph: HnswGraph, snapshot: GraphSnapshot) -> None:
        """Start an empty index from a graph that was read back, with the descriptors that are in it."""
        with self._lock:
            if self._count or len(graph) != len(snapshot.ids):
                raise ValueError("a graph can only be adopted by an empty index and with all of its descriptors")
            self._append(snapshot.ids, snapshot.descriptors)
            self._graph = graph
            self._labels[: self._count] = snapshot.labels
            self._row_of_label = dict(zip(snapshot.labels.tolist(), range(self._count), strict=True))

    # -- search, in steps; the lock is held --------------------------------------------------------------------------

    def _search(
        self, query: NDArray[np.float32], k: int, *, use_graph: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = self._rows_by_graph_and_tail(query, k) if use_graph else self._rows_by_product(query, k, first=0)
        return self._rank(query, rows, k)

    def _rows_by_graph_and_tail(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        if self._graph is None:
            return self._rows_by_product(query, k, first=0)
        labels = self._graph.search(query, k)
        if labels is None:
            return self._rows_by_product(query, k, first=0)
        proposed = np.array([self._row_of_label[label] for label in labels.tolist()], dtype=np.int64)
        return np.concatenate([proposed, self._rows_by_product(query, k, first=len(self._graph))])

    def _rows_by_product(self, query: NDArray[np.float32], k: int, *, first: int) -> NDArray[np.int64]:
        """Rows from `first` on that may be among the k nearest of them: a few more than k when there are ties."""
        similarities = self._vectors[first : self._count] @ query
        if len(similarities) <= k:
            return np.arange(first, self._count)
        kth = np.partition(similarities, len(similarities) - k)[len(similarities) - k]
        return first + np.flatnonzero(similarities >= kth - _TIE_MARGIN)

    def _rank(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        # A product's last bit depends on where a row stands in the matrix; a sum per row in float64 does not, so equal
        # descriptors tie exactly.
        exact = np.sum(self._vectors[rows].astype(np.float64) * query.astype(np.float64), axis=1)
        similarities = np.clip(exact, -1.0, 1.0).astype(np.float32)
        ids = self._ids[rows]
        order = np.lexsort((ids, -similarities))[:k]
        return ids[order], similarities[order]

    # -- storage; the lock is held -----------------------------------------------------------------------------------

    def _append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        end = self._count + len(ids)
        if end > len(self._ids):
            self._grow(max(end, 2 * len(self._ids)))
        self._ids[self._count : end] = ids
        self._vectors[self._count : end] = vectors
        self._row_of_id.update(zip(ids.tolist(), range(self._count, end), strict=True))
        self._count = end

    def _grow(self, capacity: int) -> None:
        for name in ("_ids", "_labels", "_vectors"):
            old = getattr(self, name)
            grown = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
            grown[: self._count] = old[: self._count]
            setattr(self, name, grown)

    def _remove_row(self, row: int) -> None:
        """Take out a row, keeping graph rows in front and the array without holes."""
        if self._graph is not None and row < len(self._graph):
            label = int(self._labels[row])
            self._swap_rows(row, len(self._graph) - 1)
            self._graph.remove(label)
            del self._row_of_label[label]
            row = len(self._graph)
        self._swap_rows(row, self._count - 1)
        self._count -= 1
        del self._row_of_id[int(self._ids[self._count])]

    def _swap_rows(self, a: int, b: int) -> None:
        if a == b:
            return
        for array in (self._ids, self._labels, self._vectors):
            array[[a, b]] = array[[b, a]]
        for row in (a, b):
            self._row_of_id[int(self._ids[row])] = row
            if self._graph is not None and row < len(self._graph):
                self._row_of_label[int(self._labels[row])] = row

    # -- from the tail into the graph --------------------------------------------------------------------------------

    def _migrate(self, num_changed: int) -> None:
        """Move descriptors into the graph: a batch, or as many as have just come if those are more.

        The lock is taken per batch, so that a search waits for one batch and not for the build of a whole graph.
        """
        budget = num_changed + MOVE_BATCH
        while budget > 0:
            with self._lock:
                if not self._wants_graph():
                    return
                if self._graph is None:
                    self._graph = HnswGraph(self.dimension, self.config)
                self._move_batch(self._graph)
            budget -= MOVE_BATCH

    def _wants_graph(self) -> bool:
        in_graph = 0 if self._graph is None else len(self._graph)
        return self._count > self.config.hnsw_above and self._count - in_graph > TAIL_LIMIT

    def _move_batch(self, graph: HnswGraph) -> None:
        # Drawn from the whole tail: a graph built strictly along a trajectory links neighbours in time only, and then
        # searches get lost on the way to a place of long ago.
        rng = np.random.default_rng(graph.num_inserted)
        first = len(graph)
        chosen = first + rng.choice(self._count - first, size=MOVE_BATCH, replace=False)
        for offset, row in enumerate(np.sort(chosen).tolist()):
            self._swap_rows(first + offset, row)
        rows = np.arange(first, first + MOVE_BATCH)
        rng.shuffle(rows)
        labels = graph.add(self._vectors[rows])
        self._labels[rows] = labels
        self._row_of_label.update(zip(labels.tolist(), rows.tolist(), strict=True))

    def _drop_worn_graph(self) -> None:
        """Give up a graph that is mostly removed nodes, or that a shrunken index no longer needs."""
        if self._graph is None:
            return
        if self._graph.num_removed > len(self._graph) or self._count <= self.config.hnsw_above // 2:
            self._graph = None
            self._row_of_label.clear()


def _turned(vector: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    noise = rng.standard_normal(len(vector))
    turned = vector + 0.5 * noise / max(float(np.linalg.norm(noise)), 1e-9)
    return (turned / max(float(np.linalg.norm(turned)), 1e-9)).astype(np.float32)
