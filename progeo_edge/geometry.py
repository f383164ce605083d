"""SE(3) and the cameras: pure functions on arrays, frames in the names, metres and radians.

Twists are (6,) ordered translation first, then rotation vector (REP 103): x y z rx ry rz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError
from progeo_edge.types import Transform

FloatArray = NDArray[np.float64]


def make_transform(rotation: ArrayLike, translation: ArrayLike) -> Transform:
    """(3, 3) rotation and (3,) translation to a (4, 4) transform."""
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = np.asarray(translation, dtype=np.float64).reshape(3)
    return T


def invert(T_a_b: Transform) -> Transform:
    """T_b_a of a rigid T_a_b."""
    R_b_a = T_a_b[:3, :3].T
    return make_transform(R_b_a, -R_b_a @ T_a_b[:3, 3])


def skew(v: ArrayLike) -> FloatArray:
    """Vector (3,) to the (3, 3) matrix that multiplies a vector u to the cross product v x u."""
    x, y, z = np.asarray(v, dtype=np.float64).tolist()
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_exp(rotation_vector: ArrayLike) -> FloatArray:
    """Rotation vector (3,) in radians to (3, 3) rotation (Rodrigues)."""
    return cast(FloatArray, cv2.Rodrigues(np.asarray(rotation_vector, dtype=np.float64).reshape(3, 1))[0])


def rotation_log(rotation: ArrayLike) -> FloatArray:
    """(3, 3) rotation to rotation vector (3,) in radians, norm at most pi."""
    R = np.asarray(rotation, dtype=np.float64)
    half = 0.5 * np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    sine = float(np.linalg.norm(half))
    if sine < 1e-3 and np.trace(R) > 1.0:  # OpenCV rounds angles under 1e-5 to zero
        return np.asarray(half * (1.0 + sine**2 / 6.0))
    return cast(FloatArray, cv2.Rodrigues(R)[0].ravel())


def rotation_angle(rotation: ArrayLike) -> float:
    """Angle of a (3, 3) rotation in radians, 0 to pi."""
    return float(np.linalg.norm(rotation_log(rotation)))


def transform_from_quaternion(translation: ArrayLike, quaternion_xyzw: ArrayLike) -> Transform:
    """Translation (3,) and quaternion (x, y, z, w) to a transform; the quaternion is normalised.

    Raises:
        InputError: when a value is not finite or the quaternion is zero.
    """
    q = np.asarray(quaternion_xyzw, dtype=np.float64)
    norm = float(np.linalg.norm(q))
    if not np.isfinite(norm) or norm < 1e-6 or not np.all(np.isfinite(np.asarray(translation, dtype=np.float64))):
        raise InputError(
            f"pose {translation!r} {quaternion_xyzw!r} is not a finite position with a non-zero quaternion"
        )
    x, y, z, w = q / norm
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return make_transform(rotation, translation)


def quaternion_xyzw(rotation: ArrayLike) -> FloatArray:
    """(3, 3) rotation to a unit quaternion (x, y, z, w) with w >= 0."""
    vector = rotation_log(rotation)
    angle = float(np.linalg.norm(vector))
    scale = 0.5 - angle * angle / 48.0 if angle < 1e-4 else np.sin(0.5 * angle) / angle
    q = np.append(vector * scale, np.cos(0.5 * angle))
    return np.asarray(q / np.linalg.norm(q))


def adjoint(T_a_b: Transform) -> FloatArray:
    """(6, 6) adjoint for translation-first twists: T exp(xi) T^-1 = exp(adjoint(T) xi)."""
    R, t = T_a_b[:3, :3], T_a_b[:3, 3]
    result = np.zeros((6, 6))
    result[:3, :3] = R
    result[3:, 3:] = R
    result[:3, 3:] = skew(t) @ R
    return result


def se3_exp(twist: ArrayLike) -> Transform:
    """Twist (6,), translation first, to a transform (exponential map; Barfoot, State Estimation, eq. 7.85)."""
    xi = np.asarray(twist, dtype=np.float64)
    return make_transform(rotation_exp(xi[3:]), _left_jacobian(xi[3:]) @ xi[:3])


def se3_log(T: Transform) -> FloatArray:
    """Transform to twist (6,), translation first; inverse of `se3_exp` for angles under pi."""
    rotation_vector = rotation_log(T[:3, :3])
    return np.concatenate([np.linalg.solve(_left_jacobian(rotation_vector), T[:3, 3]), rotation_vector])


def _left_jacobian(rotation_vector: FloatArray) -> FloatArray:
    angle = float(np.linalg.norm(rotation_vector))
    S = skew(rotation_vector)
    if angle < 1e-4:
        return np.asarray(np.eye(3) + 0.5 * S + S @ S / 6.0)
    a = (1.0 - np.cos(angle)) / angle**2
    b = (angle - np.sin(angle)) / angle**3
    return np.asarray(np.eye(3) + a * S + b * S @ S)


def check_transform(T: object, what: str) -> Transform:
    """Return T as a (4, 4) float64 rigid transform.

    Raises:
        InputError: wrong shape, not finite, or not rigid (rotation not orthonormal within 1e-3, bottom row).
    """
    array = np.asarray(T, dtype=np.float64)
    if array.shape != (4, 4):
        raise InputError(f"{what} has shape {array.shape}; expected a (4, 4) transform")
    if not np.all(np.isfinite(array)):
        raise InputError(f"{what} contains NaN or infinity; leave the pose out (None) when it is unknown")
    R = array[:3, :3]
    # Not np.allclose, which is several times slower: graphs of many thousand poses pass through here.
    orthonormal = np.abs(R @ R.T - np.eye(3)).max() <= 1e-3 and np.linalg.det(R) > 0
    if not orthonormal or np.abs(array[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        raise InputError(f"{what} is not rigid: its 3x3 part is no rotation or its last row is not 0 0 0 1")
    return array


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics and mounting of one camera.

    Attributes:
        model: "pinhole" (distortion of OpenCV: k1 k2 p1 p2 [k3 [k4 k5 k6]]) or "fisheye" (Kannala-Brandt k1..k4).
        width_px: Image width the intrinsics belong to.
        height_px: Image height.
        K: (3, 3) float64.
        distortion: (0,), (4,), (5,) or (8,) for pinhole; (4,) for fisheye.
        T_base_camera: Pose of the camera's optical frame (z forward, x right, y down) in the base frame. Identity
            means that poses are reported in the optical frame.
        baseline_m: Distance to the right camera of a rectified stereo pair; None without one.
    """

    model: Literal["pinhole", "fisheye"]
    width_px: int
    height_px: int
    K: FloatArray
    distortion: FloatArray = field(default_factory=lambda: np.zeros(0))
    T_base_camera: Transform = field(default_factory=lambda: np.eye(4))
    baseline_m: float | None = None

    def scaled_to(self, width_px: int, height_px: int) -> Camera:
        """The same camera for images resized to another size (pixel centres at integer + 0.5 scale linearly)."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        K = self.K.copy()
        K[0, :] *= sx
        K[1, :] *= sy
        K[0, 2] += 0.5 * (sx - 1.0)
        K[1, 2] += 0.5 * (sy - 1.0)
        return Camera(self.model, width_px, height_px, K, self.distortion, self.T_base_camera, self.baseline_m)

    def for_image_size(self, width_px: int, height_px: int) -> Camera:
        """This camera, scaled when images come in another size of the same aspect ratio.

        Raises:
            InputError: the aspect ratio differs by more than 2 %: a crop or another camera's calibration.
        """
        if (width_px, height_px) == (self.width_px, self.height_px):
            return self
        if abs(width_px * self.height_px / (height_px * self.width_px) - 1.0) > 0.02:
            raise InputError(
                f"image is {width_px}x{height_px} but the camera is calibrated for {self.width_px}x{self.height_px};"
                " give the calibration of these images"
            )
        return self.scaled_to(width_px, height_px)

    def normalise(self, pixels: ArrayLike) -> FloatArray:
        """(N, 2) distorted pixels to (N, 2) undistorted image-plane coordinates x/z, y/z."""
        points = np.asarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
        if len(points) == 0:
            return np.zeros((0, 2))
        if self.model == "fisheye":
            return cast(FloatArray, cv2.fisheye.undistortPoints(points, self.K, self.distortion).reshape(-1, 2))
        return cast(FloatArray, cv2.undistortPoints(points, self.K, self._coefficients()).reshape(-1, 2))

    def project(self, points_m: ArrayLike) -> FloatArray:
        """(N, 3) points in the optical frame (z > 0) to (N, 2) distorted pixels."""
        points = np.asarray(points_m, dtype=np.float64).reshape(-1, 3)
        if len(points) == 0:
            return np.zeros((0, 2))
        if self._is_ideal:  # several times faster than OpenCV for the few hundred points of a verification
            return np.asarray(points[:, :2] / points[:, 2:] @ self.K[:2, :2].T + self.K[:2, 2])
        zero = np.zeros(3)
        if self.model == "fisheye":
            pixels = cv2.fisheye.projectPoints(points.reshape(-1, 1, 3), zero, zero, self.K, self.distortion)[0]
        else:
            pixels = cv2.projectPoints(points.reshape(-1, 1, 3), zero, zero, self.K, self._coefficients())[0]
        return cast(FloatArray, pixels.reshape(-1, 2))

    def project_slopes(self, points_m: ArrayLike) -> FloatArray:
        """(N, 2, 3) derivatives of `project` by the points (N, 3), in pixels per metre."""
        points = np.asarray(points_m, dtype=np.float64).reshape(-1, 3)
        if len(points) == 0:
            return np.zeros((0, 2, 3))
        if self._is_ideal:
            by_plane = self.K[:2, :2] / points[:, 2, None, None]
            plane = points[:, :2] / points[:, 2:]
            return np.concatenate([by_plane, -by_plane @ plane[:, :, None]], axis=2)
        zero = np.zeros(3)
        if self.model == "fisheye":
            slopes = cv2.fisheye.projectPoints(points.reshape(-1, 1, 3), zero, zero, self.K, self.distortion)[1]
            by_translation = slopes[:, 11:14]  # after 2 focal lengths, 2 centres, 4 coefficients, 3 rotations
        else:
            slopes = cv2.projectPoints(points.reshape(-1, 1, 3), zero, zero, self.K, self._coefficients())[1]
            by_translation = slopes[:, 3:6]  # after 3 rotations
        return np.asarray(by_translation.reshape(-1, 2, 3), dtype=np.float64)

    @property
    def focal_px(self) -> float:
        """Mean focal length in pixels."""
        return float(0.5 * (self.K[0, 0] + self.K[1, 1]))

    @cached_property
    def _is_ideal(self) -> bool:
        """Whether nothing but K lies between a point and its pixel."""
        return self.model == "pinhole" and not np.any(self.distortion)

    def _coefficients(self) -> FloatArray | None:
        return self.distortion if self.distortion.size else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the layout that `camera_from_dict` reads."""
        result: dict[str, Any] = {
            "model": self.model,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "fx_px": float(self.K[0, 0]),
            "fy_px": float(self.K[1, 1]),
            "cx_px": float(self.K[0, 2]),
            "cy_px": float(self.K[1, 2]),
            "distortion": self.distortion.tolist(),
            "T_base_camera": self.T_base_camera.tolist(),
        }
        if self.baseline_m is not None:
            result["baseline_m"] = self.baseline_m
        return result


Cameras: TypeAlias = Camera | Mapping[str, Camera]
"""One camera, whatever its frames call it; or the cameras of a rig by the name that `Frame.camera` gives."""


def camera_named(cameras: Cameras | None, name: str) -> Camera | None:
    """The camera that an image came from; None without calibration.

    Raises:
        InputError: the rig has no camera of this name.
    """
    if cameras is None or isinstance(cameras, Camera):
        return cameras
    if name not in cameras:
        raise InputError(
            f"camera {name!r} is not one of the rig's ({', '.join(cameras)}); name the camera of every frame as the "
            "calibration does, or add this one to it"
        )
    return cameras[name]
