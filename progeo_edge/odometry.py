"""Path travelled, and whether a closure agrees with the odometry: a stated drift model, and a chi-square test."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import DRIFT_CORRELATION_M
from progeo_edge.geometry import FloatArray, invert, se3_log
from progeo_edge.types import PoseKind, Status, Transform, Verification


class PathLength:
    """Metres driven until each keyframe of the current session, along the odometry."""

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._last: Transform | None = None
        self._total_m = 0.0

    def add(self, keyframe_id: int, T_odom_base: Transform | None) -> None:
        """Note a keyframe of the current session; one without odometry is left out."""
        if T_odom_base is None:
            return
        self._total_m = self._total_m if self._last is None else self._until(self._last, T_odom_base)
        self._last = T_odom_base
        self._at[keyframe_id] = self._total_m

    def at(self, keyframe_id: int) -> float | None:
        """Metres until a keyframe; None without odometry, or for a keyframe of another session."""
        return self._at.get(keyframe_id)

    def to(self, T_odom_base: Transform | None) -> float | None:
        """Metres until a pose after the last keyframe; None without odometry."""
        if T_odom_base is None:
            return None
        return 0.0 if self._last is None else self._until(self._last, T_odom_base)

    def _until(self, last: Transform, T_odom_base: Transform) -> float:
        return self._total_m + float(np.linalg.norm(T_odom_base[:3, 3] - last[:3, 3]))


class OdometryCheck:
    """The test of closures against the odometry.

    The drift model is that of the pose graph (`progeo_edge.constraints`): the stated share of the path holds up to
    `DRIFT_CORRELATION_M`; beyond, errors partly cancel and grow with the square root of the path. Heading error turns
    into position error over that path.
    """

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config

    def mahalanobis2(
        self, verification: Verification, T_odom_reference: Transform, T_odom_query: Transform, path_m: float
    ) -> float:
        """Squared Mahalanobis distance between closure and odometry over `path_m` metres of driving.

        METRIC poses are compared in six degrees of freedom, the others in rotation only.
        """
        if verification.T_reference_query is None or verification.covariance is None:
            raise ValueError("a verification without a pose cannot be compared with odometry")
        T_predicted = invert(T_odom_reference) @ T_odom_query
        error = se3_log(invert(verification.T_reference_query) @ T_predicted)
        covariance = self.covariance(T_predicted, path_m) + verification.covariance
        if verification.pose_kind is not PoseKind.METRIC:
            error, covariance = error[3:], covariance[3:, 3:]
        return float(error @ np.linalg.solve(covariance, error))

    def covariance(self, T_reference_query: Transform, path_m: float) -> FloatArray:
        """(6, 6) covariance of an odometry-predicted relative pose, right perturbation, x y z rx ry rz."""
        config = self._config
        drifting_m = path_m if path_m <= DRIFT_CORRELATION_M else float(np.sqrt(DRIFT_CORRELATION_M * path_m))
        sigma_m = config.floor_m + config.drift_m_per_m * drifting_m
        sigma_rad = np.radians(config.floor_deg + config.drift_deg_per_m * drifting_m)
        # A heading error made half-way round displaces the end by at most the half path.
        lever_m = 0.5 * path_m * sigma_rad
        sigmas = np.array([np.hypot(sigma_m, lever_m)] * 3 + [sigma_rad] * 3)
        return np.diag(sigmas**2)

    def judge(
        self, verification: Verification, T_odom_reference: Transform, T_odom_query: Transform, path_m: float
    ) -> tuple[Status, float]:
        """ACCEPTED, GRAVITY or ODOM_INCONSISTENT, with the Mahalanobis distance (not squared)."""
        distance2 = self.mahalanobis2(verification, T_odom_reference, T_odom_query, path_m)
        metric = verification.pose_kind is PoseKind.METRIC
        limit = self._config.max_mahalanobis2 if metric else self._config.max_mahalanobis2_rotation
        if self._config.gravity_aligned and self._tilt_deg(verification, T_odom_reference, T_odom_query) > (
            self._config.max_gravity_deg
        ):
            return Status.GRAVITY, float(np.sqrt(distance2))
        return (Status.ACCEPTED if distance2 <= limit else Status.ODOM_INCONSISTENT), float(np.sqrt(distance2))

    @staticmethod
    def _tilt_deg(verification: Verification, T_odom_reference: Transform, T_odom_query: Transform) -> float:
        """Angle between the vertical seen by the query's odometry and the one implied by the closure."""
        assert verification.T_reference_query is not None
        up_query = T_odom_query[2, :3]
        up_implied = verification.T_reference_query[:3, :3].T @ T_odom_reference[2, :3]
        return float(np.degrees(np.arccos(np.clip(up_query @ up_implied, -1.0, 1.0))))
