"""How each back end wants to be told how well a relative pose is known: order, unit and axes of its numbers.

Ours is a (6, 6) covariance in the order x y z rx ry rz, metres and radians, of a right perturbation `T @ exp(xi)`.
docs/backends.md says which function belongs to which program, and which robust kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from progeo_edge.constraints import Constraint
from progeo_edge.errors import ConfigError, InputError
from progeo_edge.geometry import Camera, FloatArray, check_transform
from progeo_edge.types import LoopClosure, PoseKind, Transform

DIRECTION_SIGMA_DEG = 5.0
"""Standard deviation of the direction of an UP_TO_SCALE closure, which its covariance does not state."""

_ROTATION_FIRST = np.array([3, 4, 5, 0, 1, 2])
# The vector part of a small rotation's quaternion is half its rotation vector.
_PER_HALF_ANGLE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])

# -- g2o -------------------------------------------------------------------------------------------------------------


def g2o_information(covariance: FloatArray) -> FloatArray:
    """(6, 6) information of an EDGE_SE3:QUAT, translation first.

    g2o measures an edge's error as the translation and the vector part of the quaternion of `T^-1 @ T_estimate`, which
    is half a rotation vector. The information is therefore 4 times that of a rotation vector for rotation, and twice
    for rotation against translation.

    Args:
        covariance: (6, 6), positive definite.
    """
    return rotation_vector_information(covariance) * np.outer(_PER_HALF_ANGLE, _PER_HALF_ANGLE)


def rotation_vector_information(covariance: FloatArray) -> FloatArray:
    """(6, 6) the plain inverse, translation first: what GTSAM's `readG2o` takes the numbers of an edge for.

    Args:
        covariance: (6, 6), positive definite.
    """
    information = np.linalg.inv(covariance)
    return np.asarray(0.5 * (information + information.T), dtype=np.float64)


# -- GTSAM -----------------------------------------------------------------------------------------------------------


def import_gtsam() -> Any:  # noqa: ANN401
    """The module, which the extra `graph` installs.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        import gtsam
    except ImportError as error:
        raise ConfigError(
            f"the pose graph needs GTSAM, which cannot be imported ({error}); install it with "
            "pip install 'progeo-edge[graph]'"
        ) from error
    return gtsam


def gtsam_covariance(covariance: FloatArray) -> FloatArray:
    """(6, 6) in the order rx ry rz x y z of a Pose3's tangent space, which is a right perturbation as ours is."""
    return np.asarray(covariance[np.ix_(_ROTATION_FIRST, _ROTATION_FIRST)])


def gtsam_noise(covariance: FloatArray) -> Any:  # noqa: ANN401
    """GTSAM's Gaussian noise model of a between or prior factor of Pose3.

    Args:
        covariance: (6, 6) in our order, positive definite.

    Raises:
        ConfigError: GTSAM is not installed.
    """
    return import_gtsam().noiseModel.Gaussian.Covariance(gtsam_covariance(covariance))


def gtsam_factor(constraint: Constraint, robust: Any = None) -> Any:  # noqa: ANN401
    """BetweenFactorPose3 from the first keyframe's id to the second's.

    Args:
        constraint: From `odometry_constraints` or `closure_constraint`.
        robust: An `mEstimator` of GTSAM that weighs the factor down when it contradicts the rest; None for none.

    Raises:
        ConfigError: GTSAM is not installed.
    """
    gtsam = import_gtsam()
    noise = gtsam_noise(constraint.covariance)
    if robust is not None:
        noise = gtsam.noiseModel.Robust.Create(robust, noise)
    T_first_second = gtsam.Pose3(constraint.T_first_second)
    return gtsam.BetweenFactorPose3(constraint.first_id, constraint.second_id, T_first_second, noise)


def gtsam_direction_factor(
    closure: LoopClosure,
    camera: Camera | None,
    keys: tuple[int, int],
    direction_sigma_deg: float = DIRECTION_SIGMA_DEG,
) -> Any:  # noqa: ANN401
    """EssentialMatrixConstraint of an UP_TO_SCALE closure: its rotation and the direction of its translation.

    The direction is one between cameras. The keys must therefore belong to poses of cameras: where a base has no
    camera in its origin, give each of the two its own Pose3, tied to the base's by a tight between factor of
    `T_base_camera`.

    Args:
        closure: UP_TO_SCALE.
        camera: Of both images, for its mounting; None when poses are of the camera itself.
        keys: Of the reference's and of the query's camera.
        direction_sigma_deg: Standard deviation of the direction.

    Raises:
        ConfigError: GTSAM is not installed.
        InputError: the closure is not UP_TO_SCALE, or has no pose.
    """
    gtsam = import_gtsam()
    verification = closure.verification
    if verification is None or verification.pose_kind is not PoseKind.UP_TO_SCALE:
        kind = None if verification is None else verification.pose_kind.value
        raise InputError(f"the closure's pose is {kind}; only UP_TO_SCALE has a direction to make a factor of")
    what = f"pose of the closure {closure.query_id} -> {closure.reference_id}"
    T = check_transform(verification.T_reference_query, what)
    # The verifier turned rotation and direction into the bases' axes and left the lever arm out; this turns them back.
    R_base_camera = np.eye(3) if camera is None else camera.T_base_camera[:3, :3]
    rotation = R_base_camera.T @ T[:3, :3] @ R_base_camera
    direction = R_base_camera.T @ T[:3, 3]
    if verification.covariance is None:
        raise InputError(f"{what} has no covariance; without one it cannot be weighed")
    covariance = np.zeros((5, 5))
    covariance[:3, :3] = R_base_camera.T @ verification.covariance[3:, 3:] @ R_base_camera
    covariance[3:, 3:] = np.radians(direction_sigma_deg) ** 2 * np.eye(2)
    measured = gtsam.EssentialMatrix(gtsam.Rot3(rotation), gtsam.Unit3(direction))
    return gtsam.EssentialMatrixConstraint(*keys, measured, gtsam.noiseModel.Gaussian.Covariance(covariance))


# -- ROS -------------------------------------------------------------------------------------------------------------


def ros_covariance(T_a_b: Transform, covariance: FloatArray) -> list[float]:
    """The 36 numbers of a geometry_msgs/PoseWithCovariance that states T_a_b in frame a, row by row.

    Args:
        T_a_b: The pose of the message.
        covariance: (6, 6) in our order.
    """
    turned: list[float] = parent_axes(T_a_b, covariance).ravel().tolist()
    return turned


def parent_axes(T_a_b: Transform, covariance: FloatArray) -> FloatArray:
    """(6, 6) covariance of a right perturbation `T @ exp(xi)`, turned to the axes of frame a, about b's origin.

    This is what geometry_msgs/PoseWithCovariance states: position and rotation about fixed axes of the header's frame.
    """
    turn = np.kron(np.eye(2), T_a_b[:3, :3])
    return np.asarray(turn @ covariance @ turn.T)
