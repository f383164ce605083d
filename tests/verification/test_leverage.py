"""A pose never rests on one point: a wrong stereo match near the camera cannot hold it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.types import LocalFeatures
from progeo_edge.verification import Verifier, pnp
from tests.verification.scenes import move, nees, pinhole, seen

CAMERA = pinhole()
TRUTH = move(0.3, 0.0, 0.2)
WRONG = TRUTH @ move(0.08, 0.04, 0.0, np.degrees(0.04 / 15), -np.degrees(0.08 / 15), 0.0)
"""Nearly the same picture of a wall 15 m away."""
NEAR_M = np.array([[0.08, -0.03, 0.5]])


def with_a_match(features: LocalFeatures, descriptor: np.ndarray, seen_m: np.ndarray, known: bool) -> LocalFeatures:
    assert features.points_m is not None
    point_m = seen_m if known else np.full((1, 3), np.nan)
    return replace(
        features,
        keypoints_px=np.vstack([features.keypoints_px, CAMERA.project(seen_m)]).astype(np.float32),
        sizes_px=np.append(features.sizes_px, np.float32(31.0)),
        descriptors=np.vstack([features.descriptors, descriptor]),
        points_m=np.vstack([features.points_m, point_m]).astype(np.float32),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_near_point_does_not_hold_a_wrong_pose(seed, monkeypatch):
    """RANSAC gave the pose that the point agrees with, as was seen in rendered stereo."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-8, 8, 160), rng.uniform(-6, 6, 160)
    query, reference = seen(rng, np.column_stack([x, y, 15.0 + 0.02 * x]), TRUTH, CAMERA, CAMERA, points="qr")
    descriptor = rng.integers(0, 256, (1, 32), dtype=np.uint8)
    query = with_a_match(query, descriptor, NEAR_M, known=True)
    reference = with_a_match(reference, descriptor, NEAR_M @ WRONG[:3, :3].T + WRONG[:3, 3], known=False)
    monkeypatch.setattr(pnp, "_one_way", lambda matches, into_query, config: WRONG)
    result = Verifier(VerificationConfig()).verify(query, reference, CAMERA, CAMERA)
    assert nees(result, TRUTH) < 4
