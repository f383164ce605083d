"""The search in blocks gives what one product of all queries and all rows gives, ties included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.evaluation.retrieval import Ranking
from progeo_train.feature_file import FeatureFile
from progeo_train.sharded_search import merge, search_features

ROWS, DIM, QUERIES, K = 237, 8, 11, 9


def small_integers(count: int, seed: int) -> NDArray[np.float32]:
    """Few distinct values: products are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (count, DIM)).astype(np.float32)


@pytest.fixture
def queries() -> NDArray[np.float32]:
    return small_integers(QUERIES, 1)


@pytest.fixture
def database() -> NDArray[np.float32]:
    rows = small_integers(ROWS, 2)
    rows[[0, 31, 32, 33, ROWS - 1]] = np.nan
    return rows


def stored(database: NDArray[np.float32], folder: Path, dtype="float32") -> FeatureFile:
    file = FeatureFile.open_or_create(folder, ROWS, DIM, "k", dtype=dtype, chunk_rows=16)
    for chunk in file.open_chunks():
        rows = file.rows_of(chunk)
        file.write_chunk(chunk, database[rows.start : rows.stop])
    return file


def expected(queries: NDArray[np.float32], database: NDArray[np.float32], k: int, excluded=None):
    """By sorting all products in double precision; equal ones keep the order of the rows."""
    products = queries.astype(np.float64) @ database.astype(np.float64).T
    for query, rows in enumerate(excluded or []):
        products[query, rows] = np.nan
    products[np.isnan(products)] = -np.inf
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    similarities = np.take_along_axis(products, order, axis=1)
    return np.where(np.isfinite(similarities), order, -1), similarities


def check(ranking, wanted) -> None:
    """Equal ones at the last place may be any of them; all others are settled."""
    np.testing.assert_array_equal(ranking.similarities, wanted[1])
    settled = (wanted[1] > wanted[1][:, -1:]) | np.isneginf(wanted[1])
    np.testing.assert_array_equal(ranking.rows[settled], wanted[0][settled])
    for rows in ranking.rows:
        assert len(set(rows[rows >= 0])) == (rows >= 0).sum()


@pytest.mark.parametrize("block_rows", [1, 7, 32, 1000])
def test_blocks_of_any_size_give_the_exact_ranking(tmp_path: Path, queries, database, block_rows: int) -> None:
    wanted = expected(queries, database, K)
    check(search_features(queries, stored(database, tmp_path), K, block_rows=block_rows), wanted)
    check(search_features(queries, database, K, block_rows=block_rows), wanted)


def test_every_row_has_the_similarity_that_is_stated(queries, database) -> None:
    ranking = search_features(queries, database, K, block_rows=100)
    products = queries.astype(np.float64) @ database.astype(np.float64).T
    np.testing.assert_array_equal(np.take_along_axis(products, ranking.rows, axis=1), ranking.similarities)


def test_half_precision_on_the_disk_is_searched(tmp_path: Path, queries, database) -> None:
    file = stored(database, tmp_path, "float16")
    check(search_features(queries, file, K, block_rows=50), expected(queries, database, K))


def test_excluded_rows_are_no_candidates(queries, database) -> None:
    rng = np.random.default_rng(4)
    excluded = [np.sort(rng.choice(ROWS, size, replace=False)) for size in range(0, 20 * QUERIES, 20)]
    excluded[3] = np.arange(ROWS)
    ranking = search_features(queries, database, K, excluded=excluded, block_rows=40)
    check(ranking, expected(queries, database, K, excluded))
    assert (ranking.rows[3] == -1).all()


def test_fewer_rows_than_wanted_end_in_nothing(queries, database) -> None:
    ranking = search_features(queries, database[28:36], K, block_rows=3)
    check(ranking, expected(queries, np.vstack([database[28:36], np.full((4, DIM), np.nan)]), K))
    assert (ranking.rows[:, 5:] == -1).all() and (ranking.rows[:, :5] >= 0).all()


def test_a_query_without_a_descriptor_finds_nothing(queries, database) -> None:
    queries[4] = np.nan
    ranking = search_features(queries, database, K, block_rows=64)
    assert (ranking.rows[4] == -1).all() and np.isneginf(ranking.similarities[4]).all()
    others = np.arange(QUERIES) != 4
    wanted = expected(queries[others], database, K)
    check(Ranking(ranking.rows[others], ranking.similarities[others]), wanted)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_parts_of_several_processes_merge_to_the_exact_ranking(queries, database, world_size: int) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.global_rank, self.world_size = rank, world_size

    gathered: list[Ranking] = []

    def keep(own: Ranking, fabric: object) -> list[Ranking]:
        gathered.append(own)
        return [own]

    from progeo_train import sharded_search

    for rank in range(world_size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharded_search, "_gathered", keep)
            search_features(queries, database, K, Rank(rank), block_rows=20)  # type: ignore[arg-type]
    check(merge(gathered, K), expected(queries, database, K))


def test_shapes_that_do_not_fit_are_refused(queries, database) -> None:
    with pytest.raises(InputError, match=r"expected \(Q, 8\)"):
        search_features(queries[:, :5], database, K)
    with pytest.raises(InputError, match="k = 0"):
        search_features(queries, database, 0)
    with pytest.raises(InputError, match="exclusions must be given"):
        search_features(queries, database, K, excluded=[np.zeros(0, np.int64)])
