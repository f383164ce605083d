"""Exact search by bounds: the answers of float64 arithmetic, whatever the descriptors look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge import int8_products, leading_axes, proven_search, similar_rows
from progeo_edge.coded_rows import CodedRows
from progeo_edge.config import SearchConfig
from progeo_edge.index import PlaceIndex
from progeo_edge.leading_axes import better_axes, choose_axes, evenly_mixed, principal_axes
from tests.together import run_together

Rows = NDArray[np.float32]
needs_numkong = pytest.mark.skipif(
    not int8_products.is_available(), reason="numkong is not installed: there are no bounds to test"
)
EXACT = SearchConfig(hnsw_above=10**9)


@pytest.fixture(autouse=True)
def small_scale() -> Iterator[None]:
    """Codes from 64 rows on and few axes, so that small examples go every way. (Hypothesis wants no function scope.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proven_search, "CODED_FROM", 64)
        patch.setattr(proven_search, "WAITING", 8)
        patch.setattr(proven_search, "CODED_AT_A_TIME", 64)
        patch.setattr(leading_axes, "NUM_AXES", (2, 5, 16))
        yield


@pytest.fixture(scope="module", autouse=True)
def small_scale_for_hypothesis() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proven_search, "CODED_FROM", 64)
        patch.setattr(proven_search, "WAITING", 8)
        patch.setattr(proven_search, "CODED_AT_A_TIME", 64)
        patch.setattr(leading_axes, "NUM_AXES", (2, 5, 16))
        yield


def unit(rows: NDArray[Any]) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True), dtype=np.float32)


