"""Answers to "where am I?" as messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from progeo_edge.back_ends import parent_axes
from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import FloatArray, adjoint, invert
from progeo_edge.types import Transform
from progeo_ros.conversions.standard import pose_with_covariance
from progeo_ros.events import Whereabouts, map_pose
from progeo_ros.message_types import MessageTypes, make_header


def whereabouts_message(
    types: MessageTypes, found: Whereabouts, map_frame: str, odometry: OdometryConfig
) -> Any | None:  # noqa: ANN401
    """geometry_msgs/PoseWithCovarianceStamped of the base in the map, at the time of the last image that voted.

    Args:
        types: Makes messages.
        found: The answer.
        map_frame: The odometry frame of the reference's session.
        odometry: Drift of the robot's own odometry between the image that was verified and the last one.

    Returns:
        None without a pose in metres. The covariance is about the axes of the map, as in `relocalization_message`.
    """
    T_map_base, stamp_ns = found.relocalisation.T_odom_base, found.relocalisation.stamp_ns
    covariance = None if T_map_base is None else covariance_now(found, T_map_base, odometry)
    if T_map_base is None or stamp_ns is None or covariance is None:
        return None
    return types.make(
        "geometry_msgs/msg/PoseWithCovarianceStamped",
        header=make_header(types, stamp_ns, map_frame),
        pose=pose_with_covariance(types, T_map_base, parent_axes(T_map_base, covariance)),
    )


def covariance_now(found: Whereabouts, T_map_base: Transform, odometry: OdometryConfig) -> FloatArray | None:
    """(6, 6) covariance of the last pose: that of the match, carried along by the way since then, and its drift."""
    match = found.relocalisation.match
    if match is None or match.verification is None or match.verification.covariance is None:
        return None
    T_map_verified = map_pose(found.outcome, match)
    if T_map_verified is None:
        return None
    T_verified_base = invert(T_map_verified) @ T_map_base
    to_base = adjoint(invert(T_verified_base))
    carried = to_base @ match.verification.covariance @ to_base.T
    if np.allclose(T_verified_base, np.eye(4), atol=1e-9):
        return np.asarray(carried)
    return np.asarray(carried + step_covariance(T_verified_base, odometry))
