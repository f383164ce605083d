"""What other programs read: JSON records of keyframes and closures, g2o, TUM trajectories, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.back_ends import g2o_information
from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import Constraint, metric_constraint, odometry_constraints
from progeo_edge.geometry import FloatArray, check_transform, quaternion_xyzw
from progeo_edge.moments import Taken
from progeo_edge.types import (
    Candidate,
    Frame,
    LoopClosure,
    Status,
    Transform,
    Update,
    Verification,
)

CLOSURE_COLUMNS = (
    *("query_id", "reference_id", "query", "reference", "query_stamp_ns", "reference_stamp_ns"),
    *("similarity", "probability", "num_matches", "num_inliers", "inlier_ratio", "coverage", "reprojection_rmse_px"),
    *("pose_kind", "scale_source", "x", "y", "z", "qx", "qy", "qz", "qw", "odom_mahalanobis"),
    *("query_camera", "reference_camera", "heading_change_deg", "is_reverse"),
)
"""Columns of the CSV: as in `closure_record`, with the pose as position and quaternion (metres when METRIC)."""


class KnownKeyframe(Taken, Protocol):
    """What is asked of a keyframe here; both `Keyframe` and the map's `KeyframeInfo` have it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def T_odom_base(self) -> Transform | None: ...  # noqa: D102


# -- JSON records ----------------------------------------------------------------------------------------------------


def candidate_record(frame: Frame, update: Update, keyframes: Mapping[int, KnownKeyframe]) -> dict[str, Any]:
    """One line of candidates.jsonl: what became of one frame and of each of its candidates.

    Args:
        frame: The frame that was processed.
        update: What `LoopDetector.process` said to it.
        keyframes: The references, by id.

    Returns:
        Plain values; what is not known (NaN) is None. `query_id` is None for a frame that was not stored; `query` and
        `reference` are names, or stamps where the source gives no names.
    """
    return {
        "query_id": None if update.keyframe is None else update.keyframe.id,
        "query": frame.name or str(frame.stamp_ns),
        "stamp_ns": int(frame.stamp_ns),
        "status": update.status.value,
        "candidates": [_candidate(candidate, keyframes) for candidate in update.candidates],
        "released": [[int(c.query_id), int(c.reference_id)] for c in update.released],
        "doubtful": [[int(id) for id in pair] for pair in update.doubtful],
        "timings_ms": {stage: _number(elapsed_ms) for stage, elapsed_ms in update.timings_ms.items()},
    }


def _candidate(candidate: Candidate, keyframes: Mapping[int, KnownKeyframe]) -> dict[str, Any]:
    return {
        "reference_id": int(candidate.reference_id),
        "reference": _name(candidate.reference_id, keyframes),
        "similarity": _number(candidate.similarity),
        "rerank_score": _number(candidate.rerank_score),
        "probability": _number(candidate.probability),
        "motion_score": _number(candidate.motion_score),
        "status": candidate.status.value,
        "odom_mahalanobis": _number(candidate.odom_mahalanobis),
        "contradicts": [int(id) for id in candidate.contradicts],
        "supported": candidate.supported,
        **_verification_numbers(candidate.verification),
    }


def closure_record(closure: LoopClosure, keyframes: Mapping[int, KnownKeyframe]) -> dict[str, Any]:
    """One line of closures.jsonl.

    Args:
        closure: From an Update or from a map.
        keyframes: Query and reference, by id. A query that is not there (relocalisation stores none) has no name and
            no stamp.

    Returns:
        Plain values; what is not known is None. `heading_change_deg` and `is_reverse` compare the robot's base, not
        its cameras. `T_reference_query` is a 4x4 list, `covariance` its 6x6 list in the
        order x y z rx ry rz.
    """
    verification = closure.verification or Verification(Status.NOT_VERIFIED)
    return {
        "query_id": int(closure.query_id),
        "reference_id": int(closure.reference_id),
        "query": _name(closure.query_id, keyframes),
        "reference": _name(closure.reference_id, keyframes),
        "query_stamp_ns": _stamp_ns(closure.query_id, keyframes),
        "reference_stamp_ns": _stamp_ns(closure.reference_id, keyframes),
        "similarity": _number(closure.similarity),
        "probability": _number(closure.probability),
        **_verification_numbers(closure.verification),
        "pose_kind": verification.pose_kind.value,
        "scale_source": verification.scale_source.value,
        "T_reference_query": _matrix(verification.T_reference_query),
        "covariance": _matrix(verification.covariance),
        "odom_mahalanobis": _number(closure.odom_mahalanobis),
        "query_camera": _camera(closure.query_id, keyframes),
        "reference_camera": _camera(closure.reference_id, keyframes),
        "heading_change_deg": _number(closure.heading_change_deg),
        "is_reverse": closure.is_reverse,
    }


def _verification_numbers(verification: Verification | None) -> dict[str, Any]:
    names = ("num_matches", "num_inliers", "inlier_ratio", "coverage", "reprojection_rmse_px")
    return {name: None if verification is None else _number(getattr(verification, name)) for name in names}


