"""The geometric test of one candidate: matches, epipolar geometry, pose, gates, covariance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import Camera, FloatArray, invert, make_transform
from progeo_edge.types import LocalFeatures, PoseKind, ScaleSource, Status, Transform, Verification
from progeo_edge.verification import hamming
from progeo_edge.verification.correspondences import Correspondences, make_view
from progeo_edge.verification.covariance import metric_covariance, scaleless_covariance
from progeo_edge.verification.degeneracy import resolve_degeneracy
from progeo_edge.verification.matching import match_features
from progeo_edge.verification.pnp import MIN_POINTS, MetricPose, estimate_metric, has_points, with_points
from progeo_edge.verification.two_view import TwoView, estimate_essential, estimate_fundamental

_GRID = 8


@dataclass(frozen=True, eq=False)
class _Geometry:
    """What the matches allow to say, before the gates."""

    inliers: NDArray[np.bool_]
    rmse_px: float
    kind: PoseKind = PoseKind.NONE
    scale_source: ScaleSource = ScaleSource.NONE
    T_reference_query: Transform | None = None
    covariance: FloatArray | None = None
    failure: Status | None = None


class Verifier:
    """Tells whether two images show the same place, and from where; the same input gives the same answer."""

    def __init__(self, config: VerificationConfig) -> None:
        """Args: config: thresholds; `working_size_px` must be that of the features."""
        self._config = config
        if config.detector == "orb":
            hamming.search()  # now, so that the first candidate need not wait for an import

    def verify(
        self,
        query: LocalFeatures,
        reference: LocalFeatures,
        query_camera: Camera | None,
        reference_camera: Camera | None,
    ) -> Verification:
        """Match, estimate the geometry, and pass the gates in order of cost; the first that refuses gives the status.

        With both cameras: essential matrix, and PnP where a side has points (METRIC). Without: fundamental matrix and
        no pose. For UP_TO_SCALE the translation is the unit direction of the camera's motion turned into the
        reference's base frame; the lever arm between camera and base is left out, since its share of a motion of
        unknown length is unknown.

        Raises:
            InputError: features of different kinds, or a camera of another aspect ratio than its image.
        """
        cv2.setRNGSeed(self._config.seed)
        config = self._config
        in_query, in_reference = match_features(query, reference, ratio=config.ratio, cross_check=config.cross_check)
        result = Verification(status=Status.FEW_MATCHES, num_matches=len(in_query))
        if len(in_query) < config.min_matches:
            return result
        calibrated = query_camera is not None and reference_camera is not None
        matches = Correspondences(
            make_view(query, in_query, query_camera if calibrated else None, config.working_size_px),
            make_view(reference, in_reference, reference_camera if calibrated else None, config.working_size_px),
        )
        geometry = self._calibrated(matches, query, reference) if calibrated else self._uncalibrated(matches)
        query_px = query.keypoints_px[in_query[geometry.inliers]]
        reference_px = reference.keypoints_px[in_reference[geometry.inliers]]
        coverage = min(_coverage(query_px, query.image_size_px), _coverage(reference_px, reference.image_size_px))
        count = len(query_px)
        least = config.min_inliers if calibrated else config.min_inliers_uncalibrated
        status = self._gate(geometry, count, least, count / len(in_query), coverage)
        return dataclasses.replace(
            result,
            status=status,
            T_reference_query=geometry.T_reference_query,
            covariance=geometry.covariance,
            pose_kind=geometry.kind,
            scale_source=geometry.scale_source,
            num_inliers=count,
            inlier_ratio=count / len(in_query),
            coverage=coverage,
            reprojection_rmse_px=geometry.rmse_px * max(query.image_size_px) / config.working_size_px,
            query_px=query_px,
            reference_px=reference_px,
        )

    def _uncalibrated(self, matches: Correspondences) -> _Geometry:
        return _Geometry(*estimate_fundamental(matches, self._config))

    def _calibrated(self, matches: Correspondences, query: LocalFeatures, reference: LocalFeatures) -> _Geometry:
        pose = estimate_metric(matches, self._config) if has_points(matches) else None
        if pose is not None and pose.inliers.sum() >= self._config.min_inliers:
            return self._metric(matches, pose, query, reference)
        if pose is None and has_points(matches) and not self._may_pass_without_points(matches):
            return _nothing(matches)
        two_view = estimate_essential(matches, self._config)
        if two_view is None:
            return _nothing(matches)
        if not has_points(matches, two_view.inliers):
            return self._scaleless(matches, resolve_degeneracy(matches, two_view, self._config))
        if pose is None:  # the points contradict each other, so they count against the candidate
            unknown = two_view.inliers & ~with_points(matches)
            return _Geometry(unknown, two_view.rmse_px, failure=Status.DEGENERATE)
        return self._metric(matches, pose, query, reference)

    def _may_pass_without_points(self, matches: Correspondences) -> bool:
        """Whether there are enough matches for a pose without metres that too few points take part in to contradict."""
        return bool(np.count_nonzero(~with_points(matches)) + 2 * MIN_POINTS >= self._config.min_inliers)

    def _scaleless(self, matches: Correspondences, two_view: TwoView) -> _Geometry:
        if two_view.kind is PoseKind.NONE:
            return _Geometry(two_view.inliers, two_view.rmse_px, failure=Status.DEGENERATE)
        mounting_q, mounting_r = _mountings(matches)
        R = mounting_r[:3, :3] @ two_view.T_reference_query[:3, :3] @ mounting_q[:3, :3].T
        return _Geometry(
            two_view.inliers,
            two_view.rmse_px,
            two_view.kind,
            ScaleSource.NONE,
            make_transform(R, mounting_r[:3, :3] @ two_view.T_reference_query[:3, 3]),
            scaleless_covariance(two_view, mounting_q, self._config),
        )

    def _metric(
        self, matches: Correspondences, pose: MetricPose, query: LocalFeatures, reference: LocalFeatures
    ) -> _Geometry:
        mounting_q, mounting_r = _mountings(matches)
        T = mounting_r @ pose.T_reference_query @ invert(mounting_q)
        failure = None
        if float(np.linalg.norm(T[:3, 3])) > self._config.max_translation_m:
            failure = Status.TOO_FAR
        elif not pose.both_agree:
            failure = Status.INCONSISTENT_POSES
        source = reference.point_scale_source if reference.points_m is not None else query.point_scale_source
        return _Geometry(
            pose.inliers,
            pose.rmse_px,
            PoseKind.METRIC,
            source,
            T,
            metric_covariance(pose.hessian, pose.whitened_rmse, mounting_q, self._config),
            failure,
        )

    def _gate(self, geometry: _Geometry, count: int, least: int, ratio: float, coverage: float) -> Status:
        config = self._config
        if count < least:
            return Status.FEW_INLIERS
        if ratio < config.min_inlier_ratio:
            return Status.LOW_INLIER_RATIO
        if coverage < config.min_coverage:
            return Status.LOW_COVERAGE
        if not geometry.rmse_px <= config.max_reprojection_rmse_px:
            return Status.HIGH_REPROJECTION_ERROR
        return geometry.failure or Status.ACCEPTED


def _nothing(matches: Correspondences) -> _Geometry:
    return _Geometry(np.zeros(len(matches), dtype=bool), float("nan"))


def _coverage(keypoints_px: NDArray[np.float32], image_size_px: tuple[int, int]) -> float:
    """Share of the cells of an 8x8 grid that hold a keypoint."""
    size = np.asarray(image_size_px, dtype=np.float64)
    cells = np.clip(np.floor((keypoints_px + 0.5) / size * _GRID), 0, _GRID - 1).astype(np.int64)
    return len(np.unique(cells[:, 0] * _GRID + cells[:, 1])) / _GRID**2


def _mountings(matches: Correspondences) -> tuple[Transform, Transform]:
    """T_base_camera of query and reference."""
    cameras = [matches.query.camera, matches.reference.camera]
    mountings = [camera.T_base_camera if camera is not None else np.eye(4) for camera in cameras]
    return mountings[0], mountings[1]
