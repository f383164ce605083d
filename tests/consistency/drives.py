"""Drives by odometry, and closures, for tests of consistency."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.consistency import DrivenPath
from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.types import PoseKind, Status, Transform, Verification

I4 = np.eye(4)


def at(x: float, y: float = 0.0, yaw_deg: float = 0.0, z: float = 0.0) -> Transform:
    return make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x, y, z])


def round_the_block(side_m: float = 20.0, step_m: float = 1.0) -> list[Transform]:
    """A square driven once, back to the start."""
    poses = [I4]
    for _ in range(4):
        poses += [poses[-1] @ at(step_m * (i + 1)) for i in range(int(side_m / step_m))]
        poses[-1] = poses[-1] @ at(0, 0, 90)
    return poses


def driven(poses: list[Transform], config: OdometryConfig | None = None) -> DrivenPath:
    """Keyframes 0, 1, ... at these poses."""
    path = DrivenPath(config or OdometryConfig())
    for keyframe_id, pose in enumerate(poses):
        path.add(keyframe_id, pose)
    return path


def verification(T_reference_query: Transform, kind: PoseKind = PoseKind.METRIC) -> Verification:
    """As the verifier gives it for a pose of that kind: a unit direction, or no translation, without metres."""
    T = T_reference_query.copy()
    if kind is PoseKind.UP_TO_SCALE:
        T[:3, 3] /= max(float(np.linalg.norm(T[:3, 3])), 1e-9)
    elif kind is PoseKind.ROTATION_ONLY:
        T[:3, 3] = 0.0
    std_m = 0.05 if kind is PoseKind.METRIC else 2.0
    covariance = np.diag([std_m**2] * 3 + [np.radians(0.5) ** 2] * 3)
    return Verification(Status.ACCEPTED, T, covariance, kind)
