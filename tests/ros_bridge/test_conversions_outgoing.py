"""What consumers read: poses and covariances in the right order, and never metres that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from progeo_edge.back_ends import parent_axes
from progeo_edge.geometry import adjoint, invert, se3_exp, transform_from_quaternion
from progeo_edge.types import Candidate, PoseKind, Status
from progeo_ros.conversions.outgoing import (
    descriptor_message,
    keyframe_message,
    loop_candidates_message,
    loop_closure_messages,
    loop_closure_pose_messages,
    relocalization_message,
)
from progeo_ros.conversions.standard import UNKNOWN_VARIANCE, image_message, pose_with_covariance
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import (
    COVARIANCE,
    IMAGE,
    PRIOR_M,
    SECOND,
    T_REFERENCE_QUERY,
    TYPES,
    closure,
    outcome,
    turned,
    verification,
)

KINDS = tuple(PoseKind)


def transform_of(pose):
    p, q = pose.position, pose.orientation
    return transform_from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def plain(message, types=TYPES):
    """All fields, with the check that ROS does with ROS_PYTHON_CHECK_FIELDS: numbers must be Python's own."""
    values = {}
    for field, (node, inner) in types.store.fielddefs[message.__msgtype__][1]:
        value = getattr(message, field)
        if node == Nodetype.BASE:
            expected = {"string": str, "bool": bool}.get(inner[0], float if inner[0].startswith("float") else int)
            assert type(value) is expected, f"{message.__msgtype__}.{field} is a {type(value)}"
        elif node == Nodetype.NAME:
            value = plain(value, types)
        elif not isinstance(value, np.ndarray):
            value = [plain(item, types) if hasattr(item, "__msgtype__") else item for item in value]
        values[field] = value
    return values


# -- loop closures -------------------------------------------------------------------------------------------------


def test_a_loop_closure_says_which_images_and_how_they_stand():
    said = outcome(closure(2, verification(PoseKind.METRIC)))
    (message,) = loop_closure_messages(TYPES, said)
    assert stamp_ns_of(message.header.stamp) == said.frame.stamp_ns
    assert message.header.frame_id == "base_link"
    assert (message.query_session, message.query_id) == ("second", 9)
    assert (message.reference_session, message.reference_id) == ("second", 2)
    assert stamp_ns_of(message.reference_stamp) == 12 * SECOND + 2
    assert (message.similarity, message.min_similarity, message.probability) == (0.75, 0.25, 0.9)
    assert (message.odom_mahalanobis, message.latency_ms, message.model_id) == (1.5, 12.5, "c0ffee")
    v = message.verification
    assert (v.pose_kind, v.scale_source) == (v.POSE_METRIC, v.SCALE_DEPTH)
    assert (v.num_matches, v.num_inliers, v.inlier_ratio, v.coverage) == (100, 80, 0.8, 0.4)
    assert v.reprojection_rmse_px == 0.8
    np.testing.assert_allclose(transform_of(v.t_reference_query.pose), T_REFERENCE_QUERY, atol=1e-12)


