"""Poses and images as standard messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import quaternion_xyzw
from progeo_edge.types import Image, Transform
from progeo_ros.message_types import MessageTypes, make_header

UNKNOWN_VARIANCE = 1e6
"""On the diagonal of the covariance where there is no pose: a reader that ignores pose_kind gives it no weight."""


def pose_with_covariance(types: MessageTypes, T: Transform, covariance: NDArray[np.float64] | None) -> Any:  # noqa: ANN401
    """geometry_msgs/PoseWithCovariance.

    Args:
        types: Makes messages.
        T: (4, 4) pose.
        covariance: (6, 6) x y z rx ry rz, metres and radians, written row by row; None where nothing is known:
            `UNKNOWN_VARIANCE` on the diagonal.
    """
    if covariance is None:
        covariance = UNKNOWN_VARIANCE * np.eye(6)
    return types.make(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=pose_message(types, T),
        covariance=np.ascontiguousarray(covariance, dtype=np.float64).ravel(),
    )


def pose_message(types: MessageTypes, T: Transform) -> Any:  # noqa: ANN401
    """geometry_msgs/Pose of a (4, 4) transform."""
    x, y, z, w = (float(value) for value in quaternion_xyzw(T[:3, :3]))
    return types.make(
        "geometry_msgs/msg/Pose",
        position=point_message(types, T[:3, 3]),
        orientation=types.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
    )


def point_message(types: MessageTypes, position_m: Iterable[float]) -> Any:  # noqa: ANN401
    """geometry_msgs/Point of a position (3,)."""
    x, y, z = (float(value) for value in position_m)
    return types.make("geometry_msgs/msg/Point", x=x, y=y, z=z)


def image_message(types: MessageTypes, image: Image, stamp_ns: int, frame_id: str) -> Any:  # noqa: ANN401
    """sensor_msgs/Image: bgr8 for (H, W, 3), mono8 for (H, W)."""
    height, width = image.shape[:2]
    return types.make(
        "sensor_msgs/msg/Image",
        header=make_header(types, stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="bgr8" if image.ndim == 3 else "mono8",
        is_bigendian=0,
        step=width * (3 if image.ndim == 3 else 1),
        data=image.tobytes(),
    )
