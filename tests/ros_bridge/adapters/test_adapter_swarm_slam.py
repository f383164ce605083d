from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings

from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.types import Transform
from progeo_ros.adapters import Action
from progeo_ros.adapters.swarm_slam import MAX_WAITING, SwarmSlam
from progeo_ros.config import NodeConfig, PoseGraphConfig
from progeo_ros.message_types import make_header
from tests.ros_bridge.adapters.foreign_messages import SWARM_SLAM, foreign_types, through_the_wire
from tests.ros_bridge.adapters.outcomes import closure, info, messages, outcome, read_transform, seconds, transforms

TYPES = foreign_types(SWARM_SLAM)
CLOSURES, DESCRIPTORS = "/r3/cslam/intra_robot_loop_closure", "swarm_slam/global_descriptors"
T_LEFT = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [1.0, 2.0, 0.0])


def adapter() -> SwarmSlam:
    return SwarmSlam(NodeConfig(pose_graph=PoseGraphConfig(robot_id=3)), TYPES)


def tell_keyframe(swarm: SwarmSlam, keyframe_id: int, at_s: float) -> list[Action]:
    (subscription,) = swarm.subscriptions()
    assert subscription.topic == "/r3/cslam/keyframe_odom"
    odometry = TYPES.make("nav_msgs/msg/Odometry", header=make_header(TYPES, seconds(at_s), "odom"))
    message = TYPES.make(subscription.msgtype, id=keyframe_id, odom=odometry)
    return list(subscription.callback(through_the_wire(TYPES, message)))


def close_loop(swarm: SwarmSlam, T: Transform = T_LEFT, **named: Any) -> list[Action]:
    session = named.get("session", 1)
    return list(swarm.on_outcome(outcome(60.0, 50, None, [closure(50, 3, T)], [info(3, 1.0, session=session)])))


@settings(deadline=None, max_examples=20)
@given(transforms)
def test_transform_of_keyframe_1_in_keyframe_0(T: Transform) -> None:
    swarm = adapter()
    tell_keyframe(swarm, 0, 1.0)
    tell_keyframe(swarm, 40, 60.0)
    (message,) = messages(close_loop(swarm, T), CLOSURES)
    received = through_the_wire(TYPES, message)
    assert (received.keyframe0_id, received.keyframe1_id, received.success) == (0, 40, True)
    np.testing.assert_allclose(read_transform(received.transform), T, atol=1e-9)


def test_ids_that_come_late_and_never() -> None:
    swarm = adapter()
    tell_keyframe(swarm, 0, 1.0)
    assert messages(close_loop(swarm), CLOSURES) == []
    assert swarm.counters()["waiting_for_ids"] == 1
    assert len(messages(tell_keyframe(swarm, 40, 60.0), CLOSURES)) == 1
    swarm = adapter()
    close_loop(swarm)
    tell_keyframe(swarm, 41, 61.0)
    assert swarm.counters()["unknown_ids"] == 1 and swarm.counters()["waiting_for_ids"] == 0


def test_restart_begins_anew() -> None:
    swarm = adapter()
    tell_keyframe(swarm, 5, 1.0)
    tell_keyframe(swarm, 0, 60.0)
    assert messages(close_loop(swarm), CLOSURES) == [] and swarm.counters()["restarts"] == 1


def test_other_sessions_and_the_same_keyframe_make_no_closure() -> None:
    swarm = adapter()
    tell_keyframe(swarm, 0, 1.0)
    tell_keyframe(swarm, 40, 60.0)
    assert messages(close_loop(swarm, session=0), CLOSURES) == [] and swarm.counters()["other_session"] == 1
    swarm.on_outcome(outcome(1.002, 51, None, [closure(51, 3)], [info(3, 1.0)]))
    assert swarm.counters()["same_node"] == 1


def test_descriptors_under_the_ids_of_swarm_slam() -> None:
    swarm = adapter()
    assert messages(swarm.on_outcome(outcome(1.0, 7)), DESCRIPTORS) == []
    (message,) = messages(tell_keyframe(swarm, 2, 1.0), DESCRIPTORS)
    (one,) = through_the_wire(TYPES, message).descriptors
    assert (one.keyframe_id, one.robot_id) == (2, 3)
    assert one.descriptor.dtype == np.float64
    np.testing.assert_allclose(one.descriptor, [0.6, 0.8], atol=1e-7)
    assert messages(tell_keyframe(swarm, 3, 2.0), DESCRIPTORS) == []
    assert messages(swarm.on_outcome(outcome(2.5, None)), DESCRIPTORS) == []


def test_memory_is_bounded_over_days_without_swarm_slam() -> None:
    swarm = adapter()
    for _ in range(MAX_WAITING + 100):
        close_loop(swarm)
    counters = swarm.counters()
    assert counters["waiting_for_ids"] == MAX_WAITING and counters["unknown_ids"] == 100
    assert counters["descriptors_without_id"] == 100


def test_malformed_messages_are_counted() -> None:
    swarm = adapter()
    (subscription,) = swarm.subscriptions()
    assert list(subscription.callback(object())) == []
    assert swarm.counters()["malformed"] == 1
