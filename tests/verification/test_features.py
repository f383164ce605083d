from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.errors import InputError
from progeo_edge.types import ScaleSource
from progeo_edge.verification import FeatureExtractor
from tests.verification.scenes import street_camera, view

CONFIG = VerificationConfig()
KINDS = ("orb", "sift")


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(CONFIG)


@pytest.mark.parametrize("kind", KINDS)
def test_features_have_the_stated_shapes_and_types(kind):
    image = view(20)[0]
    features = FeatureExtractor(VerificationConfig(detector=kind, max_features=300)).extract(image)
    width = {"orb": 32, "sift": 128}[kind]
    assert features.kind == kind
    assert 200 <= len(features) <= 300
    assert features.keypoints_px.dtype == np.float32 and features.keypoints_px.shape == (len(features), 2)
    assert features.sizes_px.dtype == np.float32 and features.sizes_px.shape == (len(features),)
    assert features.descriptors.dtype == np.uint8 and features.descriptors.shape == (len(features), width)
    assert features.image_size_px == (640, 480)
    assert features.points_m is None and features.point_scale_source is ScaleSource.NONE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640), (1, 1), (1, 640, 3), (500, 20)])
def test_an_image_without_structure_has_no_keypoints(kind, shape):
    features = FeatureExtractor(VerificationConfig(detector=kind)).extract(np.full(shape, 90, dtype=np.uint8))
    assert len(features) == 0
    assert features.descriptors.shape == (0, {"orb": 32, "sift": 128}[kind])
    assert features.image_size_px == (shape[1], shape[0])


def test_grey_and_its_bgr_copy_give_the_same_features(extractor):
    grey = cv2.cvtColor(view(20)[0], cv2.COLOR_BGR2GRAY)
    one, three = extractor.extract(grey), extractor.extract(cv2.merge([grey] * 3))
    np.testing.assert_array_equal(one.descriptors, three.descriptors)
    np.testing.assert_array_equal(one.keypoints_px, three.keypoints_px)


def test_a_small_image_is_enlarged_and_answers_in_its_own_pixels(extractor):
    image = view(20)[0]
    small = np.asarray(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    features = extractor.extract(small)
    at_own_size = FeatureExtractor(VerificationConfig(working_size_px=160)).extract(small)
    assert len(features) > 2 * len(at_own_size)
    assert features.image_size_px == (160, 120)
    assert features.keypoints_px[:, 0].max() < 160 and features.keypoints_px[:, 1].max() < 120


def test_keypoints_of_a_square_sit_on_its_corners_at_every_size(extractor):
    for side in (160, 320, 1280):
        image = np.zeros((side, side), dtype=np.uint8)
        low, high = side // 4, 3 * side // 4
        image[low:high, low:high] = 200
        features = extractor.extract(image)
        corners = np.array([(x, y) for x in (low - 0.5, high - 0.5) for y in (low - 0.5, high - 0.5)])
        distances = np.linalg.norm(features.keypoints_px[:, None] - corners, axis=2)
        assert (distances.min(axis=0) < 0.01 * side).all()
        centre_error_px = features.keypoints_px.mean(axis=0) - 0.5 * (side - 1)
        assert (np.abs(centre_error_px) < 4e-4 * side).all()  # a half pixel forgotten anywhere shows
        assert np.median(distances.min(axis=1)) < 0.03 * side


def test_the_masked_part_has_no_keypoints(extractor):
    mask = np.full((480, 640), 255, dtype=np.uint8)
    mask[:, :320] = 0
    features = extractor.extract(view(20)[0], mask=mask)
    assert len(features) > 100
    assert features.keypoints_px[:, 0].min() > 318


def test_keypoints_spread_although_one_corner_is_the_most_textured():
    rng = np.random.default_rng(0)
    soft = rng.integers(100, 140, (480, 640), dtype=np.uint8)
    image = np.asarray(cv2.GaussianBlur(soft, (0, 0), 1.5), dtype=np.uint8)
    image[:80, :100] = rng.integers(0, 256, (80, 100), dtype=np.uint8)
    features = FeatureExtractor(VerificationConfig(max_features=500)).extract(image)
    in_corner = ((features.keypoints_px < (100, 80)).all(axis=1)).mean()
    assert in_corner < 0.5  # the strongest alone: 0.98


def test_depth_gives_points_that_project_onto_their_keypoints(extractor):
    image, _, depth_m = view(20)
    camera = street_camera()
    features = extractor.extract(image, camera=camera, depth_m=depth_m)
    known = np.isfinite(features.points_m).all(axis=1)
    assert features.point_scale_source is ScaleSource.DEPTH
    assert features.points_m.dtype == np.float32 and known.mean() > 0.5
    np.testing.assert_allclose(camera.project(features.points_m[known]), features.keypoints_px[known], atol=0.01)
    column, row = np.rint(features.keypoints_px[known]).astype(int).T
    assert np.median(np.abs(features.points_m[known, 2] / depth_m[row, column] - 1)) < 0.001


def test_depth_edges_and_unknown_depths_give_no_point(extractor):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (480, 640), dtype=np.uint8), (0, 0), 2)
    depth_m = np.full((480, 640), 4.0, dtype=np.float32)
    depth_m[:, 320:] = 8.0
    depth_m[:100] = np.nan
    depth_m[380:] = 0.0
    features = extractor.extract(image, camera=street_camera(), depth_m=depth_m)
    known = np.isfinite(features.points_m[:, 2])
    x, y = features.keypoints_px.T
    on_edge = np.abs(x - 319.5) < 1.0
    unknown = (y < 98) | (y > 382)
    assert on_edge.any() and unknown.any()
    assert not known[on_edge | unknown].any()
    assert known[(np.abs(x - 319.5) > 3) & (y > 103) & (y < 377)].all()


