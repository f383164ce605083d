"""map -> odom is what makes the robot stand where it was recognised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from progeo_edge.geometry import make_transform, rotation_exp, transform_from_quaternion
from progeo_edge.types import Frame, PoseKind
from progeo_ros.map_frame import MapFrame
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import closure, outcome, verification

TYPES = RosbagsTypes()
T_ODOM_BASE = make_transform(rotation_exp([0, 0, 0.3]), [1.0, 2.0, 0.0])
T_MAP_BASE = make_transform(rotation_exp([0, 0, 1.0]), [5.0, -1.0, 0.0])


def recognised_at(pose: np.ndarray | None):
    """An image whose odometry says T_ODOM_BASE; None: it was not recognised."""
    here = verification(PoseKind.METRIC, T=np.eye(4))
    found = outcome(*(() if pose is None else [closure(0, here, query_id=-1)]), kept=False)
    frame = Frame(3_000_000_004, found.frame.image, T_odom_base=T_ODOM_BASE)
    return replace(found, frame=frame, references={0: replace(found.reference(0), T_odom_base=pose)})


def transform_of(message) -> np.ndarray:
    t, q = message.transforms[0].transform.translation, message.transforms[0].transform.rotation
    return transform_from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])


def test_nothing_is_said_before_the_first_relocalisation():
    assert MapFrame("map").message(TYPES, recognised_at(None)) is None


def test_map_to_odom_times_odom_to_base_is_the_recognised_pose():
    message = MapFrame("map").message(TYPES, recognised_at(T_MAP_BASE))
    assert message is not None
    stamped = message.transforms[0]
    assert (stamped.header.frame_id, stamped.child_frame_id) == ("map", "odom")
    assert (stamped.header.stamp.sec, stamped.header.stamp.nanosec) == (3, 4)
    np.testing.assert_allclose(transform_of(message) @ T_ODOM_BASE, T_MAP_BASE, atol=1e-9)


def test_between_relocalisations_the_last_one_holds():
    frame = MapFrame("map")
    first = transform_of(frame.message(TYPES, recognised_at(T_MAP_BASE)))
    np.testing.assert_array_equal(transform_of(frame.message(TYPES, recognised_at(None))), first)
