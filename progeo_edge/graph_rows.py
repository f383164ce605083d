"""The first rows of an array of descriptors in an HNSW graph, and how rows get there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import SearchConfig
from progeo_edge.descriptor_rows import DescriptorRows, grow
from progeo_edge.hnsw_graph import HnswGraph


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


class GraphRows:
    """Rows [0, len) are in the graph. Not thread-safe.

    Args:
        graph: Empty, or with these (N,) labels for the first N rows.
        labels: None for an empty graph.
    """

    def __init__(self, graph: HnswGraph, labels: NDArray[np.int64] | None = None) -> None:
        self._graph = graph
        self._labels = np.zeros(0, dtype=np.int64) if labels is None else labels.copy()
        self._row_of_label = dict(zip(self._labels.tolist(), range(len(self._labels)), strict=True))

    def __len__(self) -> int:
        return len(self._graph)

    @property
    def is_worn(self) -> bool:
        """Most of its nodes were removed."""
        return self._graph.num_removed > len(self._graph)

    def search(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
        """Rows of about the k nearest; None when the graph could not reach that many."""
        labels = self._graph.search(query, k)
        if labels is None:
            return None
        return np.array([self._row_of_label[label] for label in labels.tolist()], dtype=np.int64)

    def draw(self, count: int, num_rows: int) -> list[tuple[int, int]]:
        """Which of the rows outside the graph go into it next: pairs of rows to be exchanged for that.

        Drawn from all that are outside: a graph built strictly along a trajectory links neighbours in time only, and
        then searches get lost on the way to a place of long ago.
        """
        first = len(self)
        rng = np.random.default_rng(self._graph.num_inserted)
        chosen = np.sort(first + rng.choice(num_rows - first, size=count, replace=False))
        return list(zip(range(first, first + count), chosen.tolist(), strict=True))

    def take_in(self, count: int, vectors: NDArray[np.float32]) -> None:
        """Insert the first `count` rows outside the graph, in random order."""
        first = len(self)
        rows = np.arange(first, first + count)
        np.random.default_rng(self._graph.num_inserted).shuffle(rows)
        labels = self._graph.add(vectors[rows])
        grow(self._labels, first + count)
        self._labels[rows] = labels
        self._row_of_label.update(zip(labels.tolist(), rows.tolist(), strict=True))

    def swapped(self, a: int, b: int) -> None:
        """Two rows have been exchanged, both in the graph or both not."""
        if a >= len(self):
            return
        self._labels[[a, b]] = self._labels[[b, a]]
        for row in (a, b):
            self._row_of_label[int(self._labels[row])] = row

    def drop_last(self) -> None:
        """Take the last row out of the graph."""
        label = int(self._labels[len(self) - 1])
        self._graph.remove(label)
        del self._row_of_label[label]

    def snapshot(self, rows: DescriptorRows, path: Path) -> GraphSnapshot:
        """Write the graph to a file in hnswlib's format and say what is in it.

        Raises:
            OSError: the file did not arrive in full, as on a full disk.
        """
        if not self._graph.save(path):
            raise OSError(f"{path} was not written in full; is the disk full?")
        used = slice(0, len(self))
        return GraphSnapshot(
            rows.ids[used].copy(),
            self._labels[used].copy(),
            rows.vectors[used].copy(),
            self._graph.num_inserted,
            self._graph.num_removed,
        )


def new_graph(dimension: int, config: SearchConfig) -> GraphRows:
    """Without rows."""
    return GraphRows(HnswGraph(dimension, config))
