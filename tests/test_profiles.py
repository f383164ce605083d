from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.config import PROFILES
from progeo_edge.errors import ConfigError
from progeo_edge.evaluation.bootstrap import Interval
from progeo_edge.evaluation.counts import rate
from progeo_edge.evaluation.loops_result import LoopsResult
from progeo_edge.evaluation.plots import svg
from progeo_edge.evaluation.promise import FalseRates
from progeo_edge.evaluation.recorded_run import RunClosure
from progeo_edge.profiles import JudgedVariant, _Remembering, _with_front, draw_variants, variants
from tests.small_world import FakeEncoder, at_angle

KNOWN = Interval(0.8, 0.7, 0.9)


def judged(name: str, recall: float, num_false: int) -> JudgedVariant:
    false = tuple(RunClosure(f"{i}", "x", 0.9, 40) for i in range(num_false))
    result = LoopsResult(
        80, 60, 0, 0, 30.0, 9, 0, KNOWN, Interval(recall, recall - 0.1, recall + 0.1), false, 4, KNOWN, (), {}, {}, 9
    )
    rates = FalseRates(rate(num_false, 0.5), rate(num_false, 0.5), None, ())
    variant = replace(variants(["conservative"])[0], name=name)
    return JudgedVariant(variant, replace(result, rates=rates))


def test_variants_are_the_profiles_and_the_steps_of_a_sweep():
    found = variants(sweep="verification.min_inliers=15, 60", overrides=["search.top_k=7"])
    assert [one.name for one in found] == [*PROFILES, "verification.min_inliers=15", "verification.min_inliers=60"]
    assert [one.config.verification.min_inliers for one in found[-2:]] == [15, 60]
    assert {one.config.search.top_k for one in found} == {7}
    assert {one.config.budget.deadline_ms for one in found} == {0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profiles": []}, "no profile given"),
        ({"profiles": ["bold"]}, "profile 'bold' is unknown"),
        ({"sweep": "verification.min_inliers"}, "is not understood; expected such as"),
        ({"sweep": "=1,2"}, "is not understood"),
        ({"sweep": "verification.min_inlier=15"}, "min_inlier"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        variants(**arguments)


def test_the_front_by_hand():
    found = _with_front(
        [judged("careful", 0.5, 0), judged("worse", 0.4, 0), judged("bold", 0.9, 3), judged("bad", 0.8, 4)]
    )
    assert [one.on_front for one in found] == [True, False, True, False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8), st.randoms())
def test_the_front_does_not_depend_on_the_order_and_is_never_empty(points, random):
    made = [judged(str(i), recall / 10 + 0.2, num_false) for i, (recall, num_false) in enumerate(points)]
    on_front = {one.variant.name for one in _with_front(made) if one.on_front}
    random.shuffle(made)
    assert {one.variant.name for one in _with_front(made) if one.on_front} == on_front
    best = max(made, key=lambda one: (one.recall, -one.num_false))
    assert best.variant.name in on_front


def test_every_image_is_described_once():
    calls: Counter[str] = Counter()

    class Counting(FakeEncoder):
        def encode(self, images):
            calls["images"] += len(images)
            return super().encode(images)

    images = [np.full((4, 4, 3), i, np.uint8) for i in range(3)]
    encoder = _Remembering(Counting([at_angle(10.0 * i) for i in range(3)]))
    first, again = encoder.encode(images), encoder.encode(images[::-1])
    np.testing.assert_array_equal(first, again[::-1])
    assert calls["images"] == 3


def test_the_plot_names_every_variant():
    found = _with_front([judged("careful", 0.5, 0), judged("bold", 0.9, 3)])
    text = svg(lambda axes: draw_variants(axes, found))
    assert "careful" in text and "bold" in text and "false closures per hour" in text
    without_time = [replace(one, result=replace(one.result, rates=None)) for one in found]
    assert ">false closures<" in svg(lambda axes: draw_variants(axes, without_time))
