"""Parameters: declared with descriptions and ranges, changed while the node runs where that is safe, else refused."""

from __future__ import annotations

import pytest

from progeo_ros.parameters import parameter_specs

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from rcl_interfaces.srv import DescribeParameters, ListParameters  # noqa: E402

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402


@pytest.fixture(scope="module")
def node(client, tmp_path_factory):
    with running(tmp_path_factory.mktemp("parameters"), {**SHORT_STREET, "autostart": True}) as node:
        wait_until(lambda: client.state() == "active", 20, "activation")
        yield node
        assert "Traceback" not in node.output


def test_every_setting_is_declared_with_description_and_range(client, node):
    listed = client.call("/progeo/list_parameters", ListParameters, ListParameters.Request()).result.names
    specs = {spec.name: spec for spec in parameter_specs()}
    assert set(specs) <= set(listed)
    request = DescribeParameters.Request(names=list(specs))
    described = client.call("/progeo/describe_parameters", DescribeParameters, request).descriptors
    for descriptor in described:
        spec = specs[descriptor.name]
        assert descriptor.description == spec.description != ""
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert bool(ranges) == (spec.minimum is not None or spec.maximum is not None)
        if spec.minimum is not None:
            assert ranges[0].from_value == spec.minimum
        if spec.maximum is not None:
            assert ranges[0].to_value == spec.maximum


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("verification.ratio", 1.5, "out of range"),
        ("verification.max_error_px", 0.0, "verification.max_error_px = 0.0: Input should be greater than 0"),
        ("search.top_k", 0, "out of range"),
        ("motion.length", "ten", "Wrong parameter type"),
        ("gate.min_similarity", "high", "gate.min_similarity = 'high'"),
        ("gate.min_similarity", float("nan"), "gate.min_similarity"),
        ("verification.detector", "sift", "cannot change while the node is configured; clean it up"),
        ("store.features", False, "cannot change while the node is configured"),
        ("map.path", "/elsewhere.progeo", "cannot change while the node is configured"),
        ("profile", "recall", "profile gives the defaults when the node starts"),
    ],
)
def test_bad_and_fixed_values_are_refused_with_a_sentence(client, node, name, value, sentence):
    taken, reason = client.set_parameter(name, value)
    assert not taken
    assert sentence in reason


def test_safe_settings_change_while_images_come(client, node, street):
    candidates = client.listen("loop_candidates", "progeo_msgs/msg/LoopCandidates")
    player = StreetPlayer(client.node, street)
    player.wait_for_listener()
    player.play(step_s=0.15)
    wait_until(lambda: candidates, 10, "an image")
    assert candidates[-1].min_similarity == 0.0
    assert client.set_parameter("gate.min_similarity", 0.75) == (True, "")
    assert client.set_parameter("exclusion.time_s", 1) == (True, ""), "a whole number is a fine number of seconds"
    player.play(step_s=0.15)
    wait_until(lambda: candidates[-1].min_similarity == 0.75, 10, "the new gate")
