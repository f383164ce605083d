from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from progeo_edge.geometry import FloatArray, make_transform, rotation_exp
from progeo_edge.types import PoseKind, Transform
from progeo_ros.adapters.stamped_pairs import StampedPairs
from progeo_ros.config import NodeConfig
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.adapters.foreign_messages import VOXGRAPH, foreign_types, through_the_wire
from tests.ros_bridge.adapters.outcomes import (
    closure,
    covariances,
    info,
    messages,
    outcome,
    read_transform,
    seconds,
    transforms,
)

ROS2, ROS1 = RosbagsTypes(), foreign_types(VOXGRAPH, ros1=True)
T_LEFT = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [1.0, 2.0, 0.0])


@pytest.mark.parametrize("types", [ROS2, ROS1], ids=["ros2", "ros1"])
def test_standard_message_names_both_stamps(types: RosbagsTypes) -> None:
    adapter = StampedPairs(NodeConfig(), types)
    actions = list(adapter.on_outcome(outcome(60.25, 50, None, [closure(50, 3, T_LEFT)], [info(3, 1.5)])))
    (message,) = messages(actions, "loop_closure_pairs")
    received = through_the_wire(types, message)
    assert int(received.header.frame_id) == seconds(1.5)
    assert int(received.child_frame_id) == stamp_ns_of(received.header.stamp) == seconds(60.25)
    np.testing.assert_allclose(read_transform(received.pose.pose), T_LEFT, atol=1e-12)


def test_a_closure_that_was_withheld_has_the_stamp_of_its_own_keyframe() -> None:
    adapter = StampedPairs(NodeConfig(), ROS2)
    said = outcome(60.25, 50, None, [], [info(3, 1.5), info(47, 57.0)])
    said = replace(said, update=replace(said.update, released=(closure(47, 3, T_LEFT),)))
    (message,) = messages(adapter.on_outcome(said), "loop_closure_pairs")
    assert int(message.header.frame_id) == seconds(1.5)
    assert int(message.child_frame_id) == stamp_ns_of(message.header.stamp) == seconds(57.0)


def test_covariance_is_about_the_axes_of_the_reference() -> None:
    adapter = StampedPairs(NodeConfig(), ROS2)
    forward_uncertain = np.diag([1.0, 0.01, 0.01, 0.001, 0.002, 0.003])  # along the query's x, the reference's y
    loop = closure(50, 3, T_LEFT, forward_uncertain)
    (message,) = messages(adapter.on_outcome(outcome(60.0, 50, None, [loop], [info(3, 1.0)])), "loop_closure_pairs")
    variances = np.asarray(message.pose.covariance).reshape(6, 6).diagonal()
    np.testing.assert_allclose(variances, [0.01, 1.0, 0.01, 0.002, 0.001, 0.003], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(transforms, covariances)
def test_voxgraph_in_ros_1(T: Transform, covariance: FloatArray) -> None:
    adapter = StampedPairs(NodeConfig(), ROS1)
    actions = list(adapter.on_outcome(outcome(60.0, 50, None, [closure(50, 3, T, covariance)], [info(3, 1.0)])))
    (message,) = messages(actions, "loop_closure_input")
    received = through_the_wire(ROS1, message)
    assert stamp_ns_of(received.from_timestamp) == seconds(1.0)
    assert stamp_ns_of(received.to_timestamp) == seconds(60.0)
    # voxgraph: T_A_B = T_A_t1 * transform * T_B_t2^-1, so the transform takes `to` to `from`.
    np.testing.assert_allclose(read_transform(received.transform), T, atol=1e-9)
    q = received.transform.rotation
    assert abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1.0) < 1e-3, "voxgraph refuses others"
    np.testing.assert_allclose(np.asarray(received.information).reshape(6, 6) @ covariance, np.eye(6), atol=1e-5)


def test_without_voxgraph_only_the_standard_message() -> None:
    adapter = StampedPairs(NodeConfig(), ROS2)
    actions = list(adapter.on_outcome(outcome(60.0, 50, None, [closure(50, 3)], [info(3, 1.0)])))
    assert len(actions) == 1 and adapter.counters() == {"sent": 1}


def test_what_is_not_sent() -> None:
    adapter = StampedPairs(NodeConfig(), ROS2)
    loops = [closure(50, 3, kind=PoseKind.UP_TO_SCALE), closure(50, 4), closure(50, 5, covariance=np.zeros((6, 6)))]
    references = [info(3, 1.0), info(4, 2.0, session=0), info(5, 3.0)]
    assert list(adapter.on_outcome(outcome(60.0, 50, None, loops, references))) == []
    assert adapter.counters() == {"not_metric": 1, "other_session": 1, "bad_covariance": 1}