def _number(value: float | None) -> float | int | None:
    """A plain int or float; JSON has no NaN and no infinity, so these are None."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _matrix(values: FloatArray | None) -> list[list[float | int | None]] | None:
    return None if values is None else [[_number(value) for value in row] for row in values.tolist()]


def _name(keyframe_id: int, keyframes: Mapping[int, KnownKeyframe]) -> str:
    keyframe = keyframes.get(keyframe_id)
    return "" if keyframe is None else keyframe.name or str(keyframe.stamp_ns)


def _camera(keyframe_id: int, keyframes: Mapping[int, KnownKeyframe]) -> str | None:
    keyframe = keyframes.get(keyframe_id)
    return None if keyframe is None else keyframe.camera


def _stamp_ns(keyframe_id: int, keyframes: Mapping[int, KnownKeyframe]) -> int | None:
    keyframe = keyframes.get(keyframe_id)
    return None if keyframe is None else int(keyframe.stamp_ns)


# -- g2o -------------------------------------------------------------------------------------------------------------


def write_g2o(
    path: Path,
    keyframes: Iterable[KnownKeyframe],
    closures: Iterable[LoopClosure],
    config: OdometryConfig | None = None,
    poses: Mapping[int, Transform] | None = None,
    information: Callable[[FloatArray], FloatArray] = g2o_information,
    constraint: Callable[[LoopClosure], Constraint | None] = metric_constraint,
) -> None:
    """Write the pose graph for g2o and everything that reads its format.

    Vertices are the keyframes with odometry. Edges are the odometry between neighbours of one session, and the METRIC
    closures from reference to query; closures of other kinds have no metres and are left out. Sessions that no edge
    joins remain separate graphs in the file, each in its own odometry frame.

    GTSAM's reader takes the numbers of an edge as if they were of a rotation vector, and so halves the standard
    deviations of rotations in a file that is made for g2o; for it, write with `rotation_vector_information`.

    Args:
        path: File to write.
        keyframes: Those of the map, in any order.
        closures: Accepted closures.
        config: Drift model for the odometry edges; None for the defaults.
        poses: Vertex estimates T_world_base by keyframe id, as from `optimise`; None for the odometry itself.
        information: Of a covariance, as the reader of the file will understand it.
        constraint: What a closure says; `closure_constraint` writes UP_TO_SCALE and ROTATION_ONLY closures too, as a
            rotation with a translation that is all but free.

    Raises:
        InputError: a pose that is not rigid, or a covariance that is not positive definite.
    """
    posed = {keyframe.id: keyframe for keyframe in keyframes if keyframe.T_odom_base is not None}
    odometry = {i: keyframe.T_odom_base for i, keyframe in posed.items() if keyframe.T_odom_base is not None}
    sessions = {i: keyframe.session for i, keyframe in posed.items()}
    said = [c for c in map(constraint, closures) if c is not None]
    edges = odometry_constraints(odometry, config or OdometryConfig(), sessions)
    edges += [c for c in said if c.first_id in odometry and c.second_id in odometry]
    estimates = odometry if poses is None else poses
    lines = [f"VERTEX_SE3:QUAT {i} {_pose_text(estimates[i])}" for i in sorted(odometry)]
    lines += [_edge_text(edge, information(edge.covariance)) for edge in edges]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _edge_text(edge: Constraint, information: FloatArray) -> str:
    pose, upper = _pose_text(edge.T_first_second), _numbers_text(information[np.triu_indices(6)])
    return f"EDGE_SE3:QUAT {edge.first_id} {edge.second_id} {pose} {upper}"


def _pose_text(T: Transform) -> str:
    """Position and quaternion: x y z qx qy qz qw."""
    T = check_transform(T, "a pose to be written")
    return _numbers_text(np.concatenate([T[:3, 3], quaternion_xyzw(T[:3, :3])]))


def _numbers_text(values: FloatArray) -> str:
    return " ".join(f"{value:.12g}" for value in values)


# -- TUM and CSV -----------------------------------------------------------------------------------------------------


def write_tum(path: Path, poses: Mapping[int, Transform], stamps_ns: Mapping[int, int]) -> None:
    """Write a trajectory in the format of the TUM RGB-D benchmark: seconds, position, quaternion.

    Args:
        path: File to write.
        poses: T_world_base by keyframe id.
        stamps_ns: Time of each; lines are in the order of time.

    Raises:
        InputError: a pose that is not rigid.
    """
    ordered = sorted(poses, key=lambda i: (stamps_ns[i], i))
    write_text(path, "".join(f"{_seconds_text(stamps_ns[i])} {_pose_text(poses[i])}\n" for i in ordered))


def _seconds_text(stamp_ns: int) -> str:
    """Exact decimal seconds; a float has too few digits for nanoseconds since 1970."""
    seconds, rest_ns = divmod(abs(int(stamp_ns)), 1_000_000_000)
    return f"{'-' if stamp_ns < 0 else ''}{seconds}.{rest_ns:09d}"


def write_closures_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write closures as a table for spreadsheets.

    Args:
        path: File to write.
        records: From `closure_record`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CLOSURE_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({**record, **_pose_columns(record["T_reference_query"])})
    write_text(path, text.getvalue())


def _pose_columns(T_reference_query: list[list[float]] | None) -> dict[str, float]:
    if T_reference_query is None:
        return {}
    T = np.array(T_reference_query)
    values = np.concatenate([T[:3, 3], quaternion_xyzw(T[:3, :3])])
    return dict(zip(("x", "y", "z", "qx", "qy", "qz", "qw"), values.tolist(), strict=True))
