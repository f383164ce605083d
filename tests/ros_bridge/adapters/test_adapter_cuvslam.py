from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from progeo_edge.geometry import FloatArray, make_transform, rotation_exp
from progeo_edge.types import PoseKind, Transform
from progeo_ros.adapters import Action
from progeo_ros.adapters.cuvslam import Cuvslam
from progeo_ros.config import CuvslamConfig, FramesConfig, NodeConfig
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.adapters.foreign_messages import through_the_wire
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

TYPES = RosbagsTypes()
POSE = "/visual_localization/pose"
EARLIER = 0


def adapter(**settings: Any) -> Cuvslam:
    return Cuvslam(NodeConfig(cuvslam=CuvslamConfig(**settings), frames=FramesConfig(map="vmap")), TYPES)


def ask(cuvslam: Cuvslam) -> None:
    """cuVSLAM sends an empty PoseWithCovarianceStamped."""
    (subscription,) = cuvslam.subscriptions()
    assert subscription.topic == "/visual_localization/trigger_localization"
    assert subscription.msgtype == "geometry_msgs/msg/PoseWithCovarianceStamped"
    assert list(subscription.callback(TYPES.make(subscription.msgtype))) == []


def recognise(cuvslam: Cuvslam, at_s: float = 60.0, loop: Any = None, **named: Any) -> list[Action]:
    """An image that is relocalised: no keyframe, and a reference of an earlier session."""
    references = [info(3, 1.0, named.pop("T_map_reference", np.eye(4)), named.pop("session", EARLIER))]
    keyframe_id = named.pop("keyframe_id", None)
    return list(cuvslam.on_outcome(outcome(at_s, keyframe_id, None, [loop or closure(-1, 3)], references)))


def test_one_answer_per_request() -> None:
    cuvslam = adapter()
    assert recognise(cuvslam) == []
    ask(cuvslam)
    assert len(messages(recognise(cuvslam), POSE)) == 1
    assert recognise(cuvslam) == []
    ask(cuvslam)
    ask(cuvslam)
    assert len(messages(recognise(cuvslam), POSE)) == 1 and recognise(cuvslam) == []
    assert cuvslam.counters() == {"requests": 3, "answered": 2, "waiting": 0}


@settings(deadline=None)
@given(transforms, transforms, covariances)
def test_pose_in_the_map_with_a_real_covariance(
    T_map_reference: Transform, T: Transform, covariance: FloatArray
) -> None:
    cuvslam = adapter()
    ask(cuvslam)
    actions = recognise(cuvslam, loop=closure(-1, 3, T, covariance), T_map_reference=T_map_reference)
    (message,) = messages(actions, POSE)
    received = through_the_wire(TYPES, message)
    assert received.header.frame_id == "vmap" and stamp_ns_of(received.header.stamp) == seconds(60.0)
    np.testing.assert_allclose(read_transform(received.pose.pose), T_map_reference @ T, atol=1e-6)
    stated = np.asarray(received.pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(stated, stated.T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(stated[:3, :3]), np.linalg.eigvalsh(covariance[:3, :3]), atol=1e-8)


def test_covariance_is_about_the_axes_of_the_map() -> None:
    cuvslam = adapter()
    ask(cuvslam)
    left = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [0.0, 0.0, 0.0])
    forward_uncertain = np.diag([1.0, 0.01, 0.01, 0.001, 0.002, 0.003])  # along the robot's x
    (message,) = messages(recognise(cuvslam, loop=closure(-1, 3, left, forward_uncertain)), POSE)
    variances = np.asarray(message.pose.covariance).reshape(6, 6).diagonal()
    np.testing.assert_allclose(variances, [0.01, 1.0, 0.01, 0.002, 0.001, 0.003], atol=1e-12)


def test_a_robot_that_maps_answers_from_earlier_sessions_only() -> None:
    cuvslam = adapter()
    ask(cuvslam)
    assert recognise(cuvslam, loop=closure(50, 3), keyframe_id=50, session=1) == []
    assert len(recognise(cuvslam, loop=closure(50, 3), keyframe_id=50, session=EARLIER)) == 1


@pytest.mark.parametrize(
    "loop",
    [closure(-1, 3, kind=PoseKind.UP_TO_SCALE), closure(-1, 3, kind=PoseKind.ROTATION_ONLY)],
)
def test_no_answer_without_metres(loop: Any) -> None:
    cuvslam = adapter()
    ask(cuvslam)
    assert recognise(cuvslam, loop=loop) == []
    assert recognise(cuvslam, T_map_reference=None) == []
    assert cuvslam.counters()["waiting"] == 1
    assert len(recognise(cuvslam)) == 1, "the request stands until a place is known"


def test_no_answer_with_a_singular_covariance(caplog: pytest.LogCaptureFixture) -> None:
    cuvslam = adapter()
    ask(cuvslam)
    with caplog.at_level(logging.WARNING):
        assert recognise(cuvslam, loop=closure(-1, 3, covariance=np.zeros((6, 6)))) == []
    assert cuvslam.counters()["bad_covariance"] == 1 and "positive definite" in caplog.text


def test_a_request_lapses(caplog: pytest.LogCaptureFixture) -> None:
    cuvslam = adapter(timeout_s=30.0)
    list(cuvslam.on_tick(seconds(1.0)))
    ask(cuvslam)
    with caplog.at_level(logging.WARNING):
        for at_s in (2.0, 30.0, 32.0):
            assert list(cuvslam.on_tick(seconds(at_s))) == []
            assert cuvslam.counters()["waiting"] == 1
        list(cuvslam.on_tick(seconds(32.1)))
    assert cuvslam.counters() == {"requests": 1, "timed_out": 1, "waiting": 0}
    assert "30 s" in caplog.text
    assert recognise(cuvslam) == []


def test_simulated_time_that_jumps_back_does_not_end_a_request() -> None:
    cuvslam = adapter(timeout_s=30.0)
    ask(cuvslam)
    for at_s in (100.0, 5.0, 34.0):
        list(cuvslam.on_tick(seconds(at_s)))
    assert cuvslam.counters()["waiting"] == 1
