"""Exact nearest rows in a database larger than the memory, its chunks shared between processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from progeo_edge.errors import InputError
from progeo_edge.evaluation.retrieval import DATABASE_ROWS, Ranking, search
from progeo_train.feature_file import FeatureFile

Excluded = Sequence[NDArray[np.int64]]
Database = FeatureFile | NDArray[Any]


def search_features(
    queries: NDArray[np.float32],
    database: Database,
    k: int,
    fabric: Fabric | None = None,
    *,
    excluded: Excluded | None = None,
    block_rows: int = DATABASE_ROWS,
) -> Ranking:
    """The `k` rows of largest cosine for every query; every process calls this and gets the whole ranking.

    Each process reads its part of the database block by block, as copies that are dropped again: the memory needed is
    that of the queries, of one block and of the ranking, whatever the size of the database. Equal cosines
    are in the order of the database; of those that share the last place, any may be left out (each block is ranked by
    `progeo_edge.evaluation.retrieval.search`).

    Args:
        queries: (Q, D) float32 unit rows, the same in every process. One that is NaN finds nothing.
        database: (N, D) unit rows of any float type; rows that are NaN are no candidates.
        k: Candidates per query.
        fabric: Launched; None works alone.
        excluded: Per query, the database rows that are no candidates; None excludes nothing.
        block_rows: Rows read at a time.

    Raises:
        InputError: shapes that do not fit.
    """
    width = database.dim if isinstance(database, FeatureFile) else database.shape[-1]
    if queries.ndim != 2 or queries.shape[1] != width:
        raise InputError(f"queries have shape {queries.shape}; expected (Q, {width}) as the database has")
    if k < 1 or (excluded is not None and len(excluded) != len(queries)):
        raise InputError(f"k = {k} must be at least 1, and exclusions must be given for all {len(queries)} queries")
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    described: NDArray[np.bool_] = np.asarray(np.isfinite(queries).all(axis=1))
    asked = np.ascontiguousarray(np.where(described[:, None], queries, 0), np.float32)
    first, stop = (len(database) * part // world_size for part in (rank, rank + 1))
    own = _nothing(len(queries), k)
    for rows, block in _blocks(database, first, stop, block_rows):
        found = search(asked, block, k, _within(excluded, rows))
        own = merge([own, Ranking(np.where(found.rows >= 0, rows[found.rows], -1), found.similarities)], k)
    whole = own if fabric is None or world_size == 1 else merge(_gathered(own, fabric), k)
    whole.rows[~described] = -1
    whole.similarities[~described] = -np.inf
    return whole


def merge(rankings: Sequence[Ranking], k: int) -> Ranking:
    """The best `k` of several rankings of the same queries; of equal ones that of the earlier ranking comes first."""
    rows = np.concatenate([ranking.rows for ranking in rankings], axis=1)
    similarities = np.concatenate([ranking.similarities for ranking in rankings], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return Ranking(np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1))


def _nothing(num_queries: int, k: int) -> Ranking:
    return Ranking(np.full((num_queries, k), -1, np.int64), np.full((num_queries, k), -np.inf, np.float32))


def _blocks(
    database: Database, first: int, stop: int, block_rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows that hold a descriptor, and the descriptors, block after block."""
    for start in range(first, stop, block_rows):
        end = min(start + block_rows, stop)
        values = database.read_rows(start, end) if isinstance(database, FeatureFile) else database[start:end]
        present = ~np.isnan(values[:, 0])
        if present.any():
            rows = np.arange(start, end)[present]
            yield rows, np.ascontiguousarray(values if present.all() else values[present], np.float32)


def _within(excluded: Excluded | None, rows: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """Excluded rows of the database as rows of a block that holds `rows`, which rise."""
    if excluded is None:
        return None
    inside = []
    for wanted in excluded:
        near = wanted[(wanted >= rows[0]) & (wanted <= rows[-1])]
        places = np.searchsorted(rows, near)
        inside.append(places[rows[places] == near].astype(np.int64))
    return inside


def _gathered(own: Ranking, fabric: Fabric) -> list[Ranking]:
    """The rankings of all processes, in the order of their parts of the database."""
    rows = fabric.all_gather(torch.from_numpy(own.rows))
    similarities = fabric.all_gather(torch.from_numpy(own.similarities))
    assert isinstance(rows, Tensor) and isinstance(similarities, Tensor)
    return [Ranking(a, b) for a, b in zip(rows.cpu().numpy(), similarities.cpu().numpy(), strict=True)]
