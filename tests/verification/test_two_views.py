"""Poses from simulated matches, whose truth is exact."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.errors import InputError
from progeo_edge.geometry import adjoint, invert, make_transform, rotation_exp
from progeo_edge.types import LocalFeatures, PoseKind, ScaleSource, Status
from progeo_edge.verification import Verifier
from tests.verification.scenes import (
    SIZE,
    covariance,
    direction_error_deg,
    fisheye,
    move,
    nees,
    pinhole,
    planar_points,
    pose,
    rotation_error_deg,
    scattered_points,
    seen,
)

CONFIG = VerificationConfig()
VERIFIER = Verifier(CONFIG)
MOTION = move(0.8, -0.1, 0.5, 2.0, -6.0, 1.0)
CAMERAS = {"pinhole": pinhole(), "distorted": pinhole((-0.25, 0.08, 0.001, -0.001, -0.01)), "fisheye": fisheye()}


@pytest.mark.parametrize("lens", CAMERAS)
@pytest.mark.parametrize("seed", range(3))
def test_pixels_alone_give_rotation_and_direction(lens, seed):
    rng = np.random.default_rng(seed)
    camera = CAMERAS[lens]
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, outliers=150)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status is Status.ACCEPTED
    assert result.pose_kind is PoseKind.UP_TO_SCALE and result.scale_source is ScaleSource.NONE
    assert rotation_error_deg(pose(result), MOTION) < 1.0
    assert direction_error_deg(pose(result)[:3, 3], MOTION[:3, 3]) < 5.0
    assert np.linalg.norm(pose(result)[:3, 3]) == pytest.approx(1.0)
    assert result.query_px is not None and result.reference_px is not None
    assert result.num_matches == len(query) and result.num_inliers == len(result.query_px) == len(result.reference_px)
    assert 0.3 < result.reprojection_rmse_px < 1.5
    np.testing.assert_allclose(np.sqrt(np.diag(covariance(result))[:3]), CONFIG.prior_radius_m, rtol=0.01)


@pytest.mark.parametrize("lens", CAMERAS)
@pytest.mark.parametrize("points", ["r", "q", "qr"])
def test_points_on_either_side_give_metres(lens, points):
    rng = np.random.default_rng(5)
    camera = CAMERAS[lens]
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, outliers=100, points=points)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status is Status.ACCEPTED
    assert result.pose_kind is PoseKind.METRIC and result.scale_source is ScaleSource.DEPTH
    assert rotation_error_deg(pose(result), MOTION) < 0.5
    error_m = np.linalg.norm(pose(result)[:3, 3] - MOTION[:3, 3])
    assert error_m < 0.05 * np.linalg.norm(MOTION[:3, 3])


def test_pixels_without_intrinsics_give_inliers_and_no_pose():
    rng = np.random.default_rng(2)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, outliers=100, points="qr")
    for cameras in ((None, None), (camera, None), (None, camera)):
        result = VERIFIER.verify(query, reference, *cameras)
        assert result.status is Status.ACCEPTED
        assert result.pose_kind is PoseKind.NONE and result.T_reference_query is None and result.covariance is None
        assert result.num_inliers > 0.9 * (result.num_matches - 100)


@pytest.mark.parametrize("points", ["", "qr"])
def test_poses_are_those_of_the_bases(points):
    rng = np.random.default_rng(3)
    forward = make_transform(np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]), [0.4, 0.1, 1.2])
    tilted = forward @ move(0.0, 0.3, 0.0, 10.0, 20.0, -5.0)
    query_camera, reference_camera = pinhole(mounting=tilted), pinhole(mounting=forward)
    query, reference = seen(rng, scattered_points(rng, 500), MOTION, query_camera, reference_camera, points=points)
    result = VERIFIER.verify(query, reference, query_camera, reference_camera)
    truth = forward @ MOTION @ invert(tilted)
    assert rotation_error_deg(pose(result), truth) < 1.0
    if points:
        np.testing.assert_allclose(pose(result)[:3, 3], truth[:3, 3], atol=0.06)
    else:
        moved = forward[:3, :3] @ MOTION[:3, 3]
        assert direction_error_deg(pose(result)[:3, 3], moved) < 5.0


def test_covariance_follows_the_mounting():
    rng = np.random.default_rng(4)
    mounting = move(2.0, 0.0, 1.0, 0.0, 0.0, 90.0)
    bare, mounted = pinhole(), pinhole(mounting=mounting)
    query, reference = seen(rng, scattered_points(rng, 300), MOTION, bare, bare, points="qr")
    one = VERIFIER.verify(query, reference, bare, bare)
    other = VERIFIER.verify(query, reference, mounted, mounted)
    floor = np.diag(np.repeat([CONFIG.covariance_floor_m, np.radians(CONFIG.covariance_floor_deg)], 3) ** 2)
    A = adjoint(mounting)
    np.testing.assert_allclose(covariance(other), A @ (covariance(one) - floor) @ A.T + floor, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("points", ["", "q", "r", "qr"])
def test_covariances_are_symmetric_positive_and_never_zero(points):
    rng = np.random.default_rng(6)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 300), MOTION, camera, camera, points=points, noise_px=0.0)
    result = VERIFIER.verify(query, reference, camera, camera)
    np.testing.assert_array_equal(covariance(result), covariance(result).T)
    sigmas = np.sqrt(np.linalg.eigvalsh(covariance(result)))
    assert sigmas.min() > 0.9 * np.radians(CONFIG.covariance_floor_deg)


@pytest.mark.parametrize("seed", range(3))
def test_a_camera_that_only_turned_has_no_direction(seed):
    rng = np.random.default_rng(seed)
    camera = pinhole()
    turn = move(0, 0, 0, 1.0, 8.0, -2.0)
    query, reference = seen(rng, scattered_points(rng, 400), turn, camera, camera, outliers=60)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status is Status.ACCEPTED and result.pose_kind is PoseKind.ROTATION_ONLY
    assert rotation_error_deg(pose(result), turn) < 0.2
    np.testing.assert_array_equal(pose(result)[:3, 3], 0.0)
    assert np.sqrt(covariance(result)[0, 0]) == pytest.approx(CONFIG.prior_radius_m, rel=0.01)


def test_parallax_below_the_threshold_has_no_direction():
    rng = np.random.default_rng(0)
    camera = pinhole()
    near = move(0.05, 0, 0, 0, 5.0, 0)
    query, reference = seen(rng, scattered_points(rng, 400), near, camera, camera, noise_px=0.1)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.pose_kind is PoseKind.ROTATION_ONLY
    assert rotation_error_deg(pose(result), near) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_single_plane_is_ambiguous_or_right_and_points_settle_it(seed):
    rng = np.random.default_rng(seed)
    camera = pinhole()
    points_m = planar_points(rng, 400)
    query, reference = seen(rng, points_m, MOTION, camera, camera)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status in (Status.DEGENERATE, Status.ACCEPTED)
    if result.status is Status.ACCEPTED:
        assert rotation_error_deg(pose(result), MOTION) < 1.5
    else:
        assert result.T_reference_query is None and result.covariance is None and result.num_inliers > 200
    query, reference = seen(rng, points_m, MOTION, camera, camera, points="r")
    metric = VERIFIER.verify(query, reference, camera, camera)
    assert metric.status is Status.ACCEPTED and metric.pose_kind is PoseKind.METRIC
    np.testing.assert_allclose(pose(metric), MOTION, atol=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_points_off_the_plane_settle_it_too(seed):
    rng = np.random.default_rng(seed)
    camera = pinhole()
    points_m = np.vstack([planar_points(rng, 300), scattered_points(rng, 150)])
    query, reference = seen(rng, points_m, MOTION, camera, camera)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status is Status.ACCEPTED and result.pose_kind is PoseKind.UP_TO_SCALE
    assert rotation_error_deg(pose(result), MOTION) < 1.0
    assert direction_error_deg(pose(result)[:3, 3], MOTION[:3, 3]) < 5.0


@pytest.mark.parametrize("with_camera", [True, False])
@pytest.mark.parametrize("points", ["", "qr"])
def test_random_pairs_are_refused(with_camera, points):
    camera = pinhole()
    for seed in range(15):
        rng = np.random.default_rng(seed)
        query, reference = seen(rng, np.zeros((0, 3)), MOTION, camera, camera, outliers=200, points=points)
        result = VERIFIER.verify(query, reference, *((camera, camera) if with_camera else (None, None)))
        assert result.status in (Status.FEW_INLIERS, Status.LOW_INLIER_RATIO)


@pytest.mark.parametrize("with_camera", [True, False])
def test_keypoints_that_all_coincide_are_refused(with_camera):
    rng = np.random.default_rng(0)
    descriptors = rng.integers(0, 256, (100, 32), dtype=np.uint8)
    spot = LocalFeatures("orb", np.full((100, 2), 100, np.float32), np.full(100, 31, np.float32), descriptors, SIZE)
    cameras = (pinhole(), pinhole()) if with_camera else (None, None)
    result = VERIFIER.verify(spot, spot, *cameras)
    assert result.status is not Status.ACCEPTED
    assert result.num_matches == 100


def test_the_same_image_is_the_same_place_seen_from_the_same_pose():
    rng = np.random.default_rng(0)
    camera = pinhole()
    features, _ = seen(rng, scattered_points(rng, 300), np.eye(4), camera, camera, noise_px=0.0, points="q")
    metric = VERIFIER.verify(features, features, camera, camera)
    assert metric.status is Status.ACCEPTED and metric.pose_kind is PoseKind.METRIC
    np.testing.assert_allclose(pose(metric), np.eye(4), atol=1e-4)


def gate(points="", motion=MOTION, outliers=0, count=400, noise_px=0.5, **settings):
    rng = np.random.default_rng(1)
    camera = pinhole()
    query, reference = seen(
        rng, scattered_points(rng, count), motion, camera, camera, outliers=outliers, points=points, noise_px=noise_px
    )
    config = CONFIG.model_copy(update=settings)
    return Verifier(config).verify(query, reference, camera, camera)


def test_each_gate_has_its_status_and_keeps_the_numbers():
    few = gate(count=20)
    assert few.status is Status.FEW_MATCHES and 0 < few.num_matches < 30 and few.num_inliers == 0
    inliers = gate(min_inliers=400)
    assert inliers.status is Status.FEW_INLIERS and inliers.num_inliers > 100
    ratio = gate(outliers=400, min_inlier_ratio=0.9)
    assert ratio.status is Status.LOW_INLIER_RATIO and 0.3 < ratio.inlier_ratio < 0.6
    coverage = gate(min_coverage=1.0)
    assert coverage.status is Status.LOW_COVERAGE and 0.5 < coverage.coverage < 1.0
    error = gate(max_reprojection_rmse_px=0.1)
    assert error.status is Status.HIGH_REPROJECTION_ERROR and error.reprojection_rmse_px > 0.1
    far = gate(points="qr", max_translation_m=0.5)
    assert far.status is Status.TOO_FAR and np.linalg.norm(pose(far)[:3, 3]) > 0.5


def test_directions_that_disagree_are_inconsistent():
    rng = np.random.default_rng(1)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, points="qr")
    stretched = LocalFeatures(
        query.kind,
        query.keypoints_px,
        query.sizes_px,
        query.descriptors,
        query.image_size_px,
        query.points_m * np.float32(1.6),
        query.point_scale_source,
    )
    result = VERIFIER.verify(stretched, reference, camera, camera)
    assert result.status is not Status.ACCEPTED
    generous = Verifier(CONFIG.model_copy(update={"min_inliers": 5, "min_inlier_ratio": 0.0, "min_coverage": 0.0}))
    assert generous.verify(stretched, reference, camera, camera).status is Status.INCONSISTENT_POSES


def test_crowded_inliers_cover_little():
    rng = np.random.default_rng(1)
    camera = pinhole()
    z = rng.uniform(8, 12, 300)
    crowded = np.column_stack([rng.uniform(0.1, 0.2, 300) * z, rng.uniform(0.1, 0.2, 300) * z, z])
    query, reference = seen(rng, crowded, move(0.5, 0, 0), camera, camera, points="qr")
    assert VERIFIER.verify(query, reference, camera, camera).status is Status.LOW_COVERAGE


def test_a_map_of_another_resolution_gives_the_same_pose():
    rng = np.random.default_rng(8)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, points="qr")
    half = LocalFeatures(
        reference.kind,
        (reference.keypoints_px + 0.5) * 0.5 - 0.5,
        reference.sizes_px * 0.5,
        reference.descriptors,
        (320, 240),
        reference.points_m,
        reference.point_scale_source,
    )
    for reference_camera in (camera, camera.scaled_to(320, 240)):
        result = VERIFIER.verify(query, half, camera, reference_camera)
        assert result.status is Status.ACCEPTED
        np.testing.assert_allclose(pose(result), MOTION, atol=0.04)


def test_a_camera_of_another_aspect_ratio_is_refused():
    rng = np.random.default_rng(8)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera)
    with pytest.raises(InputError, match="calibrated for 640x360"):
        VERIFIER.verify(query, reference, camera.scaled_to(640, 360), camera)


def test_the_same_input_gives_the_same_answer():
    first, second = (gate(points="qr", outliers=200) for _ in range(2))
    np.testing.assert_array_equal(pose(first), pose(second))
    np.testing.assert_array_equal(covariance(first), covariance(second))


@pytest.mark.parametrize("name", ["findEssentialMat", "findFundamentalMat", "findHomography"])
def test_ransac_stands_in_where_magsac_throws(monkeypatch, name):
    original, methods = getattr(cv2, name), []

    def throwing(*arguments, **keywords):
        method = keywords.get("method", arguments[2] if name != "findEssentialMat" else None)
        methods.append(method)
        if method == cv2.USAC_MAGSAC:
            raise cv2.error("assertion failed")
        return original(*arguments, **keywords)

    monkeypatch.setattr(cv2, name, throwing)
    rng = np.random.default_rng(0)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, outliers=50)
    cameras = (None, None) if name == "findFundamentalMat" else (camera, camera)
    assert VERIFIER.verify(query, reference, *cameras).status is Status.ACCEPTED
    assert cv2.RANSAC in methods


@pytest.mark.parametrize(
    ("name", "points"), [("findEssentialMat", ""), ("findFundamentalMat", ""), ("solvePnPRansac", "qr")]
)
def test_a_candidate_is_refused_when_opencv_always_throws(monkeypatch, name, points):
    def throwing(*arguments, **keywords):
        raise cv2.error("assertion failed")

    monkeypatch.setattr(cv2, name, throwing)
    rng = np.random.default_rng(0)
    camera = pinhole()
    query, reference = seen(rng, scattered_points(rng, 400), MOTION, camera, camera, points=points)
    cameras = (None, None) if name == "findFundamentalMat" else (camera, camera)
    result = VERIFIER.verify(query, reference, *cameras)
    assert result.status is Status.FEW_INLIERS and result.T_reference_query is None


@pytest.mark.parametrize("points", ["r", "qr"])
def test_covariance_of_simulated_metric_poses_is_consistent(points):
    camera, figures = pinhole(), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        motion = make_transform(rotation_exp(rng.normal(0, 0.05, 3)), rng.uniform(-0.8, 0.8, 3))
        query, reference = seen(rng, scattered_points(rng, 250), motion, camera, camera, points=points, noise_px=0.7)
        result = VERIFIER.verify(query, reference, camera, camera)
        assert result.status is Status.ACCEPTED
        figures.append(nees(result, motion))
    assert 0.5 < np.mean(figures) < 2.0
