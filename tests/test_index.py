from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge import recall_watch
from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError
from progeo_edge.hnsw_graph import HnswGraph
from progeo_edge.index import MOVE_BATCH, TAIL_LIMIT, PlaceIndex
from tests.together import run_together

Rows = NDArray[np.float32]
SMALL_GRAPH = SearchConfig(hnsw_above=500)


def unit_rows(count: int, dimension: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def clustered_rows(count: int, dimension: int, seed: int = 0, clusters: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((clusters, dimension))[rng.integers(clusters, size=count)]
    rows += 0.4 * rng.standard_normal(rows.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def exact_answer(ids: Any, rows: Rows, query: Rows, k: int) -> tuple[Any, Any]:
    """The definition: cosines summed in float64, rounded to float32, best first, ties by lower id."""
    similarities = np.clip(np.sum(rows.astype(float) * query.astype(float), axis=1), -1, 1).astype(np.float32)
    order = np.lexsort((ids, -similarities))[:k]
    return ids[order], similarities[order]


def built(rows: Rows, config: SearchConfig, ids: Any = None) -> PlaceIndex:
    index = PlaceIndex(rows.shape[1], config)
    index.add(np.arange(len(rows)) if ids is None else ids, rows)
    return index


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    dimension=st.integers(2, 33),
    k=st.integers(1, 250),
    seed=st.integers(0, 2**31),
    copies=st.integers(1, 4),
)
def test_exact_search_equals_a_full_sort(count: int, dimension: int, k: Any, seed: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.tile(unit_rows(count, dimension, seed), (copies, 1))
    ids = rng.permutation(10 * len(rows))[: len(rows)]
    query = unit_rows(1, dimension, seed + 1)[0]
    found, similarities = built(rows, SearchConfig(), ids).search(query, k)
    expected_ids, expected_similarities = exact_answer(ids, rows, query, k)
    np.testing.assert_array_equal(found, expected_ids)
    np.testing.assert_array_equal(similarities, expected_similarities)
    assert found.dtype == np.int64
    assert similarities.dtype == np.float32


def test_hnsw_recall_on_clustered_data() -> None:
    rows = clustered_rows(3000, 32)
    index = built(rows, SMALL_GRAPH)
    assert index.kind == "hnsw"
    queries = clustered_rows(200, 32, seed=1)
    hits = [len(np.intersect1d(index.search(q, 10)[0], exact_answer(index.ids, rows, q, 10)[0])) for q in queries]
    assert np.mean(hits) / 10 >= 0.95
    check = index.self_check(num_queries=100, k=10)
    assert check.recall_at_1 >= 0.95
    assert check.recall_at_k >= 0.95
    assert check.num_queries == 100


def test_hnsw_similarities_are_the_exact_ones() -> None:
    rows = clustered_rows(2500, 16)
    index = built(rows, SMALL_GRAPH)
    for query in clustered_rows(20, 16, seed=2):
        ids, similarities = index.search(query, 15)
        expected_ids, expected = exact_answer(ids, rows[ids], query, 15)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(similarities, expected)


def test_self_check_sees_a_graph_that_lost_its_way() -> None:
    index = built(clustered_rows(6000, 32), SearchConfig(hnsw_above=500, hnsw_m=2, hnsw_ef_construction=8, hnsw_ef=1))
    assert index.self_check(k=10).recall_at_k < 0.9


def test_a_graph_that_misses_too_much_is_given_up_aloud(caplog: pytest.LogCaptureFixture) -> None:
    rows = clustered_rows(6000, 32)
    index = built(rows, SearchConfig(hnsw_above=500, hnsw_m=2, hnsw_ef_construction=8, hnsw_ef=1))
    assert str(index.kind) == "hnsw"
    for query in clustered_rows(300, 32, seed=1):
        index.search(query, 1)
    assert str(index.kind) == "exact"
    assert "HNSW missed the nearest keyframe in" in caplog.text
    index.add(np.arange(6000, 8000), clustered_rows(2000, 32, seed=2))
    assert str(index.kind) == "exact", "once is enough"
    assert index.self_check().recall_at_k == 1.0


def test_a_graph_that_finds_everything_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    index = built(clustered_rows(3000, 32), SearchConfig(hnsw_above=500, hnsw_ef=300))
    for query in clustered_rows(300, 32, seed=1):
        index.search(query, 10)
    assert index.kind == "hnsw"
    assert index.watch.num_checks == recall_watch.REMEMBERED
    assert not caplog.records


def test_the_watch_hears_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_watch, "ROWS_AT_A_TIME", 1000)
    rows = clustered_rows(3000, 32)
    index = built(rows, SMALL_GRAPH)
    index.search(rows[0], 1)
    index.add([5000], rows[:1])
    assert index.watch._newcomers == {5000}
    index.search(rows[1], 1)
    index.remove([0])
    index.search(rows[2], 1)
    index.search(rows[3], 1)
    assert index.watch.num_checks == 0, "the first query is not judged, and the second needs three searches"
    index.search(rows[4], 1)
    assert index.watch.num_checks == 1


def test_search_is_exact_while_a_graph_is_being_built() -> None:
    rows = clustered_rows(4000, 16)
    index = PlaceIndex(16, SearchConfig(hnsw_above=3000, hnsw_ef=1, hnsw_m=2, hnsw_ef_construction=8))
    index.add(np.arange(2990), rows[:2990])
    for count in range(2990, 4000, 4):
        index.add(np.arange(count, count + 4), rows[count : count + 4])
        if str(index.kind) == "hnsw":
            break
        expected = exact_answer(np.arange(count + 4), rows[: count + 4], rows[count], 20)
        for found, right in zip(index.search(rows[count], 20), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    assert 3030 < len(index) < 3200, "some rows were searched exactly, then the graph took over"


def test_a_whole_map_at_once_does_not_wait_for_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("progeo_edge.index.MOST_MOVED", 640)
    rows = clustered_rows(3000, 16)
    index = built(rows, SMALL_GRAPH)
    assert str(index.kind) == "exact"
    for count in range(3000, 3100):
        index.add([count], clustered_rows(1, 16, seed=count))
    assert str(index.kind) == "hnsw"
    assert len(index) == 3100


def test_a_long_drive_does_not_lose_places_of_long_ago() -> None:
    """Each keyframe resembles its neighbours in time only; a graph built in their order has recall 0.91 here."""
    rng = np.random.default_rng(0)
    rows = np.empty((8000, 128), dtype=np.float32)
    state = rows[0] = unit_rows(1, 128)[0]
    for row in rows[1:]:
        state = state + 0.01 * rng.standard_normal(128)
        state /= np.linalg.norm(state)
        row[:] = state
    index = PlaceIndex(128, SMALL_GRAPH)
    for start in range(0, 8000, 20):
        index.add(np.arange(start, start + 20), rows[start : start + 20])
    assert index.self_check(num_queries=200, k=1).recall_at_1 >= 0.98


@settings(max_examples=25, deadline=None)
@given(data=st.data(), above=st.sampled_from([0, 40, 10_000]))
def test_adding_and_removing_equals_a_reference_model(data: Any, above: int) -> None:
    pool = unit_rows(1600, 8, seed=5)
    index = PlaceIndex(8, SearchConfig(hnsw_above=above, hnsw_ef=1000, hnsw_ef_construction=50))
    model: dict[int, Rows] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        if model and data.draw(st.booleans()):
            share = data.draw(st.sampled_from([0.01, 0.5, 1.0]))
            gone = sorted(model)[:: max(1, round(1 / share))]
            index.remove(gone)
            for keyframe_id in gone:
                del model[keyframe_id]
        else:
            start, count = data.draw(st.integers(0, 300)), data.draw(st.sampled_from([1, 7, 700, 1300]))
            new = [i for i in range(start, start + count) if i not in model]
            index.add(new, pool[new])
            model |= {i: pool[i] for i in new}
        assert len(index) == len(model)
        np.testing.assert_array_equal(index.ids, sorted(model))
        _assert_answers_like(index, model, pool)


def _assert_answers_like(index: PlaceIndex, model: dict[int, Rows], pool: Rows) -> None:
    query = unit_rows(1, 8, seed=len(model))[0]
    ids, similarities = index.search(query, 5)
    if not model:
        assert ids.size == 0
        assert similarities.size == 0
        return
    keys = np.array(sorted(model))
    expected_ids, expected = exact_answer(keys, pool[keys], query, 5)
    if index.kind == "exact":
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(similarities, expected)
    else:  # ef of 1000 over at most 1600 nodes: approximate in name only, one miss is allowed for
        assert len(np.intersect1d(ids, expected_ids)) >= min(len(keys), 5) - 1
    assert set(ids.tolist()) <= model.keys()


def test_a_removed_id_can_come_back_with_another_descriptor() -> None:
    rows = clustered_rows(3000, 16)
    index = built(rows, SMALL_GRAPH)
    index.remove([7, 8, 9])
    assert 7 not in index
    assert 7 not in index.search(rows[7], 50)[0]
    replacement = unit_rows(1, 16, seed=77)
    index.add([7], replacement)
    ids, similarities = index.search(replacement[0], 1)
    assert ids.tolist() == [7]
    assert similarities[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("above", [0, 10_000])
def test_everything_removed_is_an_empty_index(above: int) -> None:
    rows = unit_rows(2000, 8)
    index = built(rows, SearchConfig(hnsw_above=above))
    index.remove(index.ids)
    ids, similarities = index.search(rows[0], 3)
    assert (len(index), ids.shape, similarities.shape) == (0, (0,), (0,))
    assert index.self_check().num_queries == 0
    index.add([4], rows[:1])
    assert index.search(rows[0], 3)[0].tolist() == [4]


def test_the_graph_is_given_up_when_most_of_it_was_removed() -> None:
    rows = unit_rows(4000, 8)
    index = built(rows, SearchConfig(hnsw_above=1000))
    assert str(index.kind) == "hnsw"
    index.remove(np.arange(3600))
    assert str(index.kind) == "exact"
    expected, _ = exact_answer(np.arange(3600, 4000), rows[3600:], rows[5], 4)
    np.testing.assert_array_equal(index.search(rows[5], 4)[0], expected)


def test_one_addition_moves_at_most_a_batch_into_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    inserted: list[int] = []
    original = HnswGraph.add

    def counting(self: HnswGraph, vectors: Rows) -> Any:
        inserted.append(len(vectors))
        return original(self, vectors)

    monkeypatch.setattr(HnswGraph, "add", counting)
    rows = unit_rows(1700, 8)
    index = built(rows[:1600], SearchConfig(hnsw_above=1600))
    assert str(index.kind) == "exact"
    for keyframe_id in range(1600, 1700):
        before = sum(inserted)
        index.add([keyframe_id], rows[keyframe_id][None])
        assert sum(inserted) - before <= 2 * MOVE_BATCH
    assert str(index.kind) == "hnsw"
    assert len(index) - sum(inserted) <= TAIL_LIMIT


def test_k_above_the_count_and_above_ef() -> None:
    rows = unit_rows(2000, 8)
    index = built(rows, SearchConfig(hnsw_above=0, hnsw_ef=1))
    ids, similarities = index.search(rows[0], 5000)
    assert len(np.unique(ids)) == 2000
    assert np.all(np.diff(similarities) <= 0)


def test_equal_descriptors_come_back_by_lower_id() -> None:
    index = built(np.tile(unit_rows(1, 8), (300, 1)), SearchConfig(), np.random.default_rng(0).permutation(300))
    assert index.search(unit_rows(1, 8)[0], 7)[0].tolist() == list(range(7))


def test_the_same_calls_give_the_same_answers() -> None:
    rows, queries = clustered_rows(3000, 16), clustered_rows(50, 16, seed=9)
    first, second = built(rows, SMALL_GRAPH), built(rows, SMALL_GRAPH)
    for query in queries:
        np.testing.assert_array_equal(first.search(query, 10)[0], second.search(query, 10)[0])


def test_additions_removals_and_searches_from_threads() -> None:
    rows = clustered_rows(6000, 16)
    index = built(rows[:2000], SMALL_GRAPH)

    def add() -> None:
        for start in range(2000, 6000, 50):
            index.add(np.arange(start, start + 50), rows[start : start + 50])

    def remove() -> None:
        for keyframe_id in range(0, 1000, 10):
            index.remove([keyframe_id])

    def search() -> None:
        for query in rows[1000:1800]:
            ids, similarities = index.search(query, 5)
            assert len(ids) == 5
            assert similarities[0] == pytest.approx(1.0, abs=1e-5)

    run_together(add, remove, search, search)
    assert len(index) == 5900
    assert index.self_check(k=5).recall_at_k >= 0.95


BAD_IDS = [
    ([-1], "-1"),
    ([1, 1], "once"),
    ([1.0], "integers"),
    ([True], "integers"),
    (["a"], "integers"),
    ([2**63], "count from 0"),
    ([[1]], r"\(N,\)"),
    ([[1], [2, 3]], "array"),
    ([1, 2], "one id per row"),
    (3, r"\(N,\)"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS)
def test_bad_ids_are_refused_and_nothing_is_added(ids: Any, message: str) -> None:
    index = built(unit_rows(2, 4), SearchConfig(), [100, 200])
    with pytest.raises(InputError, match=message):
        index.add(ids, unit_rows(1, 4))
    assert index.ids.tolist() == [100, 200]


def _spoilt(column: int, value: float) -> Any:
    rows = unit_rows(3, 4).astype(np.float64)
    rows[1, column] = value
    return rows


BAD_DESCRIPTORS = [
    (unit_rows(3, 5), r"\(N, 4\)"),
    (unit_rows(3, 4)[0], r"\(N, 4\)"),
    (unit_rows(3, 4)[None], r"\(N, 4\)"),
    (_spoilt(2, np.nan), "row 1 .*NaN"),
    (_spoilt(2, np.inf), "row 1 .*NaN or infinity"),
    (_spoilt(2, 1e300), "row 1 .*norm"),
    (np.zeros((3, 4)), "norm 0;"),
    (1.01 * unit_rows(3, 4), r"norm 1\.01"),
    (unit_rows(3, 4).astype(complex), "complex"),
    (np.full((3, 4), "x"), "type"),
    ([[1.0, 0, 0, 0], [1.0], [1.0]], "array"),
    (np.array([[None] * 4] * 3), "object"),
]


@pytest.mark.parametrize(("descriptors", "message"), BAD_DESCRIPTORS)
def test_bad_descriptors_are_refused_and_nothing_is_added(descriptors: Any, message: str) -> None:
    index = PlaceIndex(4, SearchConfig())
    with pytest.raises(InputError, match=message):
        index.add([0, 1, 2], descriptors)
    assert len(index) == 0


@pytest.mark.parametrize("above", [0, 10_000])
@pytest.mark.parametrize("bad", [np.zeros(4), np.ones(3) / 3**0.5, np.full(4, np.nan), np.eye(4), "text", None])
def test_bad_queries_are_refused(above: int, bad: Any) -> None:
    index = built(unit_rows(1500, 4), SearchConfig(hnsw_above=above))
    with pytest.raises(InputError, match="query"):
        index.search(bad, 1)


@pytest.mark.parametrize("k", [0, -1, 1.0, True, None])
def test_k_must_be_a_positive_integer(k: Any) -> None:
    with pytest.raises(InputError, match="k is"):
        built(unit_rows(2, 4), SearchConfig()).search(unit_rows(1, 4)[0], k)


@pytest.mark.parametrize("dimension", [0, -3, 2.0])
def test_the_dimension_must_be_a_positive_integer(dimension: int) -> None:
    with pytest.raises(InputError, match="dimension"):
        PlaceIndex(dimension, SearchConfig())


def test_known_and_unknown_ids_are_refused_without_effect() -> None:
    index = built(unit_rows(3, 4), SearchConfig())
    with pytest.raises(InputError, match="id 2 is in the index already"):
        index.add([5, 2], unit_rows(2, 4))
    with pytest.raises(InputError, match="id 9 is not in the index"):
        index.remove([0, 9])
    assert index.ids.tolist() == [0, 1, 2]


def test_half_precision_and_double_precision_are_taken() -> None:
    index = PlaceIndex(64, SearchConfig())
    index.add([0], unit_rows(1, 64).astype(np.float16))
    index.add([1], unit_rows(1, 64, seed=1).astype(np.float64))
    index.add([], np.zeros((0, 64)))
    assert len(index) == 2


def test_descriptors_by_id_leave_out_what_is_not_there():
    index = PlaceIndex(3, SearchConfig())
    index.add([7, 3], np.eye(3)[:2])
    known, descriptors = index.descriptors([3, 5, 7, 3])
    assert known.tolist() == [0, 2, 3]
    assert np.array_equal(descriptors, np.eye(3)[[1, 0, 1]])
    assert index.descriptors([])[1].shape == (0, 3)


def test_a_sample_is_drawn_from_the_index_and_repeats_with_its_seed():
    index = PlaceIndex(3, SearchConfig())
    assert index.sample(4, seed=0).shape == (0, 3)
    index.add([1, 2], np.eye(3)[:2])
    drawn = index.sample(50, seed=0)
    assert {tuple(row) for row in drawn.tolist()} == {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)}
    assert np.array_equal(drawn, index.sample(50, seed=0))
    assert not np.array_equal(drawn, index.sample(50, seed=1))
