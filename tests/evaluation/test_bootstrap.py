from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_edge.evaluation.bootstrap import (
    Interval,
    bootstrap,
    default_block_length,
    intervals,
    percentile_bounds,
    resample,
)


def _mean(values):
    return lambda rows: values[rows].mean(keepdims=True)


def test_the_same_seed_gives_the_same_samples_and_another_seed_does_not():
    values = np.random.default_rng(1).normal(size=50)
    first = bootstrap(_mean(values), 50, seed=7, resamples=50)
    assert np.array_equal(first, bootstrap(_mean(values), 50, seed=7, resamples=50))
    assert not np.array_equal(first, bootstrap(_mean(values), 50, seed=8, resamples=50))


@given(count=st.integers(1, 60), block=st.integers(1, 60), seed=st.integers(0, 100))
def test_blocks_are_runs_of_neighbours_on_the_circle(count, block, seed):
    rows = resample(count, min(block, count), np.random.default_rng(seed))
    assert rows.shape == (count,)
    assert rows.min() >= 0 and rows.max() < count
    steps = np.diff(rows)
    inside = np.arange(1, count) % min(block, count) != 0
    assert np.all((steps[inside] == 1) | (steps[inside] == 1 - count))


def test_interval_of_independent_items_agrees_with_the_binomial_formula():
    values = np.zeros(400)
    values[:280] = 1.0
    samples = bootstrap(_mean(values), 400, resamples=4000)
    low, high = percentile_bounds(samples)
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert low[0] == pytest.approx(0.7 - half_width, abs=0.006)
    assert high[0] == pytest.approx(0.7 + half_width, abs=0.006)


def test_blocks_widen_the_interval_of_runs_by_the_root_of_their_length():
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 100), 16).astype(float)
    independent = bootstrap(_mean(values), len(values), resamples=2000).std()
    in_blocks = bootstrap(_mean(values), len(values), resamples=2000, block_length=64).std()
    assert in_blocks / independent == pytest.approx(4.0, rel=0.25)


def test_undefined_samples_are_left_out_and_an_all_undefined_column_is_none():
    samples = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    first, second = intervals(np.array([0.5, np.nan]), samples, level=0.5)
    assert (first.value, first.low, first.high) == (0.5, 0.25, 0.75)
    assert second == Interval(None, None, None)
    assert second.percent() == "-"
    assert first.percent() == "50.0 [25.0, 75.0]"
    assert first.to_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 3, "block_length": 0}, {"count": 3, "resamples": 0}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError, match="at least 1"):
        bootstrap(_mean(np.ones(3)), **arguments)


def test_default_block_length_is_the_root():
    assert [default_block_length(count) for count in (1, 3, 226, 10_000)] == [1, 1, 15, 100]
