"""The way driven, and whether a closure agrees with the odometry: a stated drift model, and a chi-square test."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import keyframe_step_covariance
from progeo_edge.geometry import FloatArray, adjoint, invert, se3_log
from progeo_edge.types import PoseKind, Status, Transform, Verification


class DrivenPath:
    """Metres driven until each keyframe of the current session, and how uncertain the way is since then.

    Every step between keyframes adds the covariance that the drift model states for it. Kept in the odometry frame,
    these covariances simply add up, so that the covariance between any two keyframes is a difference of two sums; an
    error of heading weighs with its lever to the query, not with the length of the path (first-order propagation of
    independent right perturbations: Barfoot, State Estimation for Robotics, section 7.3).
    """

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config
        self._metres: dict[int, float] = {}
        self._spread: dict[int, FloatArray] = {}
        self._last: Transform | None = None
        self._total_m = 0.0
        self._total_spread = np.zeros((6, 6))

    def add(self, keyframe_id: int, T_odom_base: Transform | None) -> None:
        """Note a keyframe of the current session; one without odometry is left out."""
        if T_odom_base is None:
            return
        if self._last is not None:
            self._total_m += _distance_m(self._last, T_odom_base)
            self._total_spread = self._total_spread + self._step(self._last, T_odom_base)
        self._last = T_odom_base
        self._metres[keyframe_id] = self._total_m
        self._spread[keyframe_id] = self._total_spread

    def at(self, keyframe_id: int) -> float | None:
        """Metres until a keyframe; None without odometry, or for a keyframe of another session."""
        return self._metres.get(keyframe_id)

    def to(self, T_odom_base: Transform | None) -> float | None:
        """Metres until a pose after the last keyframe; None without odometry."""
        if T_odom_base is None:
            return None
        return 0.0 if self._last is None else self._total_m + _distance_m(self._last, T_odom_base)

    def covariance(self, reference_id: int, T_odom_query: Transform) -> FloatArray | None:
        """(6, 6) covariance of the odometry's T_reference_query for a pose after the last keyframe.

        Right perturbation, x y z rx ry rz. None when nothing is known of the way since the reference.
        """
        if reference_id not in self._spread or self._last is None:
            return None
        since = self._total_spread + self._step(self._last, T_odom_query) - self._spread[reference_id]
        to_query = adjoint(invert(T_odom_query))
        floor_rad = np.radians(self._config.floor_deg)
        floor = np.diag([self._config.floor_m**2] * 3 + [floor_rad**2] * 3)
        covariance = to_query @ since @ to_query.T
        return np.asarray(0.5 * (covariance + covariance.T) + floor)

    def _step(self, T_odom_first: Transform, T_odom_second: Transform) -> FloatArray:
        to_odom = adjoint(T_odom_second)
        step = keyframe_step_covariance(invert(T_odom_first) @ T_odom_second, self._config)
        return np.asarray(to_odom @ step @ to_odom.T)


class OdometryCheck:
    """The test of closures against the odometry."""

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config

    def judge(
        self, verification: Verification, T_odom_reference: Transform, T_odom_query: Transform, drift: FloatArray
    ) -> tuple[Status, float]:
        """ACCEPTED, GRAVITY or ODOM_INCONSISTENT, with the Mahalanobis distance (not squared).

        METRIC poses are compared in six degrees of freedom, the others in rotation only.

        Args:
            verification: With pose and covariance.
            T_odom_reference: Pose of the reference by odometry.
            T_odom_query: Pose of the query by the same odometry.
            drift: (6, 6) covariance of the odometry's T_reference_query, from `DrivenPath.covariance`.
        """
        if verification.T_reference_query is None or verification.covariance is None:
            raise ValueError("a verification without a pose cannot be compared with odometry")
        T_predicted = invert(T_odom_reference) @ T_odom_query
        error = se3_log(invert(verification.T_reference_query) @ T_predicted)
        covariance, limit = drift + verification.covariance, self._config.max_mahalanobis2
        if verification.pose_kind is not PoseKind.METRIC:
            error, covariance = error[3:], covariance[3:, 3:]
            limit = self._config.max_mahalanobis2_rotation
        distance2 = float(error @ np.linalg.solve(covariance, error))
        status = Status.ACCEPTED if distance2 <= limit else Status.ODOM_INCONSISTENT
        if self._config.gravity_aligned:
            tilt_deg = _tilt_deg(verification.T_reference_query, T_odom_reference, T_odom_query)
            status = Status.GRAVITY if tilt_deg > self._config.max_gravity_deg else status
        return status, float(np.sqrt(distance2))


def _distance_m(T_odom_a: Transform, T_odom_b: Transform) -> float:
    return float(np.linalg.norm(T_odom_b[:3, 3] - T_odom_a[:3, 3]))


def _tilt_deg(T_reference_query: Transform, T_odom_reference: Transform, T_odom_query: Transform) -> float:
    """Angle between the vertical seen by the query's odometry and the one implied by the closure."""
    up_query = T_odom_query[2, :3]
    up_implied = T_reference_query[:3, :3].T @ T_odom_reference[2, :3]
    return float(np.degrees(np.arccos(np.clip(up_query @ up_implied, -1.0, 1.0))))
