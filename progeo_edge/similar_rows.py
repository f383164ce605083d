"""Rows that may be among the nearest of a query: what every way of searching hands over to the final ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.row_products import row_products

Answer = tuple[NDArray[np.int64], NDArray[np.float32]]
"""(K,) ids and (K,) similarities, best first."""


@dataclass(frozen=True, slots=True, eq=False)
class SimilarRows:
    """Attributes: rows: (M,) int64; similarities: (M,) float32, each within `rounding_error` of the true cosine."""

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def best(self, k: int, dimension: int) -> SimilarRows:
        """Those that may be among the k nearest of these: k, and the few that rounding cannot tell from the last."""
        if len(self.rows) <= k:
            return self
        kept = np.flatnonzero(self.similarities >= lowest_of_interest(self.similarities, k, dimension))
        return SimilarRows(self.rows[kept], self.similarities[kept])

    def joined(self, other: SimilarRows) -> SimilarRows:
        """These and others."""
        return SimilarRows(
            np.concatenate([self.rows, other.rows]), np.concatenate([self.similarities, other.similarities])
        )


def compared(vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]) -> SimilarRows:
    """These rows of (N, D) vectors, compared in full with a (D,) query."""
    return SimilarRows(rows, row_products(vectors[rows], query))


def by_product(vectors: NDArray[np.float32], query: NDArray[np.float32], k: int, *, first: int = 0) -> SimilarRows:
    """What may be among the k nearest of the rows from `first` on: the plain product of them all."""
    similarities = row_products(vectors[first:], query)
    return SimilarRows(np.arange(first, len(vectors)), similarities).best(k, vectors.shape[1])


def ranked(
    similar: SimilarRows, ids: NDArray[np.int64], vectors: NDArray[np.float32], query: NDArray[np.float32], k: int
) -> Answer:
    """Ids and true cosines of the k nearest of these, best first, equal ones by lower id.

    A product's last bit depends on where a row stands in the matrix; a sum per row in float64 does not, so equal
    descriptors tie exactly.
    """
    rows = similar.best(k, vectors.shape[1]).rows
    exact = np.sum(vectors[rows].astype(np.float64) * query.astype(np.float64), axis=1)
    similarities = np.clip(exact, -1.0, 1.0).astype(np.float32)
    order = np.lexsort((ids[rows], -similarities))[:k]
    return ids[rows][order], similarities[order]


def lowest_of_interest(similarities: NDArray[np.float32], k: int, dimension: int) -> float:
    """A true cosine under which nothing can be among the k nearest, by (M,) similarities of at least k rows.

    Answers are rounded to float32, cut at -1 and 1, and told apart by id when they are equal. So what would be cut or
    rounded to the k-th is of interest too; that takes less than the second rounding error.
    """
    kth = float(np.partition(similarities, len(similarities) - k)[len(similarities) - k])
    low = min(kth, 1.0) - 2 * rounding_error(dimension)
    return low if low > -1.0 else -np.inf


def rounding_error(dimension: int) -> float:
    """How far a float32 product of unit vectors may be from the true one, whatever the order of its sums."""
    return 1.02 * (dimension + 8) * 2.0**-24
