"""What the conversions make through rclpy and through rosbags is the same, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from progeo_edge.types import Candidate, PoseKind, Status
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import camera_of, image_of, odometry_of, transforms_of
from progeo_ros.events import Thumbnail
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import WARN, Health, diagnostics_message
from progeo_ros.publications import publications
from progeo_ros.ros2.types import RclpyTypes
from tests.ros_bridge.messages import (
    IMAGE,
    SECOND,
    TYPES,
    camera_info,
    closure,
    image,
    odometry,
    outcome,
    same_pose,
    transforms,
    turned,
    verification,
)


def serialized(message: Any) -> bytes:
    from rclpy.serialization import serialize_message

    return bytes(serialize_message(message))


def as_rclpy(message: Any) -> Any:
    """A message of rosbags as rclpy would receive it."""
    from rclpy.serialization import deserialize_message

    kind = RclpyTypes().find(message.__msgtype__)
    return deserialize_message(TYPES.to_bytes(message), kind)


REFUSED = (
    Candidate(np.int64(0), np.float32(0.5), Status.FEW_INLIERS, verification=verification(PoseKind.NONE)),
    Candidate(1, 0.1, Status.LOW_SIMILARITY),
)
CLOSURES = [closure(i, verification(kind)) for i in (0, 2) for kind in PoseKind]
OUTCOMES = {
    "closures": outcome(*CLOSURES, closure(2, None), refused=REFUSED, T_odom_base=turned(1.0, yaw=0.3)),
    "no odometry": outcome(*CLOSURES, refused=REFUSED),
    "nothing": outcome(),
    "not kept": outcome(kept=False),
}


@pytest.mark.parametrize("has_progeo_msgs", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("said", OUTCOMES.values(), ids=list(OUTCOMES))
def test_messages_are_those_of_rosbags(said, dtype, has_progeo_msgs):
    said = replace(said, thumbnail_of=lambda _id: Thumbnail(IMAGE, None))
    config = NodeConfig.model_validate({"output": {"descriptor_dtype": dtype, "match_image_height_px": 48}})
    rclpy_types = RclpyTypes()
    pairs = zip(
        publications(config, rclpy_types, has_progeo_msgs), publications(config, TYPES, has_progeo_msgs), strict=True
    )
    for ours, theirs in pairs:
        found = [serialized(message) for message in ours.build(rclpy_types, said)]
        assert found == [TYPES.to_bytes(message) for message in theirs.build(TYPES, said)]


def test_the_level_of_diagnostics_is_a_byte():
    health = Health(NodeConfig())
    health.observe(FrameAssembler(NodeConfig()), SECOND)
    health.warnings["disk"] = "the disk is nearly full"
    message = diagnostics_message(RclpyTypes(), health, SECOND)
    assert message.status[0].level == bytes([WARN]) == message.status[0].WARN
    assert message.status[0].message == "the disk is nearly full"


def test_images_of_rclpy_are_not_copied():
    message = as_rclpy(image(SECOND))
    pixels = image_of(message)
    assert np.shares_memory(pixels, np.frombuffer(message.data, np.uint8))
    np.testing.assert_array_equal(pixels, IMAGE)


def test_other_messages_of_rclpy_are_read():
    same_pose(odometry_of(as_rclpy(odometry(SECOND, turned(1.0, yaw=0.5)))).T_odom_base, turned(1.0, yaw=0.5))
    (transform,) = transforms_of(as_rclpy(transforms(SECOND, ("a", "b", turned(2.0)))))
    same_pose(transform.T_parent_child, turned(2.0))
    camera = camera_of(as_rclpy(camera_info(fx=61.0)), rectified=False, T_base_camera=np.eye(4))
    assert camera is not None and camera.K[0, 0] == 61.0
