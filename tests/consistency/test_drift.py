"""Path length, and the drift along the way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.config import OdometryConfig
from progeo_edge.consistency import DrivenPath
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import invert, make_transform, rotation_exp, se3_exp, se3_log
from tests.consistency.drives import I4, at, driven, round_the_block

CONFIG = OdometryConfig()


def drift_over(poses: list[np.ndarray]) -> np.ndarray:
    prediction = driven(poses[:-1]).predict(0, poses[-1])
    assert prediction is not None
    return prediction.covariance


def test_path_adds_up_along_the_way():
    path = driven([at(0), at(3), at(3, 4)])
    assert path.at(2) == pytest.approx(7)
    assert path.to(at(3, 5)) == pytest.approx(8)
    assert path.at(99) is None


def test_the_jitter_of_a_robot_that_stands_is_no_way():
    random = np.random.default_rng(0)
    path = driven([at(*(0.02 * random.standard_normal(2))) for _ in range(2000)])
    last = path.at(1999)
    assert last is not None
    assert last < 0.5


def test_path_without_odometry_is_unknown():
    path = DrivenPath(CONFIG)
    path.add(0, None)
    assert path.at(0) is None
    assert path.to(None) is None
    assert path.to(at(5)) == 0.0
    assert path.predict(0, at(5)) is None
    assert path.between(0, 1) is None


def test_the_covariance_is_that_of_simulated_drives():
    poses = round_the_block()
    random = np.random.default_rng(1)
    steps = [invert(a) @ b for a, b in itertools.pairwise(poses)]
    roots = [np.linalg.cholesky(step_covariance(step, CONFIG)) for step in steps]
    errors = []
    for _ in range(1500):
        pose = I4
        for step, root in zip(steps, roots, strict=True):
            pose = pose @ step @ se3_exp(root @ random.standard_normal(6))
        errors.append(se3_log(invert(poses[-1]) @ pose))
    floor = np.diag([CONFIG.floor_m**2] * 3 + [np.radians(CONFIG.floor_deg) ** 2] * 3)
    simulated = np.sqrt(np.diag(np.cov(np.array(errors).T) + floor))
    np.testing.assert_allclose(np.sqrt(np.diag(drift_over(poses))), simulated, rtol=0.1)


def test_the_way_between_two_keyframes_is_the_same_from_both_ends():
    path = driven(round_the_block())
    there, back = path.between(3, 40), path.between(40, 3)
    assert there is not None
    assert back is not None
    np.testing.assert_allclose(there[0] @ back[0], I4, atol=1e-9)
    # One covariance seen from either end: moved by the adjoint of the way between them.
    random = np.random.default_rng(2)
    errors = random.multivariate_normal(np.zeros(6), there[1], 20000) * 0.01
    turned = [se3_log(invert(back[0]) @ invert(there[0] @ se3_exp(e))) for e in errors[:4000]]
    np.testing.assert_allclose(
        np.sqrt(np.diag(np.cov(np.array(turned).T))), 0.01 * np.sqrt(np.diag(back[1])), rtol=0.06
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(-3, 3), st.floats(-3, 3))
def test_nothing_depends_on_where_odometry_began(x, y, yaw, roll):
    moved_by = make_transform(rotation_exp([roll, 0, 0]) @ rotation_exp([0, 0, yaw]), [x, y, 3.0])
    poses = round_the_block()
    here = driven(poses[:-1]).predict(0, poses[-1])
    there = driven([moved_by @ pose for pose in poses[:-1]]).predict(0, moved_by @ poses[-1])
    assert here is not None
    assert there is not None
    np.testing.assert_allclose(there.T_reference_query, here.T_reference_query, atol=1e-6)
    np.testing.assert_allclose(there.covariance, here.covariance, rtol=1e-6, atol=1e-8)
    assert here.up is not None
    assert there.up is not None
    np.testing.assert_allclose(there.up, here.up, atol=1e-6)
    assert there.height_std_m == pytest.approx(here.height_std_m, abs=1e-6)


def test_a_level_drive_that_turned_knows_its_vertical():
    poses = round_the_block()
    prediction = driven(poses[:-1]).predict(0, poses[-1])
    assert prediction is not None
    assert prediction.up is not None
    np.testing.assert_allclose(prediction.up, [0, 0, 1], atol=1e-9)
    assert prediction.height_std_m == pytest.approx(np.hypot(CONFIG.floor_m, 0.005), rel=1e-6)


def test_a_tilt_seen_makes_the_height_uncertain_and_a_large_one_unknown():
    def tilted(deg: float) -> list[np.ndarray]:
        wobble = [make_transform(rotation_exp([np.radians(deg) * (-1) ** i, 0, 0]), np.zeros(3)) for i in range(81)]
        return [pose @ tilt for pose, tilt in zip(round_the_block(), wobble, strict=True)]

    little, much = tilted(2.0), tilted(5.0)
    prediction = driven(little[:-1]).predict(0, little[-1])
    assert prediction is not None
    assert prediction.height_std_m == pytest.approx(np.hypot(np.radians(2.0) * 80 / np.sqrt(12), 0.1), rel=0.02)
    prediction = driven(much[:-1]).predict(0, much[-1])
    assert prediction is not None
    assert prediction.up is None


def test_a_straight_drive_does_not_know_its_vertical_unless_it_is_told():
    poses = [at(float(i)) for i in range(30)]
    prediction = driven(poses[:-1]).predict(0, poses[-1])
    assert prediction is not None
    assert prediction.up is None
    told = driven(poses[:-1], OdometryConfig(gravity_aligned=True)).predict(0, poses[-1])
    assert told is not None
    assert told.up is not None
    off = driven(round_the_block(), OdometryConfig(heights=False)).predict(0, I4)
    assert off is not None
    assert off.up is None
