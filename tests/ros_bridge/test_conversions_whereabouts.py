"""Where the robot is, as a pose in the map with what is known of its error."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.back_ends import parent_axes
from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import FloatArray, se3_exp, se3_log, transform_from_quaternion
from progeo_edge.types import PoseKind, Transform
from progeo_ros.conversions.whereabouts import covariance_now, whereabouts_message
from progeo_ros.events import Whereabouts
from progeo_ros.message_types import stamp_ns_of
from tests.ros_bridge.messages import COVARIANCE, SECOND, T_REFERENCE_QUERY, TYPES, turned, whereabouts

DRIFT = OdometryConfig()
NO_DRIFT = OdometryConfig(drift_m_per_m=1e-9, drift_deg_per_m=1e-9)


def transform_of(pose):
    p, q = pose.position, pose.orientation
    return transform_from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def last_pose(found: Whereabouts) -> Transform:
    assert found.relocalisation.T_odom_base is not None
    return found.relocalisation.T_odom_base


def covariance_of(found: Whereabouts, drift: OdometryConfig) -> FloatArray:
    covariance = covariance_now(found, last_pose(found), drift)
    assert covariance is not None
    return covariance


def test_the_pose_is_that_of_the_base_at_the_last_image():
    found = whereabouts(PoseKind.METRIC, turned(3.0, yaw=0.5))
    message = whereabouts_message(TYPES, found, "world", DRIFT)
    assert message is not None
    assert (message.header.frame_id, stamp_ns_of(message.header.stamp)) == ("world", 102 * SECOND + 7)
    T_map_reference = found.outcome.reference(0).T_odom_base
    assert T_map_reference is not None
    expected = T_map_reference @ T_REFERENCE_QUERY @ turned(3.0, yaw=0.5)
    np.testing.assert_allclose(transform_of(message.pose.pose), expected, atol=1e-9)


def test_without_a_way_since_then_the_covariance_is_that_of_the_match():
    found = whereabouts(PoseKind.METRIC)
    message = whereabouts_message(TYPES, found, "map", DRIFT)
    assert message is not None
    written = message.pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(written, parent_axes(last_pose(found), COVARIANCE), atol=1e-9)


def test_an_error_of_heading_grows_to_one_of_position_on_the_way():
    T_since = turned(10.0, yaw=0.3)
    found = whereabouts(PoseKind.METRIC, T_since)
    T_map_base = last_pose(found)
    carried = covariance_of(found, NO_DRIFT) - step_covariance(T_since, NO_DRIFT)
    rng = np.random.default_rng(0)
    T_map_verified = T_map_base @ np.linalg.inv(T_since)
    errors = [
        se3_log(np.linalg.inv(T_map_base) @ T_map_verified @ se3_exp(xi) @ T_since)
        for xi in rng.multivariate_normal(np.zeros(6), 1e-4 * COVARIANCE, 20_000)
    ]
    np.testing.assert_allclose(np.cov(np.array(errors).T), 1e-4 * carried, rtol=0.06, atol=3e-7)
    drifted = covariance_of(found, DRIFT)
    np.testing.assert_allclose(drifted - carried, step_covariance(T_since, DRIFT), atol=1e-9)


@pytest.mark.parametrize("kind", [None, PoseKind.UP_TO_SCALE, PoseKind.NONE])
def test_without_metres_there_is_no_pose(kind):
    assert whereabouts_message(TYPES, whereabouts(kind), "map", DRIFT) is None
