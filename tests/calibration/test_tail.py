"""The tail of impostors: the law is recovered, and what it promises holds on fresh queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.calibration.tail import ImpostorTail, fit_tail, stretch, unstretch
from progeo_edge.errors import CalibrationError

SLOPE, LOCATION = 14.0, 0.5


def gumbel_maxima(rng, sizes, *, rank=1):
    """Stretched scores: the rank-th largest of a Poisson process with n exp(-SLOPE (t - LOCATION)) points above t."""
    arrivals = rng.exponential(size=(rank, len(sizes))).cumsum(axis=0)[rank - 1]
    return LOCATION + np.log(np.asarray(sizes) / arrivals) / SLOPE


def cosines(t):
    return 1.0 - np.exp(-np.asarray(t))


def true_probability(score, size):
    return 1.0 - np.exp(-size * np.exp(-SLOPE * (stretch(score, "cosine") - LOCATION)))


def test_the_law_is_recovered_from_queries_of_a_growing_map():
    rng = np.random.default_rng(0)
    sizes = np.linspace(20, 2000, 4000)
    tail = fit_tail(cosines(gumbel_maxima(rng, sizes)), sizes)
    assert tail.slope == pytest.approx(SLOPE, rel=0.06)
    for score in (0.68, 0.72, 0.78):
        assert tail.false_probability(score, 500.0) == pytest.approx(true_probability(score, 500.0), rel=0.35)


def test_second_largest_scores_give_the_same_law_when_they_are_known_to_be_second():
    rng = np.random.default_rng(1)
    sizes = np.full(4000, 300.0)
    second = gumbel_maxima(rng, sizes, rank=2)
    told = fit_tail(cosines(second), sizes, np.ones(4000, bool))
    assert told.slope == pytest.approx(SLOPE, rel=0.06)
    assert told.false_probability(0.7, 300.0) == pytest.approx(true_probability(0.7, 300.0), rel=0.25)
    untold = fit_tail(cosines(second), sizes)
    assert untold.false_probability(0.7, 300.0) < 0.7 * true_probability(0.7, 300.0)


@pytest.mark.parametrize("num_queries", [120, 1000])
def test_the_promised_rate_holds_on_average_over_robots(num_queries):
    """However few queries a robot has seen, robots pass impostors as often as promised, taken together."""
    rng = np.random.default_rng(2)
    promised, passed = 1e-3, []
    for _ in range(300):
        sizes = np.full(num_queries, 200.0)
        tail = fit_tail(cosines(gumbel_maxima(rng, sizes)), sizes)
        passed.append(true_probability(tail.score_at(promised, 200.0), 200.0))
    assert promised / 2 < np.mean(passed) < promised * 2


def test_a_short_experience_is_more_cautious_than_a_long_one():
    rng = np.random.default_rng(3)
    gates = []
    for count in (100, 5000):
        sizes = np.full(count, 200.0)
        gates.append(
            np.mean([fit_tail(cosines(gumbel_maxima(rng, sizes)), sizes).score_at(1e-5, 200.0) for _ in range(30)])
        )
    assert gates[0] > gates[1] + 0.01


def test_neighbours_that_see_one_impostor_count_once():
    rng = np.random.default_rng(4)
    single = gumbel_maxima(rng, np.full(200, 100.0))
    repeated = np.repeat(single, 5)
    assert fit_tail(cosines(repeated), np.full(1000, 100.0)).num_large == pytest.approx(
        fit_tail(cosines(single), np.full(200, 100.0)).num_large, abs=3
    )


@given(
    slope=st.floats(2.0, 60.0),
    log_rate=st.floats(-12.0, -2.0),
    num_large=st.floats(10.0, 1000.0),
    probability=st.floats(1e-8, 0.5),
    size=st.floats(10.0, 1e6),
    scale=st.sampled_from(["cosine", "plain"]),
)
def test_score_at_is_the_inverse(slope, log_rate, num_large, probability, size, scale):
    tail = ImpostorTail(scale, 0.4, log_rate, slope, num_large, 100)
    score = tail.score_at(probability, size)
    if scale == "plain" or score < 0.9999:
        assert tail.false_probability(score, size) == pytest.approx(probability, rel=1e-4)


@given(
    size=st.floats(10.0, 1e5), growth=st.floats(1.1, 100.0), probability=st.floats(1e-7, 0.3), less=st.floats(0.01, 0.9)
)
def test_the_gate_rises_with_the_map_and_with_the_promise(size, growth, probability, less):
    tail = ImpostorTail("cosine", 0.5, -5.0, 14.0, 60.0, 300)
    assert tail.score_at(probability, size * growth) > tail.score_at(probability, size)
    assert tail.score_at(probability * less, size) > tail.score_at(probability, size)


@given(st.floats(-1.0, 0.99999))
def test_stretching_can_be_undone(cosine):
    assert unstretch(float(stretch(cosine, "cosine")), "cosine") == pytest.approx(cosine, abs=1e-9)


def test_too_few_or_equal_maxima_are_refused():
    with pytest.raises(CalibrationError, match=r"30 queries leave 15 maxima.*at least 20.*drive further"):
        fit_tail(np.linspace(0.1, 0.5, 30), np.full(30, 10.0))
    with pytest.raises(CalibrationError, match="no tail"):
        fit_tail(np.concatenate([np.zeros(60), np.full(50, 1e-12)]), np.full(110, 10.0))
    with pytest.raises(CalibrationError, match="not finite"):
        fit_tail([0.1, np.nan], [10.0, 10.0])
