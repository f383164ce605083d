"""Two views without metres: fundamental and essential matrix, and the degenerate cases of the latter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, make_transform, rotation_angle, rotation_exp, skew
from progeo_edge.types import PoseKind, Transform
from progeo_edge.verification.correspondences import Correspondences
from progeo_edge.verification.refinement import refine

_log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

_EXPLAINED = 0.8
"""A simpler model (rotation, plane) that explains this share of the inliers makes the essential matrix doubtful."""

_AMBIGUOUS = 0.95
"""Another pose with this share of the best one's inliers is as good as the best."""

_DIFFERENT_ROTATION_DEG = 2.0
_DIFFERENT_DIRECTION_DEG = 10.0


@dataclass(frozen=True, eq=False)
class TwoView:
    """A relative pose of the cameras from pixels alone.

    Attributes:
        T_reference_query: Camera frames; the translation has unit length, or is zero for ROTATION_ONLY.
        inliers: (N,) over all matches.
        kind: UP_TO_SCALE, ROTATION_ONLY, or NONE when a plane allows two poses.
        rmse_px: Of the inliers, in working pixels.
        rotation_hessian: (3, 3) information of the rotation (right perturbation), unit pixel noise.
    """

    T_reference_query: Transform
    inliers: Mask
    kind: PoseKind
    rmse_px: float
    rotation_hessian: FloatArray


def robust(estimate: Callable[[int], tuple[Any, ...]], what: str) -> tuple[Any, ...] | None:
    """Run a robust estimator of OpenCV with MAGSAC, and with RANSAC where MAGSAC fails an assertion of its own.

    Args:
        estimate: Takes the method's number, returns OpenCV's tuple.
        what: For the log.

    Returns:
        The tuple, or None when neither method has a result.
    """
    for method in (cv2.USAC_MAGSAC, cv2.RANSAC):
        try:
            result = estimate(method)
        except cv2.error as error:
            _log.debug("%s by method %d failed: %s", what, method, error)
            continue
        if result[0] is not None:
            return result
    return None


def estimate_fundamental(matches: Correspondences, config: VerificationConfig) -> tuple[Mask, float]:
    """Inliers of the best fundamental matrix, and their root mean square Sampson distance in working pixels."""
    nothing = np.zeros(len(matches), dtype=bool), float("nan")
    if len(matches) < 8:
        return nothing
    q, r = matches.query.working_px, matches.reference.working_px
    found = robust(
        lambda method: cv2.findFundamentalMat(
            q, r, method, config.max_error_px, config.confidence, config.max_iterations
        ),
        "fundamental matrix",
    )
    if found is None or found[0].shape != (3, 3):
        return nothing
    error_px = np.abs(_sampson(found[0], q, r))
    inliers = error_px < config.max_error_px
    return (inliers, _rms(error_px[inliers])) if inliers.any() else nothing


def estimate_essential(matches: Correspondences, config: VerificationConfig) -> TwoView | None:
    """Relative pose of two calibrated views (Nister, PAMI 2004, through OpenCV), refined on its inliers.

    Returns:
        None when no pose is consistent with five matches.
    """
    usable = matches.usable()
    if usable.sum() < 8:
        return None
    seen = matches.subset(usable)
    candidate = _essential_pose(seen, config)
    if candidate is None:
        return None
    pose = _refined(seen, *candidate, config)
    rotation = _rotation_only(seen, pose, config)
    if rotation is not None:
        pose = rotation
    elif _is_planar(seen, pose, config):
        pose = _best_plane_pose(seen, pose, config)
    inliers = np.zeros(len(matches), dtype=bool)
    inliers[np.flatnonzero(usable)] = pose.inliers
    return TwoView(pose.T_reference_query, inliers, pose.kind, pose.rmse_px, pose.rotation_hessian)


def _essential_pose(matches: Correspondences, config: VerificationConfig) -> tuple[Transform, Mask] | None:
    f = matches.focal_px
    q, r = f * matches.query.plane, f * matches.reference.plane
    found = robust(
        lambda method: cv2.findEssentialMat(
            q,
            r,
            np.diag([f, f, 1.0]),
            method=method,
            prob=config.confidence,
            threshold=config.max_error_px,
            maxIters=config.max_iterations,
        ),
        "essential matrix",
    )
    if found is None or found[0].shape != (3, 3) or not np.isfinite(found[0]).all():
        return None
    inliers = found[1].ravel() > 0
    if inliers.sum() < 5:
        return None
    R1, R2, t = cv2.decomposeEssentialMat(found[0])
    poses = [make_transform(R, sign * t.ravel()) for R in (R1, R2) for sign in (1.0, -1.0)]
    near = matches.subset(inliers)
    return max(poses, key=lambda T: int(_in_front(near, T, 0.0).sum())), inliers