def test_covariance_is_row_major_translation_first():
    (message,) = loop_closure_messages(TYPES, outcome(closure(2, verification(PoseKind.METRIC))))
    written = message.verification.t_reference_query.covariance
    assert written.shape == (36,)
    np.testing.assert_array_equal(written.reshape(6, 6), COVARIANCE)
    assert written[0] == COVARIANCE[0, 0] and written[7] == COVARIANCE[1, 1] and written[21] == COVARIANCE[3, 3]
    lopsided = np.arange(36.0).reshape(6, 6)
    np.testing.assert_array_equal(pose_with_covariance(TYPES, np.eye(4), lopsided).covariance, np.arange(36.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pose_kind_says_what_may_be_used(kind):
    (message,) = loop_closure_messages(TYPES, outcome(closure(2, verification(kind))))
    v = message.verification
    assert v.pose_kind == getattr(v, f"POSE_{kind.value}")
    covariance = v.t_reference_query.covariance.reshape(6, 6)
    assert np.linalg.eigvalsh(covariance).min() > 0
    if kind is PoseKind.NONE:
        np.testing.assert_array_equal(transform_of(v.t_reference_query.pose), np.eye(4))
        np.testing.assert_array_equal(np.diag(covariance), UNKNOWN_VARIANCE)
    elif kind is not PoseKind.METRIC:
        np.testing.assert_array_equal(covariance[:3, :3], PRIOR_M**2 * np.eye(3))
        assert v.scale_source == v.SCALE_NONE


def test_a_closure_without_verification_has_no_pose():
    (message,) = loop_closure_messages(TYPES, outcome(closure(2, None)))
    v = message.verification
    assert (v.pose_kind, v.num_matches, v.num_inliers) == (v.POSE_NONE, 0, 0)
    assert math.isnan(v.reprojection_rmse_px)
    np.testing.assert_array_equal(transform_of(v.t_reference_query.pose), np.eye(4))


@pytest.mark.parametrize("ros", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS1_NOETIC])
def test_fields_are_of_the_types_that_ros_checks(ros):
    types = RosbagsTypes(get_typestore(ros))
    checked = verification(PoseKind.METRIC)
    loose = Candidate(np.int64(0), np.float32(0.5), Status.FEW_MATCHES, None, np.float32(0.1), checked, np.float64(2))
    said = outcome(closure(2, checked), refused=(loose,), T_odom_base=turned(1.0))
    messages = [
        *loop_closure_messages(types, said),
        loop_candidates_message(types, said),
        keyframe_message(types, said),
        descriptor_message(types, said, "float16"),
        relocalization_message(types, outcome(closure(0, checked)), "map"),
        *loop_closure_pose_messages(types, said),
        image_message(types, IMAGE, SECOND, "cam"),
    ]
    for message in messages:
        assert plain(message, types)
        data = types.to_bytes(message)
        assert types.to_bytes(types.from_bytes(data, message.__msgtype__)) == data


# -- candidates ------------------------------------------------------------------------------------------------------


def test_every_candidate_has_its_reason():
    refused = (
        Candidate(0, 0.6, Status.FEW_INLIERS, verification=verification(PoseKind.NONE, inliers=12)),
        Candidate(1, 0.1, Status.LOW_SIMILARITY),
    )
    said = outcome(closure(2, verification(PoseKind.METRIC)), refused=refused)
    message = loop_candidates_message(TYPES, said)
    assert [c.reference_id for c in message.candidates] == [2, 0, 1]
    status = message.candidates[0].status
    assert [c.status.value for c in message.candidates] == [status.ACCEPTED, status.FEW_INLIERS, status.LOW_SIMILARITY]
    assert message.status.value == status.ACCEPTED
    assert [c.reference_session for c in message.candidates] == ["second", "first", "first"]
    assert message.candidates[1].verification.num_inliers == 12
    assert math.isnan(message.candidates[2].probability) and math.isnan(message.candidates[2].odom_mahalanobis)
    assert message.stages == ["encode", "search", "total"]
    np.testing.assert_allclose(message.stages_ms, [4.0, 0.5, 4.75])


@pytest.mark.parametrize("status", Status)
def test_every_status_can_be_said(status):
    message = loop_candidates_message(TYPES, outcome(refused=(Candidate(1, 0.1, status),)))
    found = message.candidates[0].status
    assert found.value == getattr(found, status.value)


def test_an_image_that_was_not_kept_has_candidates_but_no_keyframe():
    said = outcome(kept=False)
    assert loop_candidates_message(TYPES, said).query_id == -1
    assert keyframe_message(TYPES, said) is None
    assert descriptor_message(TYPES, said, "float32") is None


# -- keyframes and descriptors -----------------------------------------------------------------------------------------


def test_a_keyframe_has_its_pose_only_with_odometry():
    message = keyframe_message(TYPES, outcome(T_odom_base=turned(3.0, yaw=0.4)))
    assert message is not None and message.has_pose
    assert (message.header.frame_id, message.child_frame_id, message.id) == ("odom", "base_link", 9)
    np.testing.assert_allclose(transform_of(message.pose), turned(3.0, yaw=0.4), atol=1e-12)
    message = keyframe_message(TYPES, outcome())
    assert message is not None and not message.has_pose
    np.testing.assert_array_equal(transform_of(message.pose), np.eye(4))


@pytest.mark.parametrize(("dtype", "code"), [("float32", "<f4"), ("float16", "<f2")])
def test_descriptors_are_little_endian_values(dtype, code):
    said = outcome()
    message = descriptor_message(TYPES, said, dtype)
    assert message is not None and message.dimension == 4
    assert message.dtype == getattr(message, dtype.upper())
    data = bytes(message.data)
    assert len(data) == 4 * np.dtype(code).itemsize
    assert said.update.keyframe is not None
    np.testing.assert_allclose(np.frombuffer(data, code), said.update.keyframe.descriptor, atol=1e-3)
    assert (message.header.frame_id, message.keyframe_id, message.model_id) == ("cam", 9, "c0ffee")
    # 0.6 as IEEE 754, by hand: 0x3F19999A and 0x38CD, lowest byte first.
    assert data.startswith(bytes.fromhex("9a99193f" if dtype == "float32" else "cd38"))


# -- poses in standard messages ----------------------------------------------------------------------------------------


def test_relocalization_is_the_pose_in_the_map():
    said = outcome(closure(0, verification(PoseKind.METRIC)))
    message = relocalization_message(TYPES, said, "map")
    assert message is not None
    assert (message.header.frame_id, stamp_ns_of(message.header.stamp)) == ("map", said.frame.stamp_ns)
    T_map_reference = said.reference(0).T_odom_base
    assert T_map_reference is not None
    np.testing.assert_allclose(transform_of(message.pose.pose), T_map_reference @ T_REFERENCE_QUERY, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not PoseKind.METRIC])
