"""Robots that could be deceived, in short: no false closure, and the right reason. `python -m tools.adversarial` is the
long version."""

from __future__ import annotations

import pytest

from tests.small_world import encoder, settings
from tools.adversarial import Result, go_through
from tools.adversarial_scenes import scenarios

SHORT = {scenario.name: scenario for scenario in scenarios(scale=0.05)}


@pytest.mark.parametrize(
    "name",
    [
        "stands still",
        "spins in place",
        "identical floors, depth",
        "identical floors",
        "long corridor",
        "camera freezes",
        "camera freezes, no odometry",
        "lights off and on, no odometry",
        "lens cap",
        "dirty lens, no odometry",
    ],
)
def test_no_false_closure_and_the_right_reason(name):
    result = go_through(SHORT[name], encoder(), settings("exclusion.distance_m=10", "exclusion.keyframes=30"))
    assert result.is_as_wanted(SHORT[name]), result


def test_the_scene_deceives_a_robot_that_is_not_on_its_guard():
    """The corridor without odometry cannot be told from laps; this shows that the judge notices."""
    scenario = SHORT["long corridor, no odometry"]
    result = go_through(scenario, encoder(), settings("exclusion.keyframes=30"))
    assert isinstance(result, Result)
    assert result.false > 10
    assert not result.is_as_wanted(scenario)
