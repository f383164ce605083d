from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.benchmark.search import check_memory, grow_descriptors, measure_search, parse_sizes
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError


def places(count: int, dimension: int = 64, seed: int = 0) -> np.ndarray:
    """Unit rows that share a mean, each similar to the one before."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(0, 0.3, (count, dimension)), axis=0) + rng.normal(0, 1.0, dimension)
    return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True), dtype=np.float32)


def test_sizes():
    assert parse_sizes("1k, 10K,2M,500,1k") == [500, 1_000, 10_000, 2_000_000]
    assert parse_sizes("") == []


@pytest.mark.parametrize("text", ["1g", "k", "1.5k", "-1", "1kk", "ten", "1k;2k", "²k"])
def test_a_size_that_is_not_understood(text: str):
    with pytest.raises(InputError, match="expected a whole number such as 500, 10k or 1M"):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["0", "11M"])
def test_a_size_out_of_range(text: str):
    with pytest.raises(InputError, match="expected 1 to 10,000,000"):
        parse_sizes(text)


@given(st.integers(1, 40), st.integers(1, 200))
def test_grown_descriptors_begin_with_the_own_and_have_unit_norm(count: int, size: int):
    own = places(count)
    grown = grow_descriptors(own, size)
    assert grown.shape == (size, 64) and grown.dtype == np.float32
    np.testing.assert_array_equal(grown[:count], own[:size])
    np.testing.assert_allclose(np.linalg.norm(grown, axis=1), 1.0, atol=1e-5)


def test_repetitions_are_other_places_with_the_same_neighbourhoods():
    own = places(100)
    grown = grow_descriptors(own, 300)
    cosines = grown @ grown.T
    within = np.diag(cosines, 1)
    assert within[100:199].mean() == pytest.approx(within[:99].mean(), abs=0.05)
    mean = own.mean(axis=0)
    assert cosines[:100, 100:200].mean() == pytest.approx(float(mean @ mean), abs=0.05)
    assert cosines[:100, 100:].max() < within[:99].mean()


def test_every_size_is_measured_in_every_round():
    book = SeriesBook()
    own = places(50)
    facts = measure_search(own, own[:7], [20, 200], SearchConfig(), book, rounds=3)
    series = book.as_json()
    assert [(item.size, item.kind, item.recall_at_1) for item in facts] == [(20, "exact", 1.0), (200, "exact", 1.0)]
    assert list(series) == ["search.20", "search.200"]
    assert all(len(item["rounds"]) == 3 and item["summary"]["count"] == 21 for item in series.values())


def test_without_sizes_nothing_is_measured():
    book = SeriesBook()
    assert measure_search(places(5), places(5), [], SearchConfig(), book, rounds=2) == []
    assert book.as_json() == {}


def test_what_does_not_fit_into_memory_is_refused_before_any_work():
    check_memory([1000], 512, free_mb=100.0)
    with pytest.raises(InputError, match=r"10,000,000 keyframes need .* MB, and 100 MB are free; name smaller --sizes"):
        check_memory([10_000_000], 512, free_mb=100.0)
