"""Where the essential matrix deceives: scenes of one plane, and cameras that only turned."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, make_transform, rotation_angle
from progeo_edge.types import PoseKind, Transform
from progeo_edge.verification.correspondences import Correspondences
from progeo_edge.verification.two_view import MINIMUM, Mask, TwoView, in_front, pose_error_px, refine_pose, rms, robust

_ON_PLANE = 0.3
"""A plane that explains this share of the inliers can pull the essential matrix to the wrong one of its two poses:
in rendered streets one closure in four had a rotation of 1 to 12 degrees off until the other one was tried too."""

_AMBIGUOUS = 1.25
"""Another pose with less than this times the best one's cost is as good as the best; with the hundred matches of a
sure closure, chance alone changes the cost by 14 %."""

_ROTATION_NOISE = 3.2
"""A rotation explains the matches when its median error is below this times the median Sampson distance. Without
translation the ratio is 2.47 (medians of a Rayleigh and a half-normal distribution, both images noisy)."""

_SUBPIXEL_PX = 0.1
_DIFFERENT_ROTATION_DEG = 2.0
_DIFFERENT_DIRECTION_DEG = 10.0


def resolve_degeneracy(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> TwoView:
    """The pose, the other pose that a plane allows when it fits better, or less than a pose.

    Returns:
        Kind NONE when a plane leaves two poses, ROTATION_ONLY when there is too little parallax for a direction.
    """
    if pose.inliers.sum() < MINIMUM:
        return pose
    pose = _best_of_plane(matches, pose, config)
    return _rotation_only(matches, pose, config) or pose


def _best_of_plane(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> TwoView:
    """Of the poses that the dominant plane allows, the one that the points off the plane vote for."""
    found = _homography(matches.subset(pose.inliers), config)
    if found is None or found[1].mean() < _ON_PLANE:
        return pose
    on_plane = pose.inliers.copy()
    on_plane[pose.inliers] = found[1]
    poses = [pose, *_plane_poses(matches, pose, on_plane, found[0], config)]
    costs = [_cost(matches, other.T_reference_query, config) for other in poses]
    best = poses[int(np.argmin(costs))]
    rivals = [other for other, cost in zip(poses, costs, strict=True) if cost < _AMBIGUOUS * min(costs)]
    if any(_differ(best.T_reference_query, other.T_reference_query) for other in rivals):
        return dataclasses.replace(best, kind=PoseKind.NONE)
    return best


def _homography(matches: Correspondences, config: VerificationConfig) -> tuple[FloatArray, Mask] | None:
    f = matches.focal_px
    q, r = f * matches.query.plane, f * matches.reference.plane
    found = robust(
        lambda method: cv2.findHomography(q, r, method, config.max_error_px, maxIters=200, confidence=0.99),
        "homography",
    )
    return None if found is None else (found[0], found[1].ravel() > 0)


def _plane_poses(
    matches: Correspondences, pose: TwoView, on_plane: Mask, H: FloatArray, config: VerificationConfig
) -> list[TwoView]:
    """The decomposition of a homography (Malis and Vargas 2007), without what lies behind a camera, refined."""
    f = matches.focal_px
    poses: list[TwoView] = []
    _, rotations, translations, _ = cv2.decomposeHomographyMat(H, np.diag([f, f, 1.0]))
    for R, t in zip(rotations, translations, strict=True):
        length = float(np.linalg.norm(t))
        if length < 1e-6:
            continue
        T = make_transform(R, t.ravel() / length)
        known = not all(_differ(T, other.T_reference_query) for other in (pose, *poses))
        if not known and in_front(matches.subset(on_plane), T, config.max_error_px / f).mean() > 0.9:
            poses.append(refine_pose(matches, T, pose.inliers, config))
    return poses


def _cost(matches: Correspondences, T_reference_query: Transform, config: VerificationConfig) -> float:
    """Truncated squared error (MSAC; Torr and Zisserman 2000)."""
    error_px = pose_error_px(matches, T_reference_query)
    ahead = in_front(matches, T_reference_query, config.max_error_px / matches.focal_px)
    return float(np.where(ahead, np.minimum(error_px**2, config.max_error_px**2), config.max_error_px**2).mean())


def _differ(T: Transform, other: Transform) -> bool:
    rotation_deg = np.degrees(rotation_angle(T[:3, :3].T @ other[:3, :3]))
    direction_deg = np.degrees(np.arccos(np.clip(T[:3, 3] @ other[:3, 3], -1.0, 1.0)))
    return bool(rotation_deg > _DIFFERENT_ROTATION_DEG or direction_deg > _DIFFERENT_DIRECTION_DEG)


def _rotation_only(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> TwoView | None:
    """The pose without translation, when the inliers show too little parallax for one."""
    near = matches.subset(pose.inliers)
    if len(near) < MINIMUM:
        return None
    rotation = pose.T_reference_query[:3, :3]
    tolerance_rad = config.max_error_px / matches.focal_px
    fitted = _fit_rotation(near, rotation, tolerance_rad)
    error_px = float(np.median(_parallax_rad(near, fitted))) * matches.focal_px
    noise_px = max(float(np.median(np.abs(pose_error_px(near, pose.T_reference_query)))), _SUBPIXEL_PX)
    if error_px < _ROTATION_NOISE * noise_px:
        return _pose_of_rotation(matches, fitted, tolerance_rad)
    if np.degrees(np.median(_parallax_rad(near, rotation))) >= config.min_parallax_deg:
        return None
    T = make_transform(rotation, np.zeros(3))
    return dataclasses.replace(pose, T_reference_query=T, kind=PoseKind.ROTATION_ONLY)


def _parallax_rad(matches: Correspondences, rotation: FloatArray) -> FloatArray:
    """(N,) angles that are left between the rays once the query is turned into the reference."""
    a, b = matches.query.rays @ rotation.T, matches.reference.rays
    # Of unit vectors: half the angle has half their difference as its sine, which is exact for small angles too.
    return np.asarray(2.0 * np.arcsin(np.minimum(0.5 * np.sqrt(((a - b) ** 2).sum(axis=1)), 1.0)))


def _fit_rotation(matches: Correspondences, start: FloatArray, tolerance_rad: float) -> FloatArray:
    """Least squares rotation of rays (Kabsch 1976), trimmed to the better half or the tolerance."""
    a, b = matches.query.rays, matches.reference.rays
    rotation = start
    for _ in range(5):
        error = _parallax_rad(matches, rotation)
        keep = error <= max(float(np.median(error)), tolerance_rad)
        U, _, Vt = np.linalg.svd(b[keep].T @ a[keep])
        rotation = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    return rotation


def _pose_of_rotation(matches: Correspondences, rotation: FloatArray, tolerance_rad: float) -> TwoView:
    inliers = _parallax_rad(matches, rotation) < tolerance_rad
    near = matches.subset(inliers)
    error_px = _parallax_rad(near, rotation) * matches.focal_px / np.sqrt(2.0)
    T = make_transform(rotation, np.zeros(3))
    return TwoView(T, inliers, PoseKind.ROTATION_ONLY, rms(error_px), _rotation_hessian(near))


def _rotation_hessian(matches: Correspondences) -> FloatArray:
    """Information of a rotation from rays with an error of one pixel: sum of f^2 (I - a a^T), in the query's frame."""
    rays = matches.query.rays
    weight = matches.focal_px**2 / (matches.query.sigma_px**2 + matches.reference.sigma_px**2)
    return np.asarray(weight.sum() * np.eye(3) - np.einsum("n,ni,nj->ij", weight, rays, rays))
