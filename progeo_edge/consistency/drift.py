"""The way driven by odometry, and how uncertain it is: the stated drift model, propagated along the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import STEP_FLOOR_M, keyframe_step_covariance
from progeo_edge.geometry import FloatArray, adjoint, invert
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Transform

HOP_M = 0.25
"""Metres are counted in hops of this length, so that the jitter of a robot that stands does not add up to a way."""
LEVEL_DEG = 3.0
"""A drive whose tilt by odometry stays below this (root mean square) is on level ground."""
TURNED = 0.9
"""Length of the mean heading below which a drive has turned enough to tell its vertical from its heading."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What odometry says of the relative pose of two keyframes of one session.

    Attributes:
        T_reference_query: Pose of the query's base in the reference's base.
        covariance: (6, 6) of it, x y z rx ry rz, metres and radians, right perturbation.
        up: (3,) unit vertical in the reference's base; None where the odometry does not know it.
        height_std_m: Standard deviation of the difference of heights; only with `up`.
    """

    T_reference_query: Transform
    covariance: FloatArray
    up: FloatArray | None = None
    height_std_m: float = float("inf")


class DrivenPath:
    """Metres driven until each keyframe of one session, and how uncertain the way is since then.

    Every step between keyframes adds the covariance that the drift model states for it. Kept in the odometry frame,
    these covariances simply add up, so that the covariance between any two keyframes is a difference of two sums; an
    error of heading weighs with its lever to the query, not with the length of the path (first-order propagation of
    independent right perturbations: Barfoot, State Estimation for Robotics, section 7.3).
    """

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config
        self._metres: dict[int, float] = {}
        self._spread: dict[int, FloatArray] = {}
        self._poses: dict[int, Transform] = {}
        self._last: Transform | None = None
        self._hop_from: FloatArray | None = None
        self._hopped_m = 0.0
        self._total_spread = np.zeros((6, 6))
        self._sum_of_axes = np.zeros((3, 3))

    def add(self, keyframe_id: int, T_odom_base: Transform | None) -> None:
        """Note a keyframe of the session; one without odometry is left out."""
        if T_odom_base is None:
            return
        if self._last is not None:
            self._total_spread = self._total_spread + self._step(self._last, T_odom_base)
        self._last = T_odom_base
        self._metres[keyframe_id] = self._advance(T_odom_base[:3, 3])
        self._spread[keyframe_id] = self._total_spread
        self._poses[keyframe_id] = T_odom_base
        self._sum_of_axes = self._sum_of_axes + T_odom_base[:3, :3]

    def at(self, keyframe_id: int) -> float | None:
        """Metres until a keyframe; None without odometry, or for a keyframe of another session."""
        return self._metres.get(keyframe_id)

    def to(self, T_odom_base: Transform | None) -> float | None:
        """Metres until a pose after the last keyframe; None without odometry."""
        if T_odom_base is None:
            return None
        if self._hop_from is None:
            return 0.0
        return self._hopped_m + float(np.linalg.norm(T_odom_base[:3, 3] - self._hop_from))

    def between(self, first_id: int, second_id: int) -> tuple[Transform, FloatArray] | None:
        """Pose of the second keyframe in the first one's base, and its covariance as in `Prediction`, without floors.

        None when the odometry of one of them is not known. They may come in either order.
        """
        if first_id not in self._poses or second_id not in self._poses:
            return None
        way = self._spread[max(first_id, second_id)] - self._spread[min(first_id, second_id)]
        T_odom_second = self._poses[second_id]
        return invert(self._poses[first_id]) @ T_odom_second, _seen_from(T_odom_second, way)

    def since(self, first_id: int, T_odom_query: Transform) -> tuple[Transform, FloatArray] | None:
        """As `between`, for a pose after the last keyframe."""
        if first_id not in self._poses or self._last is None:
            return None
        way = self._total_spread + self._step(self._last, T_odom_query) - self._spread[first_id]
        return invert(self._poses[first_id]) @ T_odom_query, _seen_from(T_odom_query, way)

    def predict(self, reference_id: int, T_odom_query: Transform) -> Prediction | None:
        """What odometry says of a pose after the last keyframe, with the floors of the drift model.

        None when nothing is known of the way since the reference.
        """
        since = self.since(reference_id, T_odom_query)
        if since is None:
            return None
        T_reference_query, covariance = since
        floor_m2, floor_rad2 = self._config.floor_m**2, np.radians(self._config.floor_deg) ** 2
        covariance = covariance + np.diag([floor_m2] * 3 + [floor_rad2] * 3)
        up_odom = self._vertical()
        if up_odom is None:
            return Prediction(T_reference_query, covariance)
        way_m = (self.to(T_odom_query) or 0.0) - self._metres[reference_id]
        height_var_m2 = (self._tilt_rad() * way_m) ** 2 / 12.0 + floor_m2 + STEP_FLOOR_M**2
        up = self._poses[reference_id][:3, :3].T @ up_odom
        return Prediction(T_reference_query, covariance, up, float(np.sqrt(height_var_m2)))

    def covariance(self, reference_id: int, T_odom_query: Transform) -> FloatArray | None:
        """(6, 6) of the prediction; None when nothing is known of the way since the reference."""
        prediction = self.predict(reference_id, T_odom_query)
        return None if prediction is None else prediction.covariance

    def _vertical(self) -> FloatArray | None:
        """(3,) in the odometry frame: known to be its z axis, or what all keyframes of a level drive turned about."""
        if self._config.gravity_aligned:
            return np.array([0.0, 0.0, 1.0])
        count = len(self._poses)
        heading, vertical = np.linalg.norm(self._sum_of_axes[:, [0, 2]], axis=0) / max(count, 1)
        if not self._config.heights or heading > TURNED or self._tilt_rad() > np.radians(LEVEL_DEG) or vertical == 0:
            return None
        return np.asarray(self._sum_of_axes[:, 2] / (count * vertical))

    def _tilt_rad(self) -> float:
        """Root mean square angle between the bases' z axes and their mean."""
        length = float(np.linalg.norm(self._sum_of_axes[:, 2])) / max(len(self._poses), 1)
        return float(np.sqrt(2.0 * max(1.0 - length, 0.0)))

    def _advance(self, position: FloatArray) -> float:
        if self._hop_from is None:
            self._hop_from = position
        ahead_m = float(np.linalg.norm(position - self._hop_from))
        if ahead_m < HOP_M:
            return self._hopped_m + ahead_m
        self._hop_from = position
        self._hopped_m += ahead_m
        return self._hopped_m

    def _step(self, T_odom_first: Transform, T_odom_second: Transform) -> FloatArray:
        to_odom = adjoint(T_odom_second)
        step = keyframe_step_covariance(invert(T_odom_first) @ T_odom_second, self._config)
        return np.asarray(to_odom @ step @ to_odom.T)


class Drives:
    """The driven path of every session of a map."""

    def __init__(self, config: OdometryConfig, infos: Iterable[KeyframeInfo] = ()) -> None:
        self._config = config
        self._paths: dict[int, DrivenPath] = {}
        for info in infos:
            self.of(info.session).add(info.id, info.T_odom_base)

    def of(self, session: int) -> DrivenPath:
        """The path of a session; an empty one for a new session."""
        return self._paths.setdefault(session, DrivenPath(self._config))


def _seen_from(T_odom_query: Transform, way: FloatArray) -> FloatArray:
    to_query = adjoint(invert(T_odom_query))
    covariance = to_query @ way @ to_query.T
    return np.asarray(0.5 * (covariance + covariance.T))
