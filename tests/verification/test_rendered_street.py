"""Rendered street views with exact poses: the whole chain from pictures to poses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import Camera, invert
from progeo_edge.types import PoseKind, ScaleSource, Status
from progeo_edge.verification import FeatureExtractor, Verifier
from tests.verification.scenes import (
    base_poses,
    direction_error_deg,
    lens_view,
    move,
    nees,
    pose,
    rotation_error_deg,
    street_camera,
    view,
)

CONFIG = VerificationConfig()
EXTRACTOR, VERIFIER = FeatureExtractor(CONFIG), Verifier(CONFIG)
PLACES = (12, 40, 75, 110)
MOVES = (move(1.0, 0.4, 0.0, 0, 0, 4.0), move(-0.8, -0.5, 0.02, 0.5, 0, -7.0), move(0.3, 0.7, 0.0, 0, 1.0, 2.0))


def both(place, motion, **extra):
    """Features of the query at `place` moved by `motion`, and of the reference at `place`."""
    sides = []
    for image, right, depth_m in (view(place, motion.tobytes()), view(place)):
        given = {"depth_m": depth_m} if "depth" in extra else {"right": right} if "stereo" in extra else {}
        sides.append(EXTRACTOR.extract(image, camera=street_camera(), **given))
    return sides


@pytest.mark.parametrize("source", ["depth", "stereo"])
@pytest.mark.parametrize("place", PLACES)
def test_metric_closures(place, source):
    for motion in MOVES:
        query, reference = both(place, motion, **{source: True})
        result = VERIFIER.verify(query, reference, street_camera(), street_camera())
        assert result.status is Status.ACCEPTED and result.pose_kind is PoseKind.METRIC
        assert result.scale_source is ScaleSource[source.upper()]
        assert rotation_error_deg(pose(result), motion) < 1.0
        error_m = np.linalg.norm(pose(result)[:3, 3] - motion[:3, 3])
        assert error_m < (0.05 if source == "depth" else 0.15) * np.linalg.norm(motion[:3, 3])


def test_scaleless_closures():
    directions, rotations = [], []
    for place in PLACES:
        for motion in MOVES:
            query, reference = both(place, motion)
            result = VERIFIER.verify(query, reference, street_camera(), street_camera())
            assert result.status in (Status.ACCEPTED, Status.DEGENERATE)
            if result.pose_kind is PoseKind.UP_TO_SCALE:
                mounting = street_camera().T_base_camera
                truth = mounting[:3, :3] @ (invert(mounting) @ motion @ mounting)[:3, 3]
                rotations.append(rotation_error_deg(pose(result), motion))
                directions.append(direction_error_deg(pose(result)[:3, 3], truth))
    assert len(directions) >= 6
    assert np.median(rotations) < 0.3 and max(rotations) < 2.0  # one facade seen flat is the worst
    assert np.median(directions) < 5.0


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_other_lenses(model):
    bent = [-0.28, 0.09, 0.001, -0.0005, -0.01] if model == "pinhole" else [0.02, -0.005, 0.001, 0.0]
    focal_px = 420.0 if model == "pinhole" else 280.0
    K = np.array([[focal_px, 0, 319.5], [0, focal_px, 239.5], [0, 0, 1]])
    camera = Camera(model, 640, 480, K, np.array(bent), street_camera().T_base_camera)
    T_world_reference = base_poses()[40]
    motion = MOVES[0]
    (query_image, query_depth), (image, depth) = (lens_view(camera, T_world_reference @ T) for T in (motion, np.eye(4)))
    query = EXTRACTOR.extract(query_image, camera=camera, depth_m=query_depth)
    reference = EXTRACTOR.extract(image, camera=camera, depth_m=depth)
    result = VERIFIER.verify(query, reference, camera, camera)
    assert result.status is Status.ACCEPTED and result.pose_kind is PoseKind.METRIC
    assert rotation_error_deg(pose(result), motion) < 0.5
    np.testing.assert_allclose(pose(result)[:3, 3], motion[:3, 3], atol=0.05)


def test_a_query_of_half_the_size_verifies_against_the_map():
    full_size = view(40, MOVES[0].tobytes())[0]
    query_image = np.asarray(cv2.resize(full_size, (320, 240), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    image, _, depth_m = view(40)
    query = EXTRACTOR.extract(query_image, camera=street_camera())
    reference = EXTRACTOR.extract(image, camera=street_camera(), depth_m=depth_m)
    result = VERIFIER.verify(query, reference, street_camera(), street_camera())
    assert result.status is Status.ACCEPTED and result.pose_kind is PoseKind.METRIC
    np.testing.assert_allclose(pose(result)[:3, 3], MOVES[0][:3, 3], atol=0.1)


@pytest.mark.parametrize("calibrated", [True, False])
def test_views_of_other_streets_are_refused(calibrated):
    here = [EXTRACTOR.extract(view(place)[0]) for place in range(5, 140, 15)]
    there = [EXTRACTOR.extract(view(place, seed=1)[0]) for place in range(5, 140, 15)]
    cameras = (street_camera(), street_camera()) if calibrated else (None, None)
    statuses = [VERIFIER.verify(a, b, *cameras).status for a in here for b in there]
    assert len(statuses) == 81
    assert Status.ACCEPTED not in statuses


def test_covariance_is_consistent_with_the_truth():
    """The acceptance figure: NEES of metric closures between 0.5 and 2 times its expectation."""
    rng = np.random.default_rng(0)
    figures = []
    for place in range(8, 140, 11):
        motion = move(*rng.uniform(-1, 1, 2), 0.0, 0.0, rng.normal(0, 1), rng.normal(0, 5))
        query, reference = both(place, motion, depth=True)
        result = VERIFIER.verify(query, reference, street_camera(), street_camera())
        if result.status is Status.ACCEPTED:
            figures.append(nees(result, motion))
    assert len(figures) >= 10
    assert 0.5 < np.mean(figures) < 2.0