def scattered(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    return unit(rng.standard_normal((count, dimension)))


def clustered(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    centres = rng.standard_normal((7, dimension))
    return unit(centres[rng.integers(7, size=count)] + 0.2 * rng.standard_normal((count, dimension)))


def near_few_axes(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    return unit(rng.standard_normal((count, dimension)) * 0.6 ** np.arange(dimension) + 1e-9)


def repeated(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    return scattered(5, dimension, rng)[rng.integers(5, size=count)]


def all_equal(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    return np.repeat(scattered(1, dimension, rng), count, axis=0)


def nearly_tied(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    """Differences far below a step of the codes, some below a step of float32."""
    noise = rng.standard_normal((count, dimension)) * 10.0 ** rng.uniform(-9, -3, size=(count, 1))
    return unit(scattered(1, dimension, rng) + noise)


def one_hot_and_denormal(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    rows = np.full((count, dimension), 1e-41, dtype=np.float32)
    rows[np.arange(count), rng.integers(dimension, size=count)] = rng.choice([-1.0, 1.0], size=count)
    return rows


def of_tolerated_norms(count: int, dimension: int, rng: np.random.Generator) -> Rows:
    """Norms as far from 1 as is accepted: cosines beyond 1, which are cut, tie."""
    norms = rng.uniform(0.9991, 1.0009, size=(count, 1))
    return np.asarray(norms * clustered(count, dimension, rng), dtype=np.float32)


KINDS: list[Callable[[int, int, np.random.Generator], Rows]] = [
    scattered,
    clustered,
    near_few_axes,
    repeated,
    all_equal,
    nearly_tied,
    one_hot_and_denormal,
    of_tolerated_norms,
]


def exact_answer(ids: NDArray[Any], rows: Rows, query: Rows, k: int) -> tuple[Any, Any]:
    """The definition: cosines summed in float64, cut at 1, rounded to float32, best first, ties by lower id."""
    similarities = np.clip(np.sum(rows.astype(float) * query.astype(float), axis=1), -1, 1).astype(np.float32)
    order = np.lexsort((ids, -similarities))[:k]
    return ids[order], similarities[order]


def assert_exact(index: PlaceIndex, model: dict[int, Rows], query: Rows, k: int) -> None:
    ids = np.array(sorted(model), dtype=np.int64)
    rows = np.stack([model[i] for i in ids.tolist()]) if model else np.zeros((0, len(query)), dtype=np.float32)
    found, similarities = index.search(query, k)
    expected, expected_similarities = exact_answer(ids, rows, query, k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(similarities, expected_similarities)


def a_query(rows: Rows, rng: np.random.Generator) -> Rows:
    """One of the rows, something near one, or anything."""
    row = rows[rng.integers(len(rows))]
    turn = rng.choice([0.0, 1e-6, 0.05, 30.0]) * rng.standard_normal(len(row))
    return np.asarray(unit((row + turn)[None])[0])


@pytest.mark.parametrize("library", ["numkong", "none"])
@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dimension=st.sampled_from([1, 2, 3, 7, 8, 17, 33, 64, 100, 330]),
    k=st.sampled_from([1, 2, 5, 30, 1000]),
    changes=st.lists(st.tuples(st.booleans(), st.sampled_from([1, 3, 40, 150, 400])), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_the_answer_is_exact_after_any_additions_and_removals(
    library: str, kind: Any, dimension: int, k: int, changes: list[tuple[bool, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pool = kind(1200, dimension, rng)
    index, model = PlaceIndex(dimension, EXACT), dict[int, Rows]()
    with pytest.MonkeyPatch.context() as patch:
        if library == "none":
            patch.setattr(int8_products, "is_available", lambda: False)
        for removes, count in changes:
            if removes and model:
                gone = rng.permutation(sorted(model))[:count]
                index.remove(gone)
                for i in gone.tolist():
                    del model[i]
            else:
                free = rng.permutation(np.setdiff1d(np.arange(len(pool)), list(model)))[:count].astype(np.int64)
                index.add(free, pool[free])
                model |= {i: pool[i] for i in free.tolist()}
            for _ in range(3):
                assert_exact(index, model, a_query(pool, rng), k)


@pytest.mark.parametrize("sign", [1, -1])
def test_cosines_that_are_cut_tie_by_id(sign: int) -> None:
    """Norms of 1 within 1e-3 are accepted, so that cosines may lie beyond 1."""
    rows = np.array([[1.0004], [1.0003], [1.0002], [1.0001]], dtype=np.float32)
    index = PlaceIndex(1, EXACT)
    index.add([7, 5, 6, 4], rows)
    ids, similarities = index.search([float(sign)], 2)
    assert ids.tolist() == [4, 5]
    assert similarities.tolist() == [sign, sign]


@needs_numkong
@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dimension=st.sampled_from([1, 2, 5, 16, 31, 64, 200, 700]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_no_bound_is_below_its_cosine(kind: Any, dimension: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = kind(120, dimension, rng)
    number = int(share * dimension)
    codes = CodedRows(dimension, evenly_mixed(principal_axes(rows, number)) if number else None)
    codes.append(rows)
    for _ in range(5):
        query = a_query(rows, rng)
        cosines = rows.astype(np.float64) @ query.astype(np.float64)
        bounds = codes.upper_bounds(query).astype(np.float64)
        assert np.all(bounds >= cosines)
        if number == 0:
            assert np.all(bounds <= cosines + 0.05)


@needs_numkong
@pytest.mark.parametrize("kind", [scattered, clustered, near_few_axes])
def test_few_rows_are_compared_in_full(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = kind(4000, 96, rng)
    index = PlaceIndex(96, EXACT)
    index.add(np.arange(4000), rows)
    numbers: list[int] = []
    original = similar_rows.compared

    def counting(vectors: Rows, chosen: NDArray[np.int64], query: Rows) -> Any:
        numbers.append(len(chosen))
        return original(vectors, chosen, query)

    monkeypatch.setattr(proven_search, "compared", counting)
    for query in rows[::400]:
        index.search(query, 10)
    assert numbers, "the bounds were not used"
    assert sum(numbers) < 0.2 * 10 * len(rows)


@needs_numkong
def test_as_many_axes_as_the_descriptors_need() -> None:
    rng = np.random.default_rng(0)
    few = choose_axes(near_few_axes(2000, 40, rng), 100_000)
    assert few is not None
    assert len(few) < 40
    np.testing.assert_allclose(few @ few.T, np.eye(len(few)), atol=1e-12)
    assert choose_axes(scattered(2000, 40, rng), 100_000) is None
    assert better_axes(scattered(2000, 40, rng), 100_000, few) is None, "axes that no longer fit are given up"
    assert better_axes(near_few_axes(2000, 40, rng), 100_000, few) is few, "axes that still fit are kept"


def test_principal_axes_hold_the_most() -> None:
    rows = near_few_axes(500, 30, np.random.default_rng(1))
    axes = principal_axes(rows, 4)
    _, _, expected = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(axes * expected[:4], axis=1)), 1.0, atol=1e-2)


@needs_numkong
def test_rows_that_look_alike_are_searched_by_product() -> None:
    index = PlaceIndex(8, EXACT)
    index.add(np.arange(300), all_equal(300, 8, np.random.default_rng(0)))
    assert index._proven._doubtful(index._vectors[:256], index._vectors[0], 4) is None
    assert index.search(index._vectors[0], 4)[0].tolist() == [0, 1, 2, 3]


@needs_numkong
def test_one_addition_codes_at_most_a_batch() -> None:
    rng = np.random.default_rng(0)
    rows = scattered(700, 24, rng)
    index = PlaceIndex(24, EXACT)
    index.add(np.arange(500), rows[:500])
    assert len(index._proven) > 400
    index._proven.use(evenly_mixed(principal_axes(rows, 5)), 500)
    model = dict(enumerate(rows[:500]))
    for i in range(500, 520):
        before = len(index._proven)
        index.add([i], rows[i : i + 1])
        model[i] = rows[i]
        assert len(index._proven) - before <= 64
        assert_exact(index, model, a_query(rows, rng), 7)
    assert len(index) - len(index._proven) < 8


@needs_numkong
def test_a_waiting_row_that_takes_a_coded_place_is_found_there() -> None:
    rows = scattered(130, 24, np.random.default_rng(0))
    index = PlaceIndex(24, EXACT)
    index.add(np.arange(130), rows)
    assert len(index._proven) == 128
    index.remove([3, 8])
    assert len(index._proven) == 128
    for moved in (128, 129):
        assert index.search(rows[moved], 1)[0].tolist() == [moved]


@needs_numkong
def test_a_shrunken_index_gives_its_codes_back() -> None:
    rows = scattered(300, 8, np.random.default_rng(0))
    index = PlaceIndex(8, EXACT)
    index.add(np.arange(300), rows)
    assert index._proven.bytes_per_row > 0
    index.remove(np.arange(290))
    assert (len(index._proven), index._proven.bytes_per_row) == (0, 0)
    index.add(np.arange(290), rows[:290])
    assert len(index._proven) > 200


def test_changes_and_searches_from_threads_stay_exact() -> None:
    rng = np.random.default_rng(0)
    rows = clustered(3000, 24, rng)
    index = PlaceIndex(24, EXACT)
    index.add(np.arange(1000), rows[:1000])

    def add() -> None:
        for start in range(1000, 3000, 20):
            index.add(np.arange(start, start + 20), rows[start : start + 20])

    def remove() -> None:
        for keyframe_id in range(0, 400, 2):
            index.remove([keyframe_id])

    def search() -> None:
        for keyframe_id in range(401, 1000, 3):
            ids, similarities = index.search(rows[keyframe_id], 3)
            assert similarities[0] >= 1 - 1e-6
            assert keyframe_id in ids.tolist()

    run_together(add, remove, search, search)
    kept = {i: rows[i] for i in range(3000) if i >= 400 or i % 2}
    for _ in range(20):
        assert_exact(index, kept, a_query(rows, rng), 12)
