"""PlaceIndex: which keyframes look most like this one? Exact and proven so; or by a watched HNSW graph."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.config import SearchConfig
from progeo_edge.descriptor_rows import DescriptorRows
from progeo_edge.errors import InputError
from progeo_edge.graph_rows import GraphRows, GraphSnapshot, new_graph
from progeo_edge.hnsw_graph import HnswGraph
from progeo_edge.index_input import check_at_least_one, check_descriptors, check_ids, check_query
from progeo_edge.leading_axes import SAMPLED_ROWS
from progeo_edge.proven_search import ProvenSearch
from progeo_edge.recall_watch import RecallCheck, RecallWatch, turned
from progeo_edge.similar_rows import Answer, SimilarRows, by_product, compared, ranked

TAIL_LIMIT = 1024
"""Descriptors outside the graph that are searched exactly before some are moved into it."""
MOVE_BATCH = 32
"""Descriptors moved into the graph at a time, so that neither an `add` nor a search beside it stalls for long."""
LONG_TAIL = 16 * TAIL_LIMIT
"""Descriptors outside the graph that are too many for it to answer."""
MOST_MOVED = 20_000
"""Descriptors moved by one `add` of a whole map; the rest follows with later ones, while the search is exact."""

_LOGGER = logging.getLogger(__name__)


class PlaceIndex:
    """Descriptors by keyframe id, searched by cosine. Safe to use from several threads.

    All descriptors are kept in one array. A search is exact: bounds from a byte per axis rule out most rows, and the
    others are compared in full (`ProvenSearch`). Above `config.hnsw_above` the older rows are in an HNSW graph instead,
    and only the rest, the tail, is searched exactly. The graph proposes; the similarities returned always come from the
    array, so exact and approximate answers never differ in a value. What the graph misses is watched (`RecallWatch`):
    a graph that misses too much is given up with a warning.

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
        self._rows = DescriptorRows(self.dimension)
        self._proven = ProvenSearch(self.dimension)
        self._graph: GraphRows | None = None
        self._graph_answers = False
        self._graph_has_failed = False
        self.watch = RecallWatch(self.dimension)
        """What the graph was seen to miss; without checks while the search is exact."""

    def __len__(self) -> int:
        """Descriptors that can be found."""
        return len(self._rows)

    def __contains__(self, keyframe_id: object) -> bool:
        return keyframe_id in self._rows.row_of_id

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids, ascending."""
        with self._lock:
            return np.sort(self._rows.ids[: len(self._rows)])

    @property
    def kind(self) -> Literal["exact", "hnsw"]:
        """What answers a search now."""
        return "hnsw" if self._graph_answers else "exact"

    @property
    def code_bytes_per_row(self) -> int:
        """Memory that the exact search takes beside the descriptors."""
        return self._proven.bytes_per_row

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
            for known in (i for i in new_ids.tolist() if i in self):
                raise InputError(f"id {known} is in the index already; remove it before adding it again")
            self._rows.append(new_ids, vectors)
            self.watch.added(new_ids)
        self._keep_up(len(new_ids))

    def remove(self, ids: ArrayLike) -> None:
        """Forget keyframes. All or, on an error, none.

        Raises:
            InputError: an id that is not in the index, or given twice.
        """
        old_ids = check_ids(ids)
        with self._lock:
            for unknown in (i for i in old_ids.tolist() if i not in self):
                raise InputError(f"id {unknown} is not in the index; remove only ids that were added")
            for keyframe_id in old_ids.tolist():
                self._remove_row(self._rows.row_of_id[keyframe_id])
            self.watch.removed()
            self._drop_worn_graph()
        self._keep_up(len(old_ids))

    def search(self, query: ArrayLike, k: int) -> Answer:
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
            ids, similarities = self._ranked(self._similar(vector, k), vector, k)
            if self._graph_answers:
                self.watch.searched(vector, float(similarities[0]), self._rows)
                self._drop_failing_graph()
            return ids, similarities

    def descriptors(self, ids: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Descriptors by id, in time that does not depend on the size of the index.

        Args:
            ids: Keyframe ids, known or not, repeated or not.

        Returns:
            (M,) which of the ids are in the index, as positions in `ids`; and their (M, D) descriptors.
        """
        with self._lock:
            return self._rows.of_ids(ids)

    def sample(self, count: int, seed: int) -> NDArray[np.float32]:
        """(M, D) descriptors drawn with replacement, M = count, or 0 from an empty index."""
        with self._lock:
            rng = np.random.default_rng(seed)
            return np.asarray(self._vectors[rng.integers(len(self), size=count)] if len(self) else self._vectors)

    def self_check(self, num_queries: int = 100, k: int = 10, seed: int = 0) -> RecallCheck:
        """Compare what answers now with the plain product, on descriptors of the index turned by about 25 degrees.

        Args:
            num_queries: Queries to draw, at least 1.
            k: Depth of the comparison.
            seed: Of the draw.
        """
        num_queries, k = check_at_least_one(num_queries, "num_queries"), check_at_least_one(k, "k")
        rng = np.random.default_rng(seed)
        answers = []
        for _ in range(num_queries):
            with self._lock:
                if len(self) == 0:
                    break
                query = turned(self._vectors[rng.integers(len(self))], rng)
                _, exact = self._ranked(by_product(self._vectors, query, k), query, k)
                answers.append((exact, self._ranked(self._similar(query, k), query, k)[1]))
        return RecallCheck.of(answers)

    # -- the graph, for the cache beside a map -----------------------------------------------------------------------

    def snapshot(self, graph_path: Path) -> GraphSnapshot | None:
        """Write the graph to a file in hnswlib's format and say what is in it; None while there is none.

        Raises:
            OSError: the file did not arrive in full, as on a full disk.
        """
        with self._lock:
            return None if self._graph is None else self._graph.snapshot(self._rows, graph_path)

    def adopt(self, graph: HnswGraph, snapshot: GraphSnapshot) -> None:
        """Start an empty index from a graph that was read back, with the descriptors that are in it."""
        with self._lock:
            if len(self) or len(graph) != len(snapshot.ids):
                raise ValueError("a graph can only be adopted by an empty index and with all of its descriptors")
            self._rows.append(snapshot.ids, snapshot.descriptors)
            self._graph, self._graph_answers = GraphRows(graph, snapshot.labels), True

    # -- search, in steps; the lock is held --------------------------------------------------------------------------

    @property
    def _vectors(self) -> NDArray[np.float32]:
        return self._rows.vectors[: len(self._rows)]

    def _similar(self, query: NDArray[np.float32], k: int) -> SimilarRows:
        if self._graph is None or not self._graph_answers:
            return self._proven.search(self._vectors, query, k)
        proposed = self._graph.search(query, k)
        if proposed is None:
            return by_product(self._vectors, query, k)
        tail = by_product(self._vectors, query, k, first=len(self._graph))
        return compared(self._vectors, proposed, query).joined(tail)

    def _ranked(self, similar: SimilarRows, query: NDArray[np.float32], k: int) -> Answer:
        return ranked(similar, self._rows.ids, self._rows.vectors, query, k)

    # -- rows change places; the lock is held ------------------------------------------------------------------------

    def _remove_row(self, row: int) -> None:
        """Take out a row, keeping graph rows in front and the array without holes."""
        if self._graph is not None and row < len(self._graph):
            self._swap_rows(row, len(self._graph) - 1)
            self._graph.drop_last()
            row = len(self._graph)
        self._swap_rows(row, len(self) - 1)
        self._rows.drop_last()
        self._proven.dropped_last(len(self))

    def _swap_rows(self, a: int, b: int) -> None:
        if a == b:
            return
        self._rows.swap(a, b)
        self._proven.swapped(a, b, self._rows.vectors)
        if self._graph is not None:
            self._graph.swapped(a, b)

    # -- what follows a change, in batches: a search waits for one of them and not for the build of a whole graph -----

    def _keep_up(self, num_changed: int) -> None:
        self._fill_graph(min(num_changed, MOST_MOVED) + MOVE_BATCH)
        self._choose_axes()
        self._code_rows(num_changed + 1)

    def _fill_graph(self, budget: int) -> None:
        """Move as many rows into the graph as have just come, and a batch; let it answer while few are outside."""
        while budget > 0:
            with self._lock:
                if not self._wants_graph():
                    break
                self._graph = new_graph(self.dimension, self.config) if self._graph is None else self._graph
                for a, b in self._graph.draw(MOVE_BATCH, len(self)):
                    self._swap_rows(a, b)
                self._graph.take_in(MOVE_BATCH, self._rows.vectors)
            budget -= MOVE_BATCH
        with self._lock:
            if self._graph is not None and self._num_outside <= TAIL_LIMIT and not self._graph_answers:
                self._graph_answers = True
                self._proven.clear()
            self._graph_answers = self._graph_answers and self._num_outside <= LONG_TAIL

    @property
    def _num_outside(self) -> int:
        return len(self) - (0 if self._graph is None else len(self._graph))

    def _wants_graph(self) -> bool:
        is_large = len(self) > self.config.hnsw_above and not self._graph_has_failed
        return is_large and self._num_outside > TAIL_LIMIT

    def _choose_axes(self) -> None:
        with self._lock:
            count = len(self)
            if self._graph_answers or not self._proven.is_due(count):
                return
            sample = self._vectors[np.linspace(0, count - 1, min(SAMPLED_ROWS, count)).astype(np.int64)]
        axes = self._proven.choose(sample, count)  # takes long, and needs no lock
        with self._lock:
            self._proven.use(axes, count)

    def _code_rows(self, budget: int) -> None:
        while budget > 0:
            with self._lock:
                num_coded = 0 if self._graph_answers else self._proven.catch_up(self._vectors)
            budget = budget - num_coded if num_coded else 0

    def _drop_worn_graph(self) -> None:
        """Give up a graph that is mostly removed nodes, or that a shrunken index no longer needs."""
        if self._graph is not None and (self._graph.is_worn or len(self) <= self.config.hnsw_above // 2):
            self._graph, self._graph_answers = None, False

    def _drop_failing_graph(self) -> None:
        """Rather a slower search than revisits that nobody knows were missed."""
        if self.watch.is_alarmed:
            _LOGGER.warning("%s; the search is exact from now on: raise search.hnsw_ef or hnsw_m", self.watch)
            self._graph, self._graph_answers, self._graph_has_failed = None, False, True
