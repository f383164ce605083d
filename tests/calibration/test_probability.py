"""From cosine to probability: monotone, calibrated on what it was made from, and aware of the size of the map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.calibration.probability import SamePlaceCurve, fit_curve
from progeo_edge.errors import CalibrationError


def samples(rng, count=3000):
    same = np.clip(rng.normal(0.72, 0.08, count), -1, 0.99)
    other = np.clip(rng.normal(0.48, 0.06, count), -1, 0.99)
    return same, other


def test_probabilities_are_what_they_say():
    rng = np.random.default_rng(0)
    same, other = samples(rng)
    curve = fit_curve(same, other, np.full(3000, 400.0), prior=0.5)
    same, other = samples(rng, 20_000)
    scores = np.concatenate([same, other])
    is_same = np.concatenate([np.ones(20_000), np.zeros(20_000)])
    probability = curve.probability(scores, 400.0)
    for low in np.arange(0.0, 1.0, 0.2):
        inside = (probability >= low) & (probability < low + 0.2)
        assert probability[inside].mean() == pytest.approx(is_same[inside].mean(), abs=0.08)


def test_a_prior_of_few_revisits_lowers_every_probability():
    rng = np.random.default_rng(1)
    same, other = samples(rng)
    often, seldom = (fit_curve(same, other, np.full(3000, 400.0), prior) for prior in (0.5, 0.05))
    assert seldom.probability(0.6, 400.0) < 0.5 * often.probability(0.6, 400.0)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(1, 1e6), st.floats(1, 1e6))
def test_monotone_in_the_cosine_and_falling_with_the_map(a, b, n, m):
    curve = SamePlaceCurve(-9.0, 14.0, 300.0, 0.3)
    low, high = sorted((a, b))
    assert curve.probability(low, n) <= curve.probability(high, n)
    small, large = sorted((n, m))
    assert curve.probability(a, large) <= curve.probability(a, small)
    assert 0.0 <= curve.probability(a, n) <= 1.0


def test_ten_times_the_map_is_ten_times_the_odds_against():
    curve = SamePlaceCurve(-9.0, 14.0, 300.0, 0.3)
    small, large = (curve.probability(0.5, size) for size in (300.0, 3000.0))
    assert small / (1 - small) == pytest.approx(10 * large / (1 - large))


def test_many_pairs_of_one_kind_do_not_outweigh_the_other():
    rng = np.random.default_rng(4)
    same, other = samples(rng)
    even = fit_curve(same, other, np.full(3000, 400.0), prior=0.5)
    few = fit_curve(same[:300], other, np.full(3000, 400.0), prior=0.5)
    assert few.probability(0.6, 400.0) == pytest.approx(even.probability(0.6, 400.0), abs=0.05)


def test_a_descriptor_that_says_nothing_gives_the_prior_whatever_the_cosine():
    rng = np.random.default_rng(2)
    backwards = fit_curve(rng.normal(0.3, 0.05, 500), rng.normal(0.6, 0.05, 500), np.full(500, 100.0), prior=0.3)
    assert backwards.slope == 0.0
    assert backwards.probability(0.9, 100.0) == pytest.approx(0.3)


def test_both_kinds_are_needed():
    with pytest.raises(CalibrationError, match="0 pairs of one place and 1 of different"):
        fit_curve([], [0.5], [10.0], 0.3)
