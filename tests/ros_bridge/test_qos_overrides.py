"""Overrides of profiles are refused with a sentence where ROS would fail with a traceback, or ignore them."""

from __future__ import annotations

import pytest

from progeo_edge.errors import ConfigError
from progeo_ros.qos_overrides import refuse_wrong_profiles


def test_right_ones_and_other_parameters_pass():
    refuse_wrong_profiles(
        {
            "qos_overrides./loop_closures.publisher.depth": 7,
            "qos_overrides./robot/image.subscription.reliability": "RELIABLE",
            "qos_overrides./image.subscription.history": "keep_last",
            "qos_overrides./image.subscription.durability": "system_default",
            "search.top_k": "many",
        }
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("/image.subscription.reliability", "banana", "= 'banana': choose one of reliable, best_effort"),
        ("/image.subscription.reliability", 1, "= 1: choose one of reliable"),
        ("/image.subscription.depth", "many", "= 'many': expected a whole number of messages, 1 or more"),
        ("/image.subscription.depth", 0, "= 0: expected a whole number"),
        ("/image.subscription.depth", True, "= True: expected a whole number"),
        ("/image.subscription.lifespan", 1, "policy 'lifespan' is unknown; choose one of history"),
        ("image.subscription.depth", 1, "names no publisher or subscription; expected the full name of a topic"),
        ("/image.subscriber.depth", 1, "names no publisher or subscription"),
        ("/image.depth", 1, "names no publisher or subscription"),
        ("depth", 1, "names no publisher or subscription"),
    ],
)
def test_wrong_ones_are_refused_with_what_was_expected(name, value, sentence):
    with pytest.raises(ConfigError) as caught:
        refuse_wrong_profiles({f"qos_overrides.{name}": value})
    assert sentence in str(caught.value)
    assert f"qos_overrides.{name}" in str(caught.value)
