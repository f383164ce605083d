"""Two views without metres: the fundamental and the essential matrix."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, make_transform, rotation_exp, skew
from progeo_edge.types import PoseKind, Transform
from progeo_edge.verification.correspondences import Correspondences, homogeneous
from progeo_edge.verification.refinement import Refined, refine

_log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

MINIMUM = 8
"""Fewer matches let some geometry explain anything."""

_ROUNDS = 2
_CROSSINGS = np.array([skew(axis) for axis in np.eye(3)])
_RESERVE = 3
"""Times as many samples as chance asks for: not every sample without an outlier gives a good pose."""


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
        The tuple, or None when neither method has a finite (3, 3) result.
    """
    for method in (cv2.USAC_MAGSAC, cv2.RANSAC):
        try:
            result = estimate(method)
        except cv2.error as error:
            _log.debug("%s by method %d failed: %s", what, method, error)
            continue
        matrix = result[0]
        if matrix is not None and matrix.shape == (3, 3) and np.isfinite(matrix).all():
            return result
    return None


def enough_samples(num_matches: int, least: int, sample_size: int, config: VerificationConfig) -> int:
    """Samples after which a geometry that could pass the gates would have been found, at most `max_iterations`.

    Of few matches nearly all must be inliers, or the gates refuse them: so few samples find the geometry, or none do.

    Args:
        num_matches: Among which samples are drawn.
        least: Inliers among them that the gates ask for.
        sample_size: Matches per sample.
        config: Gate of the inlier ratio, and confidence.
    """
    share = min(max(least / num_matches, config.min_inlier_ratio), 0.999)
    one_clean = math.log1p(-(share**sample_size))
    return min(config.max_iterations, math.ceil(_RESERVE * math.log(1.0 - config.confidence) / min(one_clean, -1e-9)))


def estimate_fundamental(matches: Correspondences, config: VerificationConfig) -> tuple[Mask, float]:
    """Inliers of the best fundamental matrix, and their root mean square Sampson distance in working pixels."""
    q, r = matches.query.working_px, matches.reference.working_px
    found = None
    if len(matches) >= MINIMUM:
        samples = enough_samples(len(matches), config.min_inliers_uncalibrated, 7, config)
        found = robust(
            lambda method: cv2.findFundamentalMat(q, r, method, config.max_error_px, config.confidence, samples),
            "fundamental matrix",
        )
    if found is None:
        return np.zeros(len(matches), dtype=bool), float("nan")
    error_px = np.abs(_sampson(found[0], homogeneous(q), homogeneous(r)))
    inliers = error_px < config.max_error_px
    return inliers, rms(error_px[inliers])


def estimate_essential(matches: Correspondences, config: VerificationConfig) -> TwoView | None:
    """Relative pose of two calibrated views (Nister, PAMI 2004, through OpenCV), refined on its inliers.

    Returns:
        None when no pose is consistent with enough matches.
    """
    usable = matches.usable()
    if usable.sum() < MINIMUM:
        return None
    f = matches.focal_px
    q, r = f * matches.query.plane[usable], f * matches.reference.plane[usable]
    samples = enough_samples(len(q), config.min_inliers, 5, config)
    found = robust(
        lambda method: cv2.findEssentialMat(
            q,
            r,
            np.diag([f, f, 1.0]),
            method=method,
            prob=config.confidence,
            threshold=config.max_error_px,
            maxIters=samples,
        ),
        "essential matrix",
    )
    if found is None:
        return None
    inliers = usable.copy()
    inliers[usable] = found[1].ravel() > 0
    if inliers.sum() < MINIMUM:
        return None
    R1, R2, t = cv2.decomposeEssentialMat(found[0])
    poses = [make_transform(R, sign * t.ravel()) for R in (R1, R2) for sign in (1.0, -1.0)]
    near = matches.subset(inliers)
    T = max(poses, key=lambda pose: int(in_front(near, pose, 0.0).sum()))
    return refine_pose(matches, T, inliers, config)


def refine_pose(
    matches: Correspondences, T_reference_query: Transform, inliers: Mask, config: VerificationConfig
) -> TwoView:
    """Minimise the Sampson distance over rotation and direction, then once more with the inliers of the result.

    Args:
        matches: All matches.
        T_reference_query: Start, with a translation of unit length.
        inliers: (N,) the matches to start with.
        config: Thresholds.
    """
    T, chosen = T_reference_query, inliers
    for _ in range(_ROUNDS):
        refined = _minimise_sampson(matches.subset(chosen), T)
        T = refined.state
        settled = chosen
        chosen = consistent(matches, T, config)
        if chosen.sum() < MINIMUM or (chosen == settled).mean() > 0.98:
            break
    hessian = refined.hessian
    direction = hessian[3:, 3:] + 1e-9 * np.eye(2)
    rotation_hessian = hessian[:3, :3] - hessian[:3, 3:] @ np.linalg.solve(direction, hessian[3:, :3])
    error_px = pose_error_px(matches.subset(chosen), T)
    return TwoView(T, chosen, PoseKind.UP_TO_SCALE, rms(error_px), rotation_hessian)


