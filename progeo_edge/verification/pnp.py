"""Pose in metres: points of one view projected into the other, both ways where both views have points."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_angle, se3_exp
from progeo_edge.types import Transform
from progeo_edge.verification.correspondences import Correspondences, View
from progeo_edge.verification.refinement import Refined, refine

_log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

MIN_POINTS = 12
"""Fewer matches with a point leave the scale to chance."""

_MIN_Z_M = 1e-3
_RANSAC_ITERATIONS = 300


@dataclass(frozen=True, eq=False)
class MetricPose:
    """A relative pose of the cameras in metres.

    Attributes:
        T_reference_query: Camera frames.
        consistent: (N,) over all matches: False where a point contradicts the pose; True without a point.
        supported: (N,) True where a point agrees with the pose.
        rmse_px: Reprojection error of the supported matches in working pixels.
        whitened_rmse: The same in standard deviations of the noise model.
        hessian: (6, 6) information of the pose (right perturbation, x y z rx ry rz), unit noise.
        both_agree: False when reference-to-query and query-to-reference gave different poses.
    """

    T_reference_query: Transform
    consistent: Mask
    supported: Mask
    rmse_px: float
    whitened_rmse: float
    hessian: FloatArray
    both_agree: bool


@dataclass(frozen=True, eq=False)
class _Projection:
    """Points of one view, the other view that observes them, and the whitening of the residuals."""

    points_m: FloatArray
    observer: View
    whitening: FloatArray
    into_query: bool

    def residuals(self, T_reference_query: Transform) -> FloatArray:
        predicted_px = _project(self.points_m, self.observer, T_reference_query, self.into_query)
        return np.einsum("nij,nj->ni", self.whitening, predicted_px - self.observer.working_px)


def estimate_metric(matches: Correspondences, inliers: Mask, config: VerificationConfig) -> MetricPose | None:
    """PnP on the inliers of the epipolar geometry, refined over both directions together.

    AP3P in RANSAC (Ke and Roumeliotis, CVPR 2017, through OpenCV), then Levenberg-Marquardt on the reprojection error
    in distorted pixels, weighted by keypoint scale and depth noise.

    Args:
        matches: All matches.
        inliers: (N,) inliers of the epipolar geometry.
        config: Thresholds.

    Returns:
        None when neither view has MIN_POINTS points among the inliers, or no pose is consistent with so many.
    """
    poses = [_one_way(matches, inliers, into_query, config) for into_query in (True, False)]
    found = [pose for pose in poses if pose is not None]
    if not found:
        return None
    both_agree = len(found) < 2 or _agree(found[0], found[1], config)
    T, supported, _ = _jointly(matches, inliers, found[0], config)
    T, supported, refined = _jointly(matches, inliers, T, config)
    if refined is None or supported.sum() < MIN_POINTS:
        return None
    known = inliers & (_known(matches.reference) | _known(matches.query))
    error_px = _error_px(matches.subset(supported), T)
    return MetricPose(
        T_reference_query=T,
        consistent=~known | supported,
        supported=supported,
        rmse_px=float(np.sqrt(np.mean(error_px**2))),
        whitened_rmse=float(np.sqrt(np.mean(refined.residuals**2))),
        hessian=refined.hessian,
        both_agree=both_agree,
    )


def has_points(matches: Correspondences, inliers: Mask) -> bool:
    """Whether one of the views has enough points for a pose in metres."""
    counts = [(inliers & _known(view)).sum() for view in (matches.reference, matches.query)]
    return max(counts) >= MIN_POINTS


def _known(view: View) -> Mask:
    return np.asarray(np.isfinite(view.points_m).all(axis=1) & np.isfinite(view.plane).all(axis=1))


def _sides(matches: Correspondences, into_query: bool) -> tuple[View, View]:
    """The view whose points are projected, and the one that observes them."""
    return (matches.reference, matches.query) if into_query else (matches.query, matches.reference)


def _one_way(matches: Correspondences, inliers: Mask, into_query: bool, config: VerificationConfig) -> Transform | None:
    owner, observer = _sides(matches, into_query)
    keep = inliers & _known(owner) & np.isfinite(observer.plane).all(axis=1)
    if keep.sum() < MIN_POINTS:
        return None
    f = matches.focal_px
    try:
        found, rvec, tvec, chosen = cv2.solvePnPRansac(
            owner.points_m[keep],
            f * observer.plane[keep],
            np.diag([f, f, 1.0]),
            None,
            iterationsCount=_RANSAC_ITERATIONS,
            reprojectionError=config.max_error_px,
            confidence=config.confidence,
            flags=cv2.SOLVEPNP_AP3P,
        )
    except cv2.error as error:
        _log.debug("PnP failed: %s", error)
        return None
    if not found or chosen is None or len(chosen) < MIN_POINTS or not np.isfinite(tvec).all():
        return None
    T_observer_owner = make_transform(cv2.Rodrigues(rvec)[0], tvec)
    T = invert(T_observer_owner) if into_query else T_observer_owner
    keep[np.flatnonzero(keep)[np.setdiff1d(np.arange(keep.sum()), chosen.ravel())]] = False
    projection = _projection(matches.subset(keep), into_query, T, shared=np.zeros(keep.sum(), dtype=bool))
    return refine(projection.residuals, _plus, T, 6).state


def _agree(T: Transform, other: Transform, config: VerificationConfig) -> bool:
    distance_m = float(np.linalg.norm(T[:3, 3] - other[:3, 3]))
    angle_deg = np.degrees(rotation_angle(T[:3, :3].T @ other[:3, :3]))
    return bool(distance_m <= config.both_directions_m and angle_deg <= config.both_directions_deg)


def _jointly(
    matches: Correspondences, inliers: Mask, T: Transform, config: VerificationConfig
) -> tuple[Transform, Mask, Refined[Transform] | None]:
    """Refine over every supported projection of both directions."""
    supported = inliers & (_error_px(matches, T) < config.max_error_px)
    if supported.sum() < MIN_POINTS:
        return T, supported, None
    near = matches.subset(supported)
    shared = _known(near.reference) & _known(near.query)
    projections = [_projection(near, into_query, T, shared) for into_query in (True, False)]
    projections = [projection for projection in projections if len(projection.points_m)]

    def residuals(T_reference_query: Transform) -> FloatArray:
        return np.concatenate([projection.residuals(T_reference_query) for projection in projections])

    refined = refine(residuals, _plus, T, 6)
    return refined.state, inliers & (_error_px(matches, refined.state) < config.max_error_px), refined


def _plus(T: Transform, step: FloatArray) -> Transform:
    return np.asarray(T @ se3_exp(step))


def _projection(matches: Correspondences, into_query: bool, T: Transform, shared: Mask) -> _Projection:
    """The projections of one direction, whitened by keypoint and depth noise at pose T.

    A match with points on both sides is projected twice with nearly the same error: each counts half.
    """
    owner, observer = _sides(matches, into_query)
    keep = _known(owner) & np.isfinite(observer.plane).all(axis=1)
    owner, observer = owner.subset(keep), observer.subset(keep)
    predicted_px = _project(owner.points_m, observer, T, into_query)
    depth_share = 1e-3
    along_ray = (_project(owner.points_m * (1 + depth_share), observer, T, into_query) - predicted_px) / depth_share
    depth_px = along_ray * (owner.depth_sigma_m / owner.points_m[:, 2])[:, None]
    z_observer = np.maximum(_transformed(owner.points_m, T, into_query)[:, 2], _MIN_Z_M)
    magnification = _focal(observer) * owner.points_m[:, 2] / (_focal(owner) * z_observer)
    variance = observer.sigma_px**2 + (owner.sigma_px * magnification) ** 2
    covariance = variance[:, None, None] * np.eye(2) + np.einsum("ni,nj->nij", depth_px, depth_px)
    covariance *= np.where(shared[keep], 2.0, 1.0)[:, None, None]
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    return _Projection(owner.points_m, observer, whitening, into_query)


def _error_px(matches: Correspondences, T: Transform) -> FloatArray:
    """(N,) larger reprojection error of both directions in working pixels; infinite without a point."""
    error_px = np.full(len(matches), np.inf)
    for into_query in (True, False):
        owner, observer = _sides(matches, into_query)
        keep = _known(owner) & np.isfinite(observer.plane).all(axis=1)
        if not keep.any():
            continue
        predicted_px = _project(owner.points_m[keep], observer.subset(keep), T, into_query)
        one_way_px = np.linalg.norm(predicted_px - observer.working_px[keep], axis=1)
        one_way_px[_transformed(owner.points_m[keep], T, into_query)[:, 2] < _MIN_Z_M] = np.inf
        known = error_px[keep]
        error_px[keep] = np.where(np.isinf(known), one_way_px, np.maximum(known, one_way_px))
    return error_px


def _project(points_m: FloatArray, observer: View, T_reference_query: Transform, into_query: bool) -> FloatArray:
    if observer.camera is None:
        raise ValueError("points are projected only between calibrated views")
    moved = _transformed(points_m, T_reference_query, into_query)
    moved[:, 2] = np.maximum(moved[:, 2], _MIN_Z_M)
    return observer.camera.project(moved)


def _transformed(points_m: FloatArray, T_reference_query: Transform, into_query: bool) -> FloatArray:
    T = invert(T_reference_query) if into_query else T_reference_query
    return np.asarray(points_m @ T[:3, :3].T + T[:3, 3])


def _focal(view: View) -> float:
    return view.camera.focal_px if view.camera is not None else 1.0
