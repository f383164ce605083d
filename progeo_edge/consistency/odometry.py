"""Whether a closure agrees with the odometry of its own session: distance, height, direction, and the whole pose."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import Config
from progeo_edge.consistency.drift import Prediction
from progeo_edge.consistency.measured import NO_LEVER, Measured, difference, fit_lengths, measured, reach_m
from progeo_edge.geometry import FloatArray
from progeo_edge.types import LoopClosure, PoseKind, Status, Transform, Verification

_SIGMAS = 3.29
"""A normal error is larger than this in one case of a thousand."""


class OdometryCheck:
    """The test of closures against what odometry predicts."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def is_reachable(self, prediction: Prediction, kind: PoseKind = PoseKind.METRIC) -> bool:
        """Whether reference and query can be views of one place at all; needs no geometry.

        Not so when the distance, less its uncertainty, is beyond the reach of a closure, or the height, less its own,
        beyond `odometry.max_height_m`.
        """
        distance_m, std_m = _distance(prediction)
        if distance_m - _SIGMAS * std_m > reach_m(kind, self._config):
            return False
        if prediction.up is None:
            return True
        height_m = abs(float(prediction.up @ prediction.T_reference_query[:3, 3]))
        return height_m - _SIGMAS * prediction.height_std_m <= self._config.odometry.max_height_m

    def judge(
        self,
        verification: Verification,
        prediction: Prediction,
        lever_query_m: FloatArray = NO_LEVER,
        lever_reference_m: FloatArray = NO_LEVER,
    ) -> tuple[Status, float | None]:
        """ACCEPTED, GRAVITY or ODOM_INCONSISTENT, with the Mahalanobis distance (not squared; None without a pose).

        METRIC poses are compared in six degrees of freedom, and in height alone where the vertical is known.
        UP_TO_SCALE ones in rotation, and with the length left open within the reach (five degrees of freedom).
        ROTATION_ONLY ones in rotation. All of those without metres must lie within the reach of their kind.

        Args:
            verification: Accepted by the geometry.
            prediction: By odometry.
            lever_query_m: (3,) position of the query's camera in its base.
            lever_reference_m: (3,) the same of the reference.
        """
        closure = measured(
            LoopClosure(-1, -1, 0.0, verification=verification), self._config, lever_query_m, lever_reference_m
        )
        if closure is None:
            reachable = self.is_reachable(prediction, PoseKind.NONE)
            return (Status.ACCEPTED if reachable else Status.ODOM_INCONSISTENT), None
        distance2, limit = self._distance2(verification.pose_kind, closure, prediction)
        status = Status.ACCEPTED if distance2 <= limit else Status.ODOM_INCONSISTENT
        if not self._places_agree(verification.pose_kind, closure, prediction):
            status = Status.ODOM_INCONSISTENT
        if self._config.odometry.gravity_aligned and prediction.up is not None:
            tilt_deg = _tilt_deg(closure.T_reference_query, prediction)
            status = Status.GRAVITY if tilt_deg > self._config.odometry.max_gravity_deg else status
        return status, float(np.sqrt(distance2))

    def _distance2(self, kind: PoseKind, closure: Measured, prediction: Prediction) -> tuple[float, float]:
        """The squared Mahalanobis distance that is furthest beyond its limit, and that limit."""
        limits = self._config.odometry
        error = difference(closure.T_reference_query, prediction.T_reference_query)
        covariance = prediction.covariance + closure.covariance
        if kind is PoseKind.METRIC:
            return float(error @ np.linalg.solve(covariance, error)), limits.max_mahalanobis2
        turned = float(error[3:] @ np.linalg.solve(covariance[3:, 3:], error[3:]))
        if closure.direction is None or turned > limits.max_mahalanobis2_rotation:
            return turned, limits.max_mahalanobis2_rotation
        per_metre = difference(closure.pose(1.0), prediction.T_reference_query) - error
        grown = closure.covariance_at(1.0) - closure.covariance
        distance2 = fit_lengths([error, per_metre], [grown], covariance, [closure.reach_m])
        return distance2, limits.max_mahalanobis2_direction

    def _places_agree(self, kind: PoseKind, closure: Measured, prediction: Prediction) -> bool:
        if kind is not PoseKind.METRIC:
            return self.is_reachable(prediction, kind)
        if prediction.up is None:
            return True
        height_m = float(prediction.up @ (prediction.T_reference_query[:3, 3] - closure.T_reference_query[:3, 3]))
        up_query = closure.T_reference_query[:3, :3].T @ prediction.up
        std_m = np.sqrt(prediction.height_std_m**2 + float(up_query @ closure.covariance[:3, :3] @ up_query))
        return bool(abs(height_m) <= _SIGMAS * std_m)


def _distance(prediction: Prediction) -> tuple[float, float]:
    """Metres between the bases by odometry, and their standard deviation along the line that joins them."""
    T = prediction.T_reference_query
    distance_m = float(np.linalg.norm(T[:3, 3]))
    along = T[:3, :3].T @ T[:3, 3] / distance_m if distance_m > 1e-9 else np.array([1.0, 0.0, 0.0])
    return distance_m, float(np.sqrt(along @ prediction.covariance[:3, :3] @ along))


def _tilt_deg(T_reference_query: Transform, prediction: Prediction) -> float:
    """Angle between the vertical that the query's odometry sees and the one that the closure implies."""
    up_query = prediction.T_reference_query[:3, :3].T @ prediction.up
    up_implied = T_reference_query[:3, :3].T @ prediction.up
    return float(np.degrees(np.arccos(np.clip(up_query @ up_implied, -1.0, 1.0))))
