"""What a closure measured, in a form that can be compared: a pose whose length may be unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from progeo_edge.config import Config
from progeo_edge.geometry import FloatArray, make_transform, se3_log
from progeo_edge.types import LoopClosure, PoseKind, Transform

NO_LEVER = np.zeros(3)
_ORIGIN_M = 0.05
"""Standard deviation of the base's place on the line of an UP_TO_SCALE closure where the line begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A closure's pose T(s) = [R, offset + s * direction], where the length s may be unknown.

    Attributes:
        T_reference_query: Its pose for s = 0: as measured when METRIC, else without a translation of the camera.
        direction: (3,) unit direction of the camera's motion in the reference's base; None unless UP_TO_SCALE.
        covariance: (6, 6) for s = 0, x y z rx ry rz, right perturbation.
        direction_rad: Standard deviation of the direction.
        reach_m: The length is at most this.
    """

    T_reference_query: Transform
    direction: FloatArray | None
    covariance: FloatArray
    direction_rad: float
    reach_m: float

    def pose(self, length_m: float) -> Transform:
        """The pose at a length; the length counts only for UP_TO_SCALE."""
        if self.direction is None:
            return self.T_reference_query
        T = self.T_reference_query.copy()
        T[:3, 3] += length_m * self.direction
        return np.asarray(T)

    def covariance_at(self, length_m: float) -> FloatArray:
        """(6, 6) at a length: the error of the direction grows with it."""
        if self.direction is None:
            return self.covariance
        grown = self.covariance.copy()
        grown[:3, :3] += (length_m * self.direction_rad) ** 2 * np.eye(3)
        return np.asarray(grown)


def reach_m(kind: PoseKind, config: Config) -> float:
    """How far apart two views can be that a closure of this kind joins.

    Any: `verification.max_translation_m`. ROTATION_ONLY: points at depth z, seen at least 17 degrees off the direction
    of motion, show less than the parallax p only when the way is shorter than z tan(p) / sin(17 deg).
    """
    longest_m = config.verification.max_translation_m
    if kind is not PoseKind.ROTATION_ONLY:
        return longest_m
    parallax = np.tan(np.radians(config.verification.min_parallax_deg))
    return min(longest_m, float(config.odometry.max_scene_depth_m * parallax / np.sin(np.radians(17.0))))


def measured(
    closure: LoopClosure, config: Config, lever_query_m: FloatArray = NO_LEVER, lever_reference_m: FloatArray = NO_LEVER
) -> Measured | None:
    """What a closure says; None when it has no pose.

    Args:
        closure: Accepted by the geometry.
        config: Reach and uncertainty of a direction.
        lever_query_m: (3,) position of the query's camera in its base.
        lever_reference_m: (3,) the same of the reference.
    """
    v = closure.verification
    if v is None or v.pose_kind is PoseKind.NONE or v.T_reference_query is None or v.covariance is None:
        return None
    reach, direction_rad = reach_m(v.pose_kind, config), float(np.radians(config.odometry.direction_deg))
    if v.pose_kind is PoseKind.METRIC:
        return Measured(v.T_reference_query, None, v.covariance, 0.0, reach)
    R = v.T_reference_query[:3, :3]
    offset_m = lever_reference_m - R @ lever_query_m
    covariance = v.covariance.copy()
    covariance[:3, 3:] = covariance[3:, :3] = 0.0
    if v.pose_kind is PoseKind.ROTATION_ONLY:
        covariance[:3, :3] = (0.5 * reach) ** 2 * np.eye(3)
        return Measured(make_transform(R, offset_m), None, covariance, 0.0, reach)
    covariance[:3, :3] = _ORIGIN_M**2 * np.eye(3)
    direction = v.T_reference_query[:3, 3]
    length = float(np.linalg.norm(direction))
    return Measured(make_transform(R, offset_m), direction / max(length, 1e-9), covariance, direction_rad, reach)


def fit_lengths(
    residual: list[FloatArray], covariance: list[FloatArray], constant: FloatArray, reaches_m: list[float]
) -> float:
    """Mahalanobis distance squared of a residual, at those unknown lengths that explain it best.

    The residual is linear in every length and its covariance grows with the length's square.

    Args:
        residual: (6,) per term: the constant one first, then what each length adds per metre.
        covariance: (6, 6) per length: what its square adds.
        constant: (6, 6) covariance at length 0.
        reaches_m: Largest value of each length; they are never negative.
    """
    base, slopes = residual[0], residual[1:]
    lengths = [0.0] * len(slopes)
    weighted = constant
    for _ in range(3):
        information = np.linalg.inv(weighted)
        for _ in range(10 if len(slopes) > 1 else 1):
            for k, slope in enumerate(slopes):
                rest = base + sum((lengths[j] * other for j, other in enumerate(slopes) if j != k), np.zeros(6))
                best = -float(slope @ information @ rest) / float(slope @ information @ slope)
                lengths[k] = min(max(best, 0.0), reaches_m[k])
        if not slopes:
            break
        weighted = constant + sum(
            (s**2 * grown for s, grown in zip(lengths, covariance, strict=True)), np.zeros((6, 6))
        )
    error = base + sum((s * slope for s, slope in zip(lengths, slopes, strict=True)), np.zeros(6))
    return float(error @ np.linalg.solve(weighted, error))


def difference(T_measured: Transform, T_predicted: Transform) -> FloatArray:
    """(6,) twist from the measured pose to the predicted one."""
    return se3_log(np.linalg.inv(T_measured) @ T_predicted)
