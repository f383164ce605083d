from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.benchmark.statistics import ratio_over_rounds, round_medians, summarise
from progeo_edge.errors import InputError

times = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=50)


def test_of_one_to_a_hundred():
    summary = summarise(range(1, 101))
    assert (summary.count, summary.min, summary.mean, summary.max) == (100, 1.0, 50.5, 100.0)
    assert (summary.p50, summary.p90, summary.p99) == pytest.approx((50.5, 90.1, 99.01))
    assert summary.jitter == 1.0
    assert summary.std == pytest.approx(28.866, abs=1e-3)


def test_jitter_depends_on_the_order_and_std_does_not():
    steady, restless = summarise([1, 1, 1, 2, 2, 2]), summarise([1, 2, 1, 2, 1, 2])
    assert steady.std == restless.std
    assert steady.jitter == pytest.approx(0.2) and restless.jitter == 1.0


def test_a_single_measurement_has_no_jitter():
    summary = summarise([3.0])
    assert (summary.min, summary.p99, summary.max, summary.jitter, summary.std) == (3.0, 3.0, 3.0, 0.0, 0.0)


@given(times)
def test_percentiles_are_ordered_and_within_the_series(values: list[float]):
    summary = summarise(values)
    order = [summary.min, summary.p50, summary.p90, summary.p99, summary.max]
    assert all(low <= high * (1 + 1e-12) for low, high in pairwise(order))
    assert summary.max == max(values) and summary.min == min(values)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_series_is_refused(values: list[float]):
    with pytest.raises(InputError, match="expected"):
        summarise(values)


def test_a_ratio_is_taken_within_each_round():
    # The second round was disturbed for both alike: the ratio does not see it.
    ratio = ratio_over_rounds([10.0, 30.0, 11.0], [5.0, 15.0, 5.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.num_rounds) == (2.0, 2.0, 2.2, 3)


@given(st.lists(st.tuples(st.floats(0.01, 1e3), st.floats(0.01, 1e3)), min_size=1, max_size=20))
def test_swapping_the_contenders_inverts_the_spread(pairs: list[tuple[float, float]]):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    forth, back = ratio_over_rounds(a, b), ratio_over_rounds(b, a)
    assert forth.low == pytest.approx(1 / back.high) and forth.high == pytest.approx(1 / back.low)
    assert forth.low <= forth.median <= forth.high


def test_rounds_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="2 rounds, the contender 1; both must take part"):
        ratio_over_rounds([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="took no time"):
        ratio_over_rounds([1.0], [0.0])
    with pytest.raises(InputError, match="0 rounds"):
        round_medians([])


def test_medians_of_rounds():
    assert round_medians([[1.0, 2.0, 90.0], np.array([4.0])]) == [2.0, 4.0]
