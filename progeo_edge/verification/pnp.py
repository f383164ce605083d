"""Pose in metres: points of one view projected into the other, both ways where both views have points."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import cv2
import numpy as np

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_angle, se3_exp
from progeo_edge.types import Transform
from progeo_edge.verification.correspondences import Correspondences, View
from progeo_edge.verification.refinement import Refined, refine
from progeo_edge.verification.two_view import Mask, consistent, enough_samples

_log = logging.getLogger(__name__)

MIN_POINTS = 12
"""Fewer matches with a point leave the scale to chance."""

_MIN_Z_M = 1e-3
_MAX_MAGNIFICATION = 4.0
"""Descriptors do not match over a larger change of scale (ORB's pyramid spans 3.6); a point that claims one has a
wrong depth, and so near to the other camera it would outweigh all others."""

_LEVERAGE = 1.5
_RANSAC_ITERATIONS = 300
_SAMPLE = 4
"""Three points for AP3P, and one that chooses among its solutions."""

_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class MetricPose:
    """A relative pose of the cameras in metres.

    Attributes:
        T_reference_query: Camera frames.
        inliers: (N,) over all matches: those whose points agree with the pose, and those without a point that obey
            its epipolar geometry.
        rmse_px: Reprojection error of the points in working pixels.
        whitened_rmse: The same in standard deviations of the noise model.
        hessian: (6, 6) information of the pose (right perturbation, x y z rx ry rz), unit noise.
        both_agree: False when reference-to-query and query-to-reference gave different poses.
    """

    T_reference_query: Transform
    inliers: Mask
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

    def linearise(self, T_reference_query: Transform) -> tuple[FloatArray, FloatArray]:
        """(N, 2) whitened residuals and (N, 2, 6) their derivatives by a step of `_plus`."""
        if self.observer.camera is None:
            raise ValueError("points are projected only between calibrated views")
        moved = _transformed(self.points_m, T_reference_query, self.into_query)
        behind = moved[:, 2] < _MIN_Z_M
        moved[behind, 2] = _MIN_Z_M
        error_px = self.observer.camera.project(moved) - self.observer.working_px
        by_point = self.observer.camera.project_slopes(moved)
        by_point[behind, :, 2] = 0.0
        by_step = by_point @ self._point_slopes(T_reference_query, moved)
        return (self.whitening @ error_px[:, :, None])[:, :, 0], self.whitening @ by_step

    def _point_slopes(self, T_reference_query: Transform, moved_m: FloatArray) -> FloatArray:
        """(N, 3, 6) derivatives of the points in the observer's frame by a step of `_plus`."""
        if self.into_query:  # exp(-step) y = y - step[:3] + y x step[3:]
            return np.concatenate([np.broadcast_to(-np.eye(3), (len(moved_m), 3, 3)), _skews(moved_m)], axis=2)
        R = T_reference_query[:3, :3]  # R (p + step[:3] - p x step[3:]) + t
        return np.concatenate([np.broadcast_to(R, (len(moved_m), 3, 3)), -R @ _skews(self.points_m)], axis=2)


def estimate_metric(matches: Correspondences, config: VerificationConfig) -> MetricPose | None:
    """PnP on all matches with a point, refined over both directions together.

    The inliers of the essential matrix are not asked first: in front of a plane it may belong to a wrong pose.
    AP3P in RANSAC (Ke and Roumeliotis, CVPR 2017, through OpenCV), then Levenberg-Marquardt on the reprojection error
    in distorted pixels, weighted by keypoint scale and depth noise.

    Args:
        matches: All matches.
        config: Thresholds.

    Returns:
        None when no pose is consistent with MIN_POINTS points.
    """
    poses = [_one_way(matches, into_query, config) for into_query in (True, False)]
    found = [pose for pose in poses if pose is not None]
    if not found:
        return None
    both_agree = len(found) < 2 or _agree(found[0], found[1], config)
    T = found[0]
    if not both_agree:  # tell of one direction only: no pose can please both
        unknown = dataclasses.replace(matches.query, points_m=np.full_like(matches.query.points_m, np.nan))
        matches = dataclasses.replace(matches, query=unknown)
    for _ in range(_ROUNDS):
        supported = _error_px(matches, T) < config.max_error_px
        if supported.sum() < MIN_POINTS:
            return None
        refined = _refine_jointly(matches.subset(supported), T)
        dominating = _dominating(matches.subset(supported), refined)
        if dominating.any() and np.count_nonzero(~dominating) >= MIN_POINTS:
            supported[np.flatnonzero(supported)[dominating]] = False
            refined = _refine_jointly(matches.subset(supported), T)
        T = refined.state
    error_px = _error_px(matches.subset(supported), T)
    return MetricPose(
        T_reference_query=T,
        inliers=supported | (consistent(matches, T, config) & ~with_points(matches)),
        rmse_px=float(np.sqrt(np.mean(error_px**2))),
        whitened_rmse=float(np.sqrt(np.mean(refined.residuals**2))),
        hessian=refined.hessian,
        both_agree=both_agree,
    )


def has_points(matches: Correspondences, inliers: Mask | None = None) -> bool:
    """Whether one of the views has enough points for a pose in metres, among all matches or the inliers."""
    views = matches.reference, matches.query
    counts = [np.count_nonzero(view.knows if inliers is None else view.knows & inliers) for view in views]
    return bool(max(counts) >= MIN_POINTS)


def with_points(matches: Correspondences) -> Mask:
    """(N,) True where one of the views has a point."""
    return np.asarray(matches.reference.knows | matches.query.knows)


def _sides(matches: Correspondences, into_query: bool) -> tuple[View, View]:
    """The view whose points are projected, and the one that observes them."""
    return (matches.reference, matches.query) if into_query else (matches.query, matches.reference)


def _one_way(matches: Correspondences, into_query: bool, config: VerificationConfig) -> Transform | None:
    owner, observer = _sides(matches, into_query)
    keep = owner.knows & observer.sees
    if keep.sum() < MIN_POINTS:
        return None
    f = matches.focal_px
    num_points = int(keep.sum())
    least = max(MIN_POINTS, config.min_inliers - np.count_nonzero(~with_points(matches)))
    samples = enough_samples(num_points, min(least, num_points), _SAMPLE, config)
    try:
        found, rvec, tvec, chosen = cv2.solvePnPRansac(
            owner.points_m[keep],
            f * observer.plane[keep],
            np.diag([f, f, 1.0]),
            None,
            iterationsCount=min(samples, _RANSAC_ITERATIONS),
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
    consenting = np.zeros(len(matches), dtype=bool)
    consenting[np.flatnonzero(keep)[chosen.ravel()]] = True
    projection = _projection(matches.subset(consenting), into_query, T)
    return refine(projection.linearise, _plus, T).state


def _agree(T: Transform, other: Transform, config: VerificationConfig) -> bool:
    distance_m = float(np.linalg.norm(T[:3, 3] - other[:3, 3]))
    angle_deg = float(np.degrees(rotation_angle(T[:3, :3].T @ other[:3, :3])))
    return bool(distance_m <= config.both_directions_m and angle_deg <= config.both_directions_deg)


def _refine_jointly(matches: Correspondences, T: Transform) -> Refined[Transform]:
    """Refine over the projections of both directions together."""
    both = [_projection(matches, into_query, T) for into_query in (True, False)]
    projections = [projection for projection in both if len(projection.points_m)]

    def linearise(T_reference_query: Transform) -> tuple[FloatArray, FloatArray]:
        parts = [projection.linearise(T_reference_query) for projection in projections]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    return refine(linearise, _plus, T)


def _dominating(matches: Correspondences, refined: Refined[Transform]) -> Mask:
    """(N,) True for a point on which a pose rests alone: of its two coordinates nearly all goes into the pose.

    The leverage of one projection is at most 2, of all together 6; wrong matches of stereo pairs had 1.8 and more.

    Such a point is one far nearer than the others, and is most often a wrong match of the stereo pair: it forces the
    pose through itself, so that neither its own error nor a robust loss betrays it.
    """
    leverage = np.zeros(len(matches))
    information = np.linalg.inv(refined.hessian + 1e-9 * np.eye(6))
    for into_query in (True, False):
        projection = _projection(matches, into_query, refined.state)
        if len(projection.points_m) == 0:
            continue
        owner, observer = _sides(matches, into_query)
        jacobian = projection.linearise(refined.state)[1]
        rows = np.flatnonzero(owner.knows & observer.sees)
        leverage[rows] = np.maximum(leverage[rows], ((jacobian @ information) * jacobian).sum(axis=(1, 2)))
    return leverage > _LEVERAGE


def _plus(T: Transform, step: FloatArray) -> Transform:
    return np.asarray(T @ se3_exp(step))


def _projection(matches: Correspondences, into_query: bool, T: Transform) -> _Projection:
    """The projections of one direction, whitened by keypoint and depth noise at pose T."""
    owner, observer = _sides(matches, into_query)
    keep = owner.knows & observer.sees
    owner, observer = owner.subset(keep), observer.subset(keep)
    predicted_px = _project(owner.points_m, observer, T, into_query)
    depth_share = 1e-3
    along_ray = (_project(owner.points_m * (1 + depth_share), observer, T, into_query) - predicted_px) / depth_share
    depth_px = along_ray * (owner.depth_sigma_m / owner.points_m[:, 2])[:, None]
    z_observer = np.maximum(_transformed(owner.points_m, T, into_query)[:, 2], _MIN_Z_M)
    magnification = _focal(observer) * owner.points_m[:, 2] / (_focal(owner) * z_observer)
    variance = observer.sigma_px**2 + (owner.sigma_px * magnification) ** 2
    return _Projection(owner.points_m, observer, _whitening(variance, depth_px), into_query)


def _whitening(variance: FloatArray, along: FloatArray) -> FloatArray:
    """(N, 2, 2) inverses of the Cholesky factors of variance (N,) times the identity plus along along^T (N, 2)."""
    x = np.sqrt(variance + along[:, 0] ** 2)
    both = along[:, 0] * along[:, 1] / x
    y = np.sqrt(variance + along[:, 1] ** 2 - both**2)
    whitening = np.zeros((len(variance), 2, 2))
    whitening[:, 0, 0] = 1.0 / x
    whitening[:, 1, 0] = -both / (x * y)
    whitening[:, 1, 1] = 1.0 / y
    return whitening


def _error_px(matches: Correspondences, T: Transform) -> FloatArray:
    """(N,) larger reprojection error of both directions in working pixels; infinite without a point."""
    error_px = np.full(len(matches), np.inf)
    for into_query in (True, False):
        owner, observer = _sides(matches, into_query)
        keep = owner.knows & observer.sees
        if not keep.any():
            continue
        predicted_px = _project(owner.points_m[keep], observer.subset(keep), T, into_query)
        one_way_px = np.linalg.norm(predicted_px - observer.working_px[keep], axis=1)
        z_owner, z_observer = owner.points_m[keep, 2], _transformed(owner.points_m[keep], T, into_query)[:, 2]
        one_way_px[(z_observer * _MAX_MAGNIFICATION < z_owner) | (z_observer > _MAX_MAGNIFICATION * z_owner)] = np.inf
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


def _skews(vectors: FloatArray) -> FloatArray:
    """(N, 3, 3) matrices that multiply a vector to the cross product from the left."""
    result = np.zeros((len(vectors), 3, 3))
    for row, column, axis in ((1, 2, 0), (2, 0, 1), (0, 1, 2)):
        result[:, row, column] = -vectors[:, axis]
        result[:, column, row] = vectors[:, axis]
    return result


def _focal(view: View) -> float:
    return view.camera.focal_px if view.camera is not None else 1.0
