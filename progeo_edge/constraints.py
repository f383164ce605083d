"""Odometry and closures as constraints: a relative pose with a covariance between two keyframes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.errors import InputError
from progeo_edge.geometry import FloatArray, check_transform, invert, rotation_angle
from progeo_edge.types import LoopClosure, PoseKind, Transform

DRIFT_CORRELATION_M = 10.0
"""Distance over which an odometry errs in one direction. The stated drift, a share of the path, holds up to here;
beyond, errors partly cancel and grow with the square root of the path."""
STEP_FLOOR_M = 0.005
STEP_FLOOR_DEG = 0.05
TURN_SHARE = 0.02
"""Standard deviation of a turn as a share of its angle: a robot that turns on the spot drifts without driving."""
STILL_M = 1e-6
STILL_RAD = 1e-6
RIGID_M = 1e-4
RIGID_DEG = 1e-3
"""What ties keyframes of one and the same pose, as a rig makes them at one moment; a pose graph cannot take zero."""
UNKNOWN_M = 1000.0
"""Standard deviation stated for a translation that nothing is known of."""


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """The relative pose of two keyframes.

    Attributes:
        first_id: Keyframe id.
        second_id: Keyframe id.
        T_first_second: Pose of the second base in the first base's frame.
        covariance: (6, 6) of it, x y z rx ry rz, metres and radians, right perturbation `T @ exp(xi)`.
    """

    first_id: int
    second_id: int
    T_first_second: Transform
    covariance: FloatArray


def chains(ids: Mapping[int, object], sessions: Mapping[int, int] | None) -> list[list[int]]:
    """Ids in ascending order, one list per session: within a list odometry links neighbours.

    Args:
        ids: Keyframes with an odometry pose.
        sessions: Session of each; None when all are of one.
    """
    result: dict[int, list[int]] = {}
    for keyframe_id in sorted(ids):
        result.setdefault(0 if sessions is None else sessions[keyframe_id], []).append(keyframe_id)
    return list(result.values())


def odometry_constraints(
    odometry_poses: Mapping[int, Transform], config: OdometryConfig, sessions: Mapping[int, int] | None = None
) -> list[Constraint]:
    """One constraint between each two neighbouring keyframes of a session.

    Args:
        odometry_poses: T_odom_base by keyframe id.
        config: The drift model.
        sessions: Session of each keyframe; None when all are of one.

    Raises:
        InputError: a pose that is not rigid.
    """
    poses = {i: check_transform(T, f"odometry pose of keyframe {i}") for i, T in odometry_poses.items()}
    result = []
    for chain in chains(poses, sessions):
        for first, second in pairwise(chain):
            T_first_second = invert(poses[first]) @ poses[second]
            result.append(Constraint(first, second, T_first_second, keyframe_step_covariance(T_first_second, config)))
    return result


def step_covariance(T_first_second: Transform, config: OdometryConfig) -> FloatArray:
    """(6, 6) covariance of one odometry step: variances grow with the metres driven and the angle turned."""
    distance_m = float(np.linalg.norm(T_first_second[:3, 3]))
    correlated_m2 = DRIFT_CORRELATION_M * distance_m
    variance_m2 = config.drift_m_per_m**2 * correlated_m2 + STEP_FLOOR_M**2
    turn_rad = TURN_SHARE * rotation_angle(T_first_second[:3, :3])
    drift_rad_per_m, floor_rad = np.radians(config.drift_deg_per_m), np.radians(STEP_FLOOR_DEG)
    variance_rad2 = drift_rad_per_m**2 * correlated_m2 + turn_rad**2 + floor_rad**2
    return np.diag([variance_m2] * 3 + [variance_rad2] * 3)


def keyframe_step_covariance(T_first_second: Transform, config: OdometryConfig) -> FloatArray:
    """(6, 6) covariance of the step from one keyframe to the next: rigid where both have one and the same pose.

    That is so for the images of one moment of a rig. A robot that stands still makes no keyframes.
    """
    distance_m = float(np.linalg.norm(T_first_second[:3, 3]))
    if distance_m < STILL_M and rotation_angle(T_first_second[:3, :3]) < STILL_RAD:
        return np.diag([RIGID_M**2] * 3 + [np.radians(RIGID_DEG) ** 2] * 3)
    return step_covariance(T_first_second, config)


def metric_constraint(closure: LoopClosure) -> Constraint | None:
    """A METRIC closure as it was measured; None for any other.

    Raises:
        InputError: its pose is not rigid, or its covariance not positive definite.
    """
    verification = closure.verification
    if verification is None or verification.pose_kind is not PoseKind.METRIC:
        return None
    return _measured(closure)


def closure_constraint(closure: LoopClosure) -> Constraint | None:
    """What a closure says in metres and radians; None when it has no pose.

    METRIC: as measured. UP_TO_SCALE: the rotation as measured; of the translation only that the two views are within
    the prior revisit radius, which is what its covariance states around zero, since the unit direction is not metres.
    ROTATION_ONLY: the rotation, with a translation left free.

    Raises:
        InputError: its pose is not rigid, or its covariance not positive definite.
    """
    measured = _measured(closure)
    if measured is None or closure.verification is None or closure.verification.pose_kind is PoseKind.METRIC:
        return measured
    T, covariance = measured.T_first_second.copy(), measured.covariance.copy()
    T[:3, 3] = 0.0
    covariance[:3, 3:] = covariance[3:, :3] = 0.0
    if closure.verification.pose_kind is PoseKind.ROTATION_ONLY:
        covariance[:3, :3] = UNKNOWN_M**2 * np.eye(3)
    return Constraint(measured.first_id, measured.second_id, T, covariance)


def _measured(closure: LoopClosure) -> Constraint | None:
    verification = closure.verification
    if verification is None or verification.pose_kind is PoseKind.NONE:
        return None
    if verification.T_reference_query is None or verification.covariance is None:
        return None
    what = f"pose of the closure {closure.query_id} -> {closure.reference_id}"
    T_reference_query = check_transform(verification.T_reference_query, what)
    return Constraint(
        closure.reference_id, closure.query_id, T_reference_query, _check_covariance(verification.covariance, what)
    )


def _check_covariance(covariance: FloatArray, what: str) -> FloatArray:
    usable = covariance.shape == (6, 6) and bool(np.all(np.isfinite(covariance)))
    if not usable or np.linalg.eigvalsh(covariance).min() <= 0.0:
        raise InputError(f"{what} has no positive definite (6, 6) covariance; without one it cannot be weighed")
    return covariance