@pytest.mark.parametrize("kind", KINDS)
def test_stereo_points_agree_with_the_true_depth(kind):
    image, right, depth_m = view(20)
    camera = street_camera()
    extractor = FeatureExtractor(VerificationConfig(detector=kind))
    features = extractor.extract(image, camera=camera, right=right)
    assert features.point_scale_source is ScaleSource.STEREO
    assert features.points_m is not None
    column, row = np.rint(features.keypoints_px).astype(int).T
    truth_m = depth_m[row, column]
    known = np.isfinite(features.points_m[:, 2]) & (truth_m > 0)
    assert known.mean() > 0.4
    focal_baseline = camera.K[0, 0] * camera.baseline_m
    disparity_error_px = focal_baseline / features.points_m[known, 2] - focal_baseline / truth_m[known]
    assert np.median(np.abs(disparity_error_px)) < 0.15
    assert (np.abs(disparity_error_px) > 1.0).mean() < 0.12


def test_a_blank_right_image_gives_no_points(extractor):
    image, right, _ = view(20)
    features = extractor.extract(image, camera=street_camera(), right=np.zeros_like(right))
    assert np.isnan(features.points_m).all()


def test_depth_without_intrinsics_is_left_aside(extractor):
    image, right, depth_m = view(20)
    features = extractor.extract(image, depth_m=depth_m, right=right)
    assert features.points_m is None


@pytest.mark.parametrize(
    ("image", "extra", "said"),
    [
        (np.zeros((48, 64), dtype=np.uint16), {}, "uint16"),
        (np.zeros((48, 64, 4), dtype=np.uint8), {}, "(48, 64, 4)"),
        (np.zeros((0, 64), dtype=np.uint8), {}, "(0, 64)"),
        (None, {}, "NoneType"),
        (np.zeros((48, 64), dtype=np.uint8), {"mask": np.zeros((10, 10), dtype=np.uint8)}, "(10, 10)"),
        (np.zeros((480, 640), dtype=np.uint8), {"depth_m": np.ones((240, 320), dtype=np.float32)}, "(240, 320)"),
        (np.zeros((480, 640), dtype=np.uint8), {"right": np.zeros((240, 320), dtype=np.uint8)}, "320x240"),
        (np.zeros((640, 480), dtype=np.uint8), {"depth_m": np.ones((640, 480), dtype=np.float32)}, "calibrated"),
    ],
)
def test_bad_input_is_named(extractor, image, extra, said):
    with pytest.raises(InputError, match=re.escape(said)):
        extractor.extract(image, camera=street_camera(), **extra)
