"""What the detector says, as messages. Nothing is sent as metres that is not METRIC."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from progeo_edge.back_ends import parent_axes
from progeo_edge.calibration import Separability
from progeo_edge.types import Candidate, LoopClosure, PoseKind, ScaleSource, Status, Verification
from progeo_ros.conversions.standard import pose_message, pose_with_covariance
from progeo_ros.events import Outcome, map_pose
from progeo_ros.message_types import MessageTypes, make_header

STATUS_CODES: dict[Status, int] = {
    Status.ACCEPTED: 0,
    Status.NOT_A_KEYFRAME: 1,
    Status.UNRECOGNISABLE: 2,
    Status.NO_CANDIDATE: 3,
    Status.LOW_SIMILARITY: 4,
    Status.SUPPRESSED: 5,
    Status.FAILED_SEQUENCE: 6,
    Status.NOT_VERIFIED: 7,
    Status.DEADLINE: 8,
    Status.FEW_MATCHES: 9,
    Status.FEW_INLIERS: 10,
    Status.LOW_INLIER_RATIO: 11,
    Status.LOW_COVERAGE: 12,
    Status.HIGH_REPROJECTION_ERROR: 13,
    Status.DEGENERATE: 14,
    Status.TOO_FAR: 15,
    Status.INCONSISTENT_POSES: 16,
    Status.GRAVITY: 17,
    Status.ODOM_INCONSISTENT: 18,
    Status.CONTRADICTED: 19,
    Status.FROZEN: 20,
    Status.UNCONFIRMED: 21,
    Status.AMBIGUOUS: 22,
}
"""Constants of progeo_msgs/Status; a number never changes its meaning."""

POSE_KIND_CODES: dict[PoseKind, int] = {
    PoseKind.NONE: 0,
    PoseKind.ROTATION_ONLY: 1,
    PoseKind.UP_TO_SCALE: 2,
    PoseKind.METRIC: 3,
}
"""POSE_ constants of progeo_msgs/Verification."""

SCALE_SOURCE_CODES: dict[ScaleSource, int] = {
    ScaleSource.NONE: 0,
    ScaleSource.DEPTH: 1,
    ScaleSource.STEREO: 2,
    ScaleSource.ODOM: 3,
}
"""SCALE_ constants of progeo_msgs/Verification."""

DTYPE_CODES: dict[Literal["float32", "float16"], int] = {"float32": 0, "float16": 1}
"""Constants of progeo_msgs/GlobalDescriptor."""

VERDICT_CODES: dict[Separability, int] = {Separability.NONE: 1, Separability.WEAK: 2, Separability.GOOD: 3}
"""Constants of progeo_msgs/Calibrate; 0 is UNKNOWN, for answers without success."""

# -- messages of progeo_msgs -----------------------------------------------------------------------------------------


def loop_closure_messages(types: MessageTypes, outcome: Outcome) -> list[Any]:
    """progeo_msgs/LoopClosure of every new closure, those that were withheld until now included; empty without one."""
    return [_loop_closure(types, outcome, closure) for closure in outcome.closures]


def loop_candidates_message(types: MessageTypes, outcome: Outcome) -> Any:  # noqa: ANN401
    """progeo_msgs/LoopCandidates: every candidate with its reason, also when there is none."""
    update = outcome.update
    return types.make(
        "progeo_msgs/msg/LoopCandidates",
        header=make_header(types, outcome.frame.stamp_ns, outcome.base_frame),
        query_session=outcome.session,
        query_id=-1 if update.keyframe is None else update.keyframe.id,
        status=_status(types, update.status),
        candidates=[_candidate(types, outcome, candidate) for candidate in update.candidates],
        min_similarity=float(outcome.min_similarity),
        min_motion_score=_number(update.min_motion_score),
        doubtful_query_ids=np.array([query_id for query_id, _ in update.doubtful], np.int64),
        doubtful_reference_ids=np.array([reference_id for _, reference_id in update.doubtful], np.int64),
        stages=list(update.timings_ms),
        stages_ms=np.array(list(update.timings_ms.values()), np.float32),
        latency_ms=float(outcome.latency_ms),
        model_id=outcome.model_id,
    )


def keyframe_message(
    types: MessageTypes, outcome: Outcome, dtype: Literal["float16", "float32"] = "float32"
) -> Any | None:  # noqa: ANN401
    """progeo_msgs/Keyframe; None when the image was not kept.

    Args:
        types: Makes messages.
        outcome: What became of the image.
        dtype: Of the descriptor's values.
    """
    keyframe = outcome.update.keyframe
    if keyframe is None:
        return None
    T = keyframe.T_odom_base
    return types.make(
        "progeo_msgs/msg/Keyframe",
        header=make_header(types, keyframe.stamp_ns, outcome.odom_frame),
        session=outcome.session,
        id=keyframe.id,
        has_pose=T is not None,
        pose=pose_message(types, np.eye(4) if T is None else T),
        camera=keyframe.camera,
        child_frame_id=outcome.base_frame,
        num_features=0 if keyframe.features is None else len(keyframe.features),
        descriptor=descriptor_message(types, outcome, dtype),
    )


def descriptor_message(types: MessageTypes, outcome: Outcome, dtype: Literal["float16", "float32"]) -> Any | None:  # noqa: ANN401
    """progeo_msgs/GlobalDescriptor; None when the image was not kept and therefore has none.

    Args:
        types: Makes messages.
        outcome: What became of the image.
        dtype: Of the values, written little-endian.
    """
    keyframe = outcome.update.keyframe
    if keyframe is None:
        return None
    return types.make(
        "progeo_msgs/msg/GlobalDescriptor",
        header=make_header(types, keyframe.stamp_ns, outcome.camera_frame),
        session=outcome.session,
        keyframe_id=keyframe.id,
        model_id=outcome.model_id,
        dtype=DTYPE_CODES[dtype],
        dimension=len(keyframe.descriptor),
        data=keyframe.descriptor.astype(np.dtype(dtype).newbyteorder("<")).tobytes(),
    )


def _loop_closure(types: MessageTypes, outcome: Outcome, closure: LoopClosure) -> Any:  # noqa: ANN401
    query = outcome.query(closure)
    return types.make(
        "progeo_msgs/msg/LoopClosure",
        header=make_header(types, query_stamp_ns(outcome, closure), outcome.base_frame),
        query_session=outcome.session,
        query_id=int(closure.query_id),
        reference_session=outcome.session_of(closure.reference_id),
        reference_id=int(closure.reference_id),
        reference_stamp=types.time(outcome.reference(closure.reference_id).stamp_ns),
        query_camera=outcome.frame.camera if query is None else query.camera,
        reference_camera=outcome.reference(closure.reference_id).camera,
        similarity=float(closure.similarity),
        min_similarity=float(outcome.min_similarity),
        probability=_number(closure.probability),
        verification=_verification(types, closure.verification),
        odom_mahalanobis=_number(closure.odom_mahalanobis),
        heading_change_deg=_number(closure.heading_change_deg),
        is_reverse=closure.is_reverse is True,
        latency_ms=float("nan") if closure in outcome.update.released else float(outcome.latency_ms),
        model_id=outcome.model_id,
    )


def _candidate(types: MessageTypes, outcome: Outcome, candidate: Candidate) -> Any:  # noqa: ANN401
    return types.make(
        "progeo_msgs/msg/Candidate",
        reference_session=outcome.session_of(candidate.reference_id),
        reference_id=int(candidate.reference_id),
        reference_stamp=types.time(outcome.reference(candidate.reference_id).stamp_ns),
        reference_camera=outcome.reference(candidate.reference_id).camera,
        similarity=float(candidate.similarity),
        probability=_number(candidate.probability),
        motion_score=_number(candidate.motion_score),
        status=_status(types, candidate.status),
        verification=_verification(types, candidate.verification),
        odom_mahalanobis=_number(candidate.odom_mahalanobis),
        supported=bool(candidate.supported),
        contradicts=np.array(candidate.contradicts, np.int64),
    )


def _verification(types: MessageTypes, verification: Verification | None) -> Any:  # noqa: ANN401
    v = verification or Verification(Status.NOT_VERIFIED)
    T, covariance, kind = v.T_reference_query, v.covariance, v.pose_kind
    if T is None or kind is PoseKind.NONE:
        T, covariance, kind = np.eye(4), None, PoseKind.NONE
    return types.make(
        "progeo_msgs/msg/Verification",
        pose_kind=POSE_KIND_CODES[kind],
        scale_source=SCALE_SOURCE_CODES[v.scale_source],
        t_reference_query=pose_with_covariance(types, T, covariance),
        num_matches=int(v.num_matches),
        num_inliers=int(v.num_inliers),
        inlier_ratio=float(v.inlier_ratio),
        coverage=float(v.coverage),
        reprojection_rmse_px=float(v.reprojection_rmse_px),
    )


def _status(types: MessageTypes, status: Status) -> Any:  # noqa: ANN401
    return types.make("progeo_msgs/msg/Status", value=STATUS_CODES[status])


# -- standard messages -----------------------------------------------------------------------------------------------


def relocalization_message(types: MessageTypes, outcome: Outcome, map_frame: str) -> Any | None:  # noqa: ANN401
    """geometry_msgs/PoseWithCovarianceStamped of the base in the map, by the closure with most inliers.

    The map frame is the odometry frame of the reference's session. Only references of earlier sessions count: a
    closure with the session under way says nothing that its odometry frame does not say.

    Returns:
        None without a METRIC closure whose reference has a pose. The covariance is about the axes of the map, as
        consumers of this message read it.
    """
    closure = relocalizing_closure(outcome)
    if closure is None or closure.verification is None:
        return None
    T_map_base = map_pose(outcome, closure)
    if T_map_base is None:
        return None
    covariance = closure.verification.covariance
    return types.make(
        "geometry_msgs/msg/PoseWithCovarianceStamped",
        header=make_header(types, outcome.frame.stamp_ns, map_frame),
        pose=pose_with_covariance(
            types, T_map_base, None if covariance is None else parent_axes(T_map_base, covariance)
        ),
    )


def relocalizing_closure(outcome: Outcome) -> LoopClosure | None:
    """The METRIC closure with most inliers whose reference belongs to an earlier session and has a pose."""
    keyframe = outcome.update.keyframe
    known = [
        closure
        for closure in outcome.update.closures
        if map_pose(outcome, closure) is not None
        and (keyframe is None or outcome.reference(closure.reference_id).session != keyframe.session)
    ]
    return max(known, key=num_inliers, default=None)


def loop_closure_pose_messages(types: MessageTypes, outcome: Outcome) -> list[Any]:
    """Closures in a standard message, for a ROS without progeo_msgs: geometry_msgs/PoseWithCovarianceStamped.

    The stamp is the query's; frame_id is "SESSION/STAMP", the session and the stamp in nanoseconds of the reference.
    The pose is that of the query's base in the reference's base. A pose that is not METRIC has the position 0 with
    the radius within which two views of a place are expected: the message cannot say that a unit vector is none in
    metres. Closures without any pose are left out.
    """
    messages = []
    for closure in outcome.closures:
        v = closure.verification
        if v is None or v.T_reference_query is None or v.covariance is None or v.pose_kind is PoseKind.NONE:
            continue
        T = v.T_reference_query.copy()
        if v.pose_kind is not PoseKind.METRIC:
            T[:3, 3] = 0.0
        reference = outcome.reference(closure.reference_id)
        messages.append(
            types.make(
                "geometry_msgs/msg/PoseWithCovarianceStamped",
                header=make_header(
                    types,
                    query_stamp_ns(outcome, closure),
                    f"{outcome.session_of(closure.reference_id)}/{reference.stamp_ns}",
                ),
                pose=pose_with_covariance(types, T, parent_axes(T, v.covariance)),
            )
        )
    return messages


def query_stamp_ns(outcome: Outcome, closure: LoopClosure) -> int:
    """Time of the image that a closure is of, which may be an earlier one."""
    query = outcome.query(closure)
    return outcome.frame.stamp_ns if query is None else query.stamp_ns


def num_inliers(closure: LoopClosure) -> int:
    """How many matches support a closure; 0 when it was not verified."""
    return 0 if closure.verification is None else closure.verification.num_inliers


def _number(value: float | None) -> float:
    """NaN where something is not known."""
    return float("nan") if value is None else float(value)
