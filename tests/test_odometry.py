"""Path length, drift along the way, and the chi-square test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import invert, make_transform, rotation_exp, se3_exp, se3_log
from progeo_edge.odometry import DrivenPath, OdometryCheck
from progeo_edge.types import PoseKind, Status, Verification

I4 = np.eye(4)
CONFIG = OdometryConfig()


def at(x: float, y: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    return make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x, y, 0])


def round_the_block(side_m: float = 20.0, step_m: float = 1.0) -> list[np.ndarray]:
    """A square driven once, back to the start."""
    poses = [I4]
    for _ in range(4):
        poses += [poses[-1] @ at(step_m * (i + 1)) for i in range(int(side_m / step_m))]
        poses[-1] = poses[-1] @ at(0, 0, 90)
    return poses


def driven(poses: list[np.ndarray]) -> DrivenPath:
    path = DrivenPath(CONFIG)
    for keyframe_id, pose in enumerate(poses):
        path.add(keyframe_id, pose)
    return path


def drift_over(poses: list[np.ndarray]) -> np.ndarray:
    covariance = driven(poses[:-1]).covariance(0, poses[-1])
    assert covariance is not None
    return covariance


def closure(T_reference_query: np.ndarray, kind: PoseKind = PoseKind.METRIC) -> Verification:
    covariance = np.diag([0.05**2] * 3 + [np.radians(0.5) ** 2] * 3)
    return Verification(Status.ACCEPTED, T_reference_query, covariance, kind)


def test_path_adds_up_along_the_way():
    path = driven([at(0), at(3), at(3, 4)])
    assert path.at(2) == pytest.approx(7)
    assert path.to(at(3, 5)) == pytest.approx(8)
    assert path.at(99) is None


def test_path_without_odometry_is_unknown():
    path = DrivenPath(CONFIG)
    path.add(0, None)
    assert path.at(0) is None
    assert path.to(None) is None
    assert path.to(at(5)) == 0.0
    assert path.covariance(0, at(5)) is None


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


def test_the_covariance_does_not_depend_on_where_odometry_began():
    poses = round_the_block()
    moved = [at(300, -500, 70) @ pose for pose in poses]
    np.testing.assert_allclose(drift_over(moved), drift_over(poses), rtol=1e-6, atol=1e-9)


def test_agreement_is_accepted_and_contradiction_is_not():
    check, poses = OdometryCheck(CONFIG), round_the_block()
    drift = drift_over(poses)
    assert check.judge(closure(at(0.5, 0.2, 5)), poses[0], poses[-1], drift)[0] is Status.ACCEPTED
    status, distance = check.judge(closure(at(30)), poses[0], poses[-1], drift)
    assert status is Status.ODOM_INCONSISTENT
    assert distance**2 > 22.46


def test_a_longer_way_allows_more_but_never_a_wrong_turn():
    check = OdometryCheck(CONFIG)
    once, five_times = round_the_block(), round_the_block()
    for _ in range(4):
        five_times += [five_times[-1] @ pose for pose in round_the_block()[1:]]
    off, turned = closure(at(5)), closure(at(0, yaw_deg=90))
    assert check.judge(off, I4, I4, drift_over(once))[0] is Status.ODOM_INCONSISTENT
    assert check.judge(off, I4, I4, drift_over(five_times))[0] is Status.ACCEPTED
    assert check.judge(turned, I4, I4, drift_over(five_times))[0] is Status.ODOM_INCONSISTENT


def test_without_metres_only_the_rotation_is_compared():
    check, drift = OdometryCheck(CONFIG), drift_over(round_the_block())
    assert check.judge(closure(at(30), PoseKind.UP_TO_SCALE), I4, I4, drift)[0] is Status.ACCEPTED
    turned = closure(at(0, yaw_deg=60), PoseKind.UP_TO_SCALE)
    assert check.judge(turned, I4, I4, drift)[0] is Status.ODOM_INCONSISTENT


def test_the_false_alarm_rate_is_that_of_the_chi_square():
    check, drift = OdometryCheck(CONFIG), drift_over(round_the_block())
    covariance = closure(I4).covariance
    assert covariance is not None
    random = np.random.default_rng(0)
    errors = random.multivariate_normal(np.zeros(6), drift + covariance, size=4000)
    refused = [check.judge(closure(se3_exp(e)), I4, I4, drift)[0] is Status.ODOM_INCONSISTENT for e in errors]
    assert np.mean(refused) < 0.004


def test_gravity_is_compared_when_it_is_known():
    drift = drift_over(round_the_block())
    leaning = closure(make_transform(rotation_exp([np.radians(5), 0, 0]), [0, 0, 0]))
    aligned = OdometryCheck(OdometryConfig(gravity_aligned=True))
    assert aligned.judge(leaning, I4, I4, drift)[0] is Status.GRAVITY
    assert OdometryCheck(CONFIG).judge(leaning, I4, I4, drift)[0] is Status.ACCEPTED
    assert aligned.judge(closure(at(0, yaw_deg=8)), I4, I4, drift)[0] is Status.ACCEPTED


def test_a_verification_without_a_pose_is_a_mistake():
    with pytest.raises(ValueError, match="without a pose"):
        OdometryCheck(CONFIG).judge(Verification(Status.ACCEPTED), I4, I4, np.eye(6))


def test_more_images_of_a_moment_are_no_more_drift():
    """A rig of three cameras repeats every pose three times."""
    poses = round_the_block()[:-1]
    one, rig = driven(poses), driven([pose for pose in poses for _ in range(3)])
    query = poses[-1] @ at(1.0)
    alone, among = one.covariance(0, query), rig.covariance(0, query)
    assert alone is not None
    assert among is not None
    np.testing.assert_allclose(among, alone, rtol=0.01, atol=1e-5)
    assert rig.at(3 * 7 + 2) == one.at(7)
