from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chi2

from progeo_edge.errors import InputError
from progeo_edge.evaluation.counts import binomial_interval, poisson_interval, rate


@pytest.mark.parametrize("count", [0, 1, 2, 5, 17, 100, 2500])
def test_garwood_intervals_are_those_of_the_chi_square(count):
    low, high = poisson_interval(count)
    assert low == pytest.approx(0.5 * chi2.ppf(0.025, 2 * count) if count else 0.0, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(0.5 * chi2.ppf(0.975, 2 * count + 2), rel=1e-9)


def test_a_rate_without_events_is_bounded_by_the_time_watched():
    watched = rate(0, 2.0)
    assert (watched.per_hour, watched.low) == (0.0, 0.0)
    assert watched.high == pytest.approx(3.689 / 2, abs=1e-3)
    assert rate(4, 2.0).text() == "2 [0.545, 5.12] per hour"
    assert rate(4, 2.0).to_dict()["per_hour"] == 2.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_clopper_pearson_intervals_are_those_of_the_beta_distribution(trials, data):
    successes = data.draw(st.integers(0, trials))
    interval = binomial_interval(successes, trials)
    assert interval.value == successes / trials
    low = beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


def test_what_has_no_rate_or_share():
    assert binomial_interval(0, 0).value is None
    with pytest.raises(InputError, match="3 successes in 2 trials"):
        binomial_interval(3, 2)
    for count, hours in ((1, 0.0), (-1, 2.0), (1, float("nan"))):
        with pytest.raises(InputError, match="have no rate"):
            rate(count, hours)