def consistent(matches: Correspondences, T_reference_query: Transform, config: VerificationConfig) -> Mask:
    """(N,) True where a match obeys the epipolar geometry of a pose and lies in front of both cameras."""
    error_px = np.abs(pose_error_px(matches, T_reference_query))
    tolerance_rad = config.max_error_px / matches.focal_px
    return (error_px < config.max_error_px) & in_front(matches, T_reference_query, tolerance_rad)


def pose_error_px(matches: Correspondences, T_reference_query: Transform) -> FloatArray:
    """(N,) signed Sampson distances in working pixels (Hartley and Zisserman, eq. 11.9)."""
    q, r = matches.query.homogeneous, matches.reference.homogeneous
    return _sampson(_essential(T_reference_query), q, r) * matches.focal_px


def in_front(matches: Correspondences, T_reference_query: Transform, tolerance_rad: float) -> Mask:
    """(N,) True where both rays meet in front of both cameras, or are parallel within the tolerance."""
    t = T_reference_query[:3, 3]
    a, b = matches.query.rays @ T_reference_query[:3, :3].T, matches.reference.rays
    cosine, t_a, t_b = np.einsum("ni,ni->n", a, b), a @ t, b @ t
    # (t x a) (b x a) and (t x b) (b x a), the signs of both depths, by the identity of Binet and Cauchy.
    depth_r, depth_q = t_b - t_a * cosine, t_b * cosine - t_a
    parallel = (1.0 - cosine**2 < tolerance_rad**2) & (cosine > 0)
    return np.asarray(((depth_r > 0) & (depth_q > 0)) | parallel)


def rms(values: FloatArray) -> float:
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")


def _minimise_sampson(matches: Correspondences, T_reference_query: Transform) -> Refined[Transform]:
    sigma_px = np.hypot(matches.query.sigma_px, matches.reference.sigma_px) / np.sqrt(2.0)
    q, r = matches.query.homogeneous, matches.reference.homogeneous
    weight = matches.focal_px / sigma_px

    def linearise(T: Transform) -> tuple[FloatArray, FloatArray]:
        error, by_entry = _sampson_slopes(_essential(T), q, r)
        jacobian = (by_entry * weight[:, None]) @ _essential_slopes(T).T
        return (error * weight)[:, None], jacobian[:, None, :]

    return refine(linearise, _turn, T_reference_query)


def _turn(T: Transform, step: FloatArray) -> Transform:
    """Rotate the rotation by step[:3] (right), and the unit translation on its sphere by step[3:]."""
    moved = T[:3, 3] + step[3:] @ _tangents(T[:3, 3])
    return make_transform(T[:3, :3] @ rotation_exp(step[:3]), moved / np.linalg.norm(moved))


def _tangents(t: FloatArray) -> FloatArray:
    """(2, 3) unit vectors, square to the unit vector t and to each other."""
    crossing = skew(t)
    first = crossing[:, np.argmin(np.abs(t))]
    first = first / np.linalg.norm(first)
    return np.array([first, crossing @ first])


def _essential(T_reference_query: Transform) -> FloatArray:
    return np.asarray(skew(T_reference_query[:3, 3]) @ T_reference_query[:3, :3])


def _essential_slopes(T_reference_query: Transform) -> FloatArray:
    """(5, 9) derivatives of the essential matrix, row by row, by the step of `_turn`."""
    turned = _essential(T_reference_query) @ _CROSSINGS
    moved = np.tensordot(_tangents(T_reference_query[:3, 3]), _CROSSINGS, 1) @ T_reference_query[:3, :3]
    return np.concatenate([turned, moved]).reshape(5, 9)


def _sampson(F: FloatArray, q: FloatArray, r: FloatArray) -> FloatArray:
    line_r, line_q = q @ F.T, r @ F
    return np.asarray(np.einsum("ni,ni->n", r, line_r) / np.sqrt(_squared_slope(line_r, line_q)))


def _sampson_slopes(F: FloatArray, q: FloatArray, r: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(N,) signed Sampson distances n / sqrt(s), and (N, 9) their derivatives by the entries of F, row by row."""
    line_r, line_q = q @ F.T, r @ F
    squared = _squared_slope(line_r, line_q)
    root = np.sqrt(squared)
    error = np.einsum("ni,ni->n", r, line_r) / root
    share = (error / squared)[:, None]
    line_r[:, 2] = line_q[:, 2] = 0.0
    by_entry = (r / root[:, None] - share * line_r)[:, :, None] * q[:, None, :]
    by_entry -= r[:, :, None] * (share * line_q)[:, None, :]
    return error, by_entry.reshape(-1, 9)


def _squared_slope(line_r: FloatArray, line_q: FloatArray) -> FloatArray:
    """(N,) squared norm of the gradient of r^T F q by both points."""
    squared = line_r[:, 0] ** 2 + line_r[:, 1] ** 2 + line_q[:, 0] ** 2 + line_q[:, 1] ** 2
    return np.asarray(np.maximum(squared, 1e-24))