def test_relocalization_is_never_said_without_metres(kind):
    assert relocalization_message(TYPES, outcome(closure(0, verification(kind))), "map") is None


def test_relocalization_needs_a_reference_with_a_pose_of_an_earlier_session():
    metric = verification(PoseKind.METRIC)
    assert relocalization_message(TYPES, outcome(closure(1, metric)), "map") is None  # no pose
    assert relocalization_message(TYPES, outcome(closure(2, metric)), "map") is None  # the session under way
    assert relocalization_message(TYPES, outcome(closure(2, metric, query_id=-1), kept=False), "map") is not None
    assert relocalization_message(TYPES, outcome(), "map") is None


def test_relocalization_takes_the_closure_with_most_inliers():
    near = turned(0.1)
    said = outcome(
        closure(0, verification(PoseKind.METRIC, inliers=40)),
        closure(2, verification(PoseKind.METRIC, inliers=90, T=near), query_id=-1),
        kept=False,
    )
    message = relocalization_message(TYPES, said, "map")
    reference = said.reference(2).T_odom_base
    assert message is not None and reference is not None
    np.testing.assert_allclose(transform_of(message.pose.pose), reference @ near, atol=1e-12)


def test_covariance_of_relocalization_is_about_the_axes_of_the_map():
    said = outcome(closure(0, verification(PoseKind.METRIC)))
    message = relocalization_message(TYPES, said, "map")
    assert message is not None
    T = transform_of(message.pose.pose)
    rng = np.random.default_rng(3)
    noise = rng.multivariate_normal(np.zeros(6), 1e-4 * COVARIANCE, 20_000)
    moved = [T @ se3_exp(xi) for xi in noise]
    position = np.cov(np.array([P[:3, 3] for P in moved]).T)
    written = 1e-4 * message.pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(position, written[:3, :3], rtol=0.05, atol=1.5e-7)
    turn = adjoint(np.block([[T[:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
    np.testing.assert_allclose(parent_axes(T, COVARIANCE), turn @ COVARIANCE @ turn.T, atol=1e-12)


def test_closures_in_a_standard_message_name_the_reference():
    said = outcome(closure(2, verification(PoseKind.METRIC)))
    (message,) = loop_closure_pose_messages(TYPES, said)
    assert message.header.frame_id == f"second/{12 * SECOND + 2}"
    assert stamp_ns_of(message.header.stamp) == said.frame.stamp_ns
    np.testing.assert_allclose(invert(transform_of(message.pose.pose)) @ T_REFERENCE_QUERY, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("kind", [PoseKind.UP_TO_SCALE, PoseKind.ROTATION_ONLY])
def test_a_standard_message_has_no_direction_as_metres(kind):
    (message,) = loop_closure_pose_messages(TYPES, outcome(closure(2, verification(kind))))
    T = transform_of(message.pose.pose)
    np.testing.assert_array_equal(T[:3, 3], 0.0)
    np.testing.assert_allclose(T[:3, :3], T_REFERENCE_QUERY[:3, :3], atol=1e-12)
    np.testing.assert_allclose(message.pose.covariance.reshape(6, 6)[:3, :3], PRIOR_M**2 * np.eye(3), atol=1e-12)


def test_closures_without_a_pose_are_left_out_of_standard_messages():
    assert loop_closure_pose_messages(TYPES, outcome(closure(2, verification(PoseKind.NONE)), closure(0, None))) == []


def test_a_grey_image_is_mono8():
    message = image_message(TYPES, np.ascontiguousarray(IMAGE[:, :, 0]), SECOND, "cam")
    assert (message.encoding, message.step, message.height, message.width) == ("mono8", 64, 48, 64)