def _refined(
    matches: Correspondences, T_reference_query: Transform, inliers: Mask, config: VerificationConfig
) -> TwoView:
    """Minimise the Sampson distance over rotation and direction: five degrees of freedom."""
    near = matches.subset(inliers)
    sigma_px = np.hypot(near.query.sigma_px, near.reference.sigma_px) / np.sqrt(2.0)

    def residuals(T: Transform) -> FloatArray:
        return np.asarray((_pose_error_px(near, T) / sigma_px)[:, None])

    refined = refine(residuals, _turn, T_reference_query, 5)
    T = refined.state
    error_px = np.abs(_pose_error_px(matches, T))
    tolerance_rad = config.max_error_px / matches.focal_px
    kept = (error_px < config.max_error_px) & _in_front(matches, T, tolerance_rad)
    hessian = refined.hessian
    direction = hessian[3:, 3:] + 1e-9 * np.eye(2)
    rotation_hessian = hessian[:3, :3] - hessian[:3, 3:] @ np.linalg.solve(direction, hessian[3:, :3])
    return TwoView(T, kept, PoseKind.UP_TO_SCALE, _rms(error_px[kept]), rotation_hessian)


def _turn(T: Transform, step: FloatArray) -> Transform:
    """Rotate the rotation by step[:3] (right), and the unit translation on its sphere by step[3:]."""
    t = T[:3, 3]
    _, _, basis = np.linalg.svd(t[None])
    moved = t + basis[1:].T @ step[3:]
    return make_transform(T[:3, :3] @ rotation_exp(step[:3]), moved / np.linalg.norm(moved))


def _pose_error_px(matches: Correspondences, T_reference_query: Transform) -> FloatArray:
    """(N,) signed Sampson distances in working pixels (Hartley and Zisserman, eq. 11.9)."""
    E = skew(T_reference_query[:3, 3]) @ T_reference_query[:3, :3]
    return _sampson(E, matches.query.plane, matches.reference.plane) * matches.focal_px


def _sampson(F: FloatArray, q: FloatArray, r: FloatArray) -> FloatArray:
    q1 = np.column_stack([q, np.ones(len(q))])
    r1 = np.column_stack([r, np.ones(len(r))])
    line_r, line_q = q1 @ F.T, r1 @ F
    scale = np.sqrt((line_r[:, :2] ** 2).sum(axis=1) + (line_q[:, :2] ** 2).sum(axis=1))
    return np.asarray((r1 * line_r).sum(axis=1) / np.maximum(scale, 1e-12))


def _in_front(matches: Correspondences, T_reference_query: Transform, tolerance_rad: float) -> Mask:
    """(N,) True where both rays meet in front of both cameras, or are parallel within the tolerance."""
    t = T_reference_query[:3, 3]
    a, b = matches.query.rays() @ T_reference_query[:3, :3].T, matches.reference.rays()
    normal = np.cross(b, a)
    depth_r = (np.cross(t, a) * normal).sum(axis=1)
    depth_q = (np.cross(t, b) * normal).sum(axis=1)
    parallel = (np.linalg.norm(normal, axis=1) < tolerance_rad) & ((a * b).sum(axis=1) > 0)
    return ((depth_r > 0) & (depth_q > 0)) | parallel


def _parallax_rad(matches: Correspondences, rotation: FloatArray) -> FloatArray:
    a, b = matches.query.rays() @ rotation.T, matches.reference.rays()
    return np.asarray(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))


