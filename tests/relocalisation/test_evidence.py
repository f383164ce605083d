"""Bayes' rule over votes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.relocalisation.evidence import likelihood_ratio, log_odds, posterior
from progeo_edge.types import PoseKind
from tests.relocalisation.straight_map import passed

probabilities = st.floats(0.0, 1.0)
numbers = st.integers(0, 20)


@given(st.lists(st.floats(-800, 800), max_size=8))
def test_places_share_what_is_not_left_to_no_place(odds):
    found = posterior(odds)
    assert all(0.0 <= value <= 1.0 for value in found)
    assert sum(found) <= 1.0 + 1e-12
    assert sorted(found) == [found[i] for i in sorted(range(len(odds)), key=odds.__getitem__)]


def test_two_equal_places_halve_the_probability():
    assert posterior([0.0]) == pytest.approx([0.5])
    assert posterior([20.0, 20.0]) == pytest.approx([0.5, 0.5])
    assert posterior([math.log(3.0), math.log(4.0)]) == pytest.approx([3 / 8, 4 / 8])


@given(probabilities, numbers, numbers)
def test_agreeing_views_raise_and_the_others_lower(prior, agreeing, others):
    verification = passed(0).verification
    here = log_odds(prior, verification, agreeing, others)
    assert math.isfinite(here)
    assert log_odds(prior, verification, agreeing + 1, others) > here
    assert log_odds(prior, verification, agreeing, others + 1) < here


@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(PoseKind))
def test_more_inliers_never_count_less(a, b, kind):
    few, many = sorted((a, b))
    ratios = [likelihood_ratio(passed(0, num_inliers=n, kind=kind).verification) for n in (few, many)]
    assert 1.0 < ratios[0] <= ratios[1]


def test_without_geometry_only_the_appearance_speaks():
    assert likelihood_ratio(None) == 1.0
    assert posterior([log_odds(0.9, None, 0, 0)]) == pytest.approx([0.9])
