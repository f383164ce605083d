"""Matches seen through the cameras: what the geometry is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import Camera, FloatArray
from progeo_edge.types import LocalFeatures, ScaleSource
from progeo_edge.verification.features import ORB_PATCH_PX

_MAX_TANGENT = 5.0
"""79 degrees off the axis: beyond it the image plane stretches errors without bound."""

_SIFT_SIZE_PX = 4.0
_MAX_SIGMA_PX = 4.0
_STRUCTURED_LIGHT_PER_M = 0.0015
"""sigma_z = k z^2 of depth cameras (Khoshelham and Elberink, Sensors 2012: 1.425e-3 for the first Kinect)."""

_DISPARITY_SIGMA_PX = 0.3


@dataclass(frozen=True, eq=False)
class View:
    """One side of the matches.

    Attributes:
        camera: Camera at the size of the working image; None without intrinsics.
        working_px: (N, 2) pixels of the working image.
        sigma_px: (N,) standard deviation of the keypoint positions in working pixels, up to a common factor.
        plane: (N, 2) undistorted x/z, y/z; NaN where the camera model cannot be inverted. Zeros without a camera.
        points_m: (N, 3) points in the optical frame, NaN where unknown.
        depth_sigma_m: (N,) standard deviation of their depth.
    """

    camera: Camera | None
    working_px: FloatArray
    sigma_px: FloatArray
    plane: FloatArray
    points_m: FloatArray
    depth_sigma_m: FloatArray

    @cached_property
    def sees(self) -> NDArray[np.bool_]:
        """(N,) True where the plane coordinates are known."""
        return finite_rows(self.plane)

    @cached_property
    def knows(self) -> NDArray[np.bool_]:
        """(N,) True where there is a point beside plane coordinates."""
        return finite_rows(self.points_m) & self.sees

    @cached_property
    def homogeneous(self) -> FloatArray:
        """(N, 3) plane coordinates x/z, y/z, 1."""
        return homogeneous(self.plane)

    @cached_property
    def rays(self) -> FloatArray:
        """(N, 3) unit vectors towards the keypoints, in the optical frame."""
        lengths = np.sqrt(np.einsum("ni,ni->n", self.homogeneous, self.homogeneous))
        return np.asarray(self.homogeneous / lengths[:, None])

    def subset(self, keep: NDArray[np.bool_]) -> View:
        """The chosen matches only."""
        return View(
            self.camera,
            self.working_px[keep],
            self.sigma_px[keep],
            self.plane[keep],
            self.points_m[keep],
            self.depth_sigma_m[keep],
        )


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Both sides of N matches, and the focal length (working pixels) that turns plane coordinates into pixels."""

    query: View
    reference: View

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.query.working_px)

    @property
    def focal_px(self) -> float:
        """Mean focal length of both working images; 1 without intrinsics."""
        if self.query.camera is None or self.reference.camera is None:
            return 1.0
        return 0.5 * (self.query.camera.focal_px + self.reference.camera.focal_px)

    def usable(self) -> NDArray[np.bool_]:
        """(N,) True where both sides have finite plane coordinates."""
        return np.asarray(self.query.sees & self.reference.sees)

    def subset(self, keep: NDArray[np.bool_]) -> Correspondences:
        """The chosen matches only."""
        return Correspondences(self.query.subset(keep), self.reference.subset(keep))


def make_view(features: LocalFeatures, indices: NDArray[np.intp], camera: Camera | None, working_size_px: int) -> View:
    """The matched keypoints of one image.

    Raises:
        InputError: the camera is calibrated for another aspect ratio.
    """
    width, height = features.image_size_px
    scale = working_size_px / max(width, height)
    working_px = (features.keypoints_px[indices].astype(np.float64) + 0.5) * scale - 0.5
    sigma_px = _position_sigma(features, indices, scale)
    points_m = np.full((len(indices), 3), np.nan)
    if camera is None:
        nothing = np.zeros((len(indices), 2))
        return View(None, working_px, sigma_px, nothing, points_m, points_m[:, 2])
    camera = camera.for_image_size(width, height)
    camera = camera.scaled_to(round(width * scale), round(height * scale))
    if features.points_m is not None:
        points_m = features.points_m[indices].astype(np.float64)
    depth_sigma_m = _depth_sigma(points_m[:, 2], features.point_scale_source, camera)
    return View(camera, working_px, sigma_px, _plane(working_px, camera), points_m, depth_sigma_m)


def homogeneous(points: FloatArray) -> FloatArray:
    """(N, 2) points with a third coordinate 1."""
    result = np.ones((len(points), 3))
    result[:, :2] = points
    return result


def finite_rows(values: FloatArray) -> NDArray[np.bool_]:
    """(N,) True where a row of (N, M) has no NaN."""
    return np.asarray(np.isfinite(values).all(axis=1))


def _position_sigma(features: LocalFeatures, indices: NDArray[np.intp], scale: float) -> FloatArray:
    """A keypoint of a coarse pyramid level is located to about one pixel of that level."""
    finest = ORB_PATCH_PX if features.kind == "orb" else _SIFT_SIZE_PX
    return np.clip(features.sizes_px[indices].astype(np.float64) * scale / finest, 1.0, _MAX_SIGMA_PX)


def _depth_sigma(z_m: FloatArray, source: ScaleSource, camera: Camera) -> FloatArray:
    if source is ScaleSource.STEREO and camera.baseline_m is not None:
        return np.asarray(_DISPARITY_SIGMA_PX * z_m**2 / (camera.K[0, 0] * camera.baseline_m))
    return _STRUCTURED_LIGHT_PER_M * z_m**2


def _plane(working_px: FloatArray, camera: Camera) -> FloatArray:
    plane = camera.normalise(working_px)
    seen = finite_rows(plane) & np.asarray((np.abs(plane) < _MAX_TANGENT).all(axis=1))
    back_px = camera.project(np.column_stack([np.where(seen[:, None], plane, 0.0), np.ones(len(plane))]))
    inverted = np.asarray(
        (np.abs(back_px - working_px) < 1.0).all(axis=1)
    )  # strong distortion may have no inverse at the rim
    return np.where((seen & inverted)[:, None], plane, np.nan)