def _rotation_only(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> TwoView | None:
    """The pose without translation, when the inliers show too little parallax for one."""
    near = matches.subset(pose.inliers)
    if len(near) < 5:
        return None
    tolerance_rad = config.max_error_px / matches.focal_px
    rotation, fitted = _fit_rotation(near, pose.T_reference_query[:3, :3], tolerance_rad)
    if fitted.mean() >= _EXPLAINED:
        inliers = _parallax_rad(matches, rotation) < tolerance_rad
        error_px = _parallax_rad(matches.subset(inliers), rotation) * matches.focal_px / np.sqrt(2.0)
        hessian = _rotation_hessian(matches.subset(inliers))
        T = make_transform(rotation, np.zeros(3))
        return TwoView(T, inliers, PoseKind.ROTATION_ONLY, _rms(error_px), hessian)
    parallax_deg = np.degrees(np.median(_parallax_rad(near, pose.T_reference_query[:3, :3])))
    if parallax_deg >= config.min_parallax_deg:
        return None
    T = make_transform(pose.T_reference_query[:3, :3], np.zeros(3))
    return TwoView(T, pose.inliers, PoseKind.ROTATION_ONLY, pose.rmse_px, pose.rotation_hessian)


def _fit_rotation(matches: Correspondences, start: FloatArray, tolerance_rad: float) -> tuple[FloatArray, Mask]:
    """Least squares rotation of rays (Kabsch 1976), trimmed to the better half and then to the tolerance."""
    a, b = matches.query.rays(), matches.reference.rays()
    rotation = start
    for _ in range(5):
        error = _parallax_rad(matches, rotation)
        keep = error <= max(float(np.median(error)), tolerance_rad)
        U, _, Vt = np.linalg.svd(b[keep].T @ a[keep])
        rotation = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    return rotation, _parallax_rad(matches, rotation) < tolerance_rad


def _rotation_hessian(matches: Correspondences) -> FloatArray:
    """Information of a rotation from rays with an error of one pixel: sum of f^2 (I - a a^T), in the query's frame."""
    rays = matches.query.rays()
    weight = matches.focal_px**2 / (matches.query.sigma_px**2 + matches.reference.sigma_px**2)
    outer = np.einsum("n,ni,nj->ij", weight, rays, rays)
    return np.asarray(weight.sum() * np.eye(3) - outer)


def _is_planar(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> bool:
    H, fitted = _homography(matches.subset(pose.inliers), config)
    return H is not None and float(fitted.mean()) > _EXPLAINED


def _homography(matches: Correspondences, config: VerificationConfig) -> tuple[FloatArray | None, Mask]:
    nothing = None, np.zeros(len(matches), dtype=bool)
    if len(matches) < 8:
        return nothing
    f = matches.focal_px
    q, r = f * matches.query.plane, f * matches.reference.plane
    found = robust(
        lambda method: cv2.findHomography(q, r, method, config.max_error_px, maxIters=200, confidence=0.99),
        "homography",
    )
    if found is None:
        return nothing
    return found[0], found[1].ravel() > 0


def _best_plane_pose(matches: Correspondences, pose: TwoView, config: VerificationConfig) -> TwoView:
    """Of the poses that a plane allows (Malis and Vargas 2007), the one that the points off the plane vote for.

    Returns:
        The winner; with kind NONE when another pose, clearly different, explains the matches as well.
    """
    H, fitted = _homography(matches.subset(pose.inliers), config)
    f = matches.focal_px
    poses = [pose]
    if H is not None:
        on_plane = np.zeros(len(matches), dtype=bool)
        on_plane[np.flatnonzero(pose.inliers)] = fitted
        _, rotations, translations, _ = cv2.decomposeHomographyMat(H, np.diag([f, f, 1.0]))
        for R, t in zip(rotations, translations, strict=True):
            norm = float(np.linalg.norm(t))
            if norm < 1e-6:
                continue
            T = make_transform(R, t.ravel() / norm)
            if _in_front(matches.subset(on_plane), T, config.max_error_px / f).mean() > 0.9:
                poses.append(_refined(matches, T, pose.inliers, config))
    best = max(poses, key=lambda candidate: (int(candidate.inliers.sum()), -candidate.rmse_px))
    rivals = [other for other in poses if other.inliers.sum() >= _AMBIGUOUS * best.inliers.sum()]
    if any(_differ(best.T_reference_query, other.T_reference_query) for other in rivals):
        return TwoView(best.T_reference_query, best.inliers, PoseKind.NONE, best.rmse_px, best.rotation_hessian)
    return best


def _differ(T: Transform, other: Transform) -> bool:
    rotation_deg = np.degrees(rotation_angle(T[:3, :3].T @ other[:3, :3]))
    direction_deg = np.degrees(np.arccos(np.clip(T[:3, 3] @ other[:3, 3], -1.0, 1.0)))
    return bool(rotation_deg > _DIFFERENT_ROTATION_DEG or direction_deg > _DIFFERENT_DIRECTION_DEG)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
