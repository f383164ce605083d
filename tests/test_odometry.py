"""Path length and the chi-square test."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.config import OdometryConfig
from progeo_edge.geometry import invert, make_transform, rotation_exp, se3_exp
from progeo_edge.odometry import OdometryCheck, PathLength
from progeo_edge.types import PoseKind, Status, Verification

I4 = np.eye(4)


def at(x: float, y: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    return make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x, y, 0])


def closure(T_reference_query: np.ndarray, kind: PoseKind = PoseKind.METRIC) -> Verification:
    covariance = np.diag([0.05**2] * 3 + [np.radians(0.5) ** 2] * 3)
    return Verification(Status.ACCEPTED, T_reference_query, covariance, kind)


def test_path_adds_up_along_the_way():
    path = PathLength()
    for keyframe_id, (x, y) in enumerate([(0, 0), (3, 0), (3, 4)]):
        path.add(keyframe_id, at(x, y))
    assert path.at(2) == pytest.approx(7)
    assert path.to(at(3, 5)) == pytest.approx(8)
    assert path.at(99) is None


def test_path_without_odometry_is_unknown():
    path = PathLength()
    path.add(0, None)
    assert path.at(0) is None
    assert path.to(None) is None
    assert path.to(at(5)) == 0.0


def test_agreement_is_accepted_and_contradiction_is_not():
    check = OdometryCheck(OdometryConfig())
    reference, query = at(0), at(0.5, 0.2, 5)
    T_true = invert(reference) @ query
    assert check.judge(closure(T_true), reference, query, path_m=50)[0] is Status.ACCEPTED
    status, distance = check.judge(closure(at(30)), reference, query, path_m=50)
    assert status is Status.ODOM_INCONSISTENT
    assert distance**2 > 22.46


def test_a_longer_path_allows_more():
    check = OdometryCheck(OdometryConfig())
    wrong = closure(at(8))
    assert check.judge(wrong, at(0), at(0), path_m=10)[0] is Status.ODOM_INCONSISTENT
    assert check.judge(wrong, at(0), at(0), path_m=300)[0] is Status.ACCEPTED


def test_errors_partly_cancel_on_long_paths():
    check = OdometryCheck(OdometryConfig())
    near, far = check.covariance(I4, 10.0), check.covariance(I4, 1000.0)
    floor = np.radians(1.0)
    assert np.sqrt(far[5, 5]) - floor == pytest.approx(10 * (np.sqrt(near[5, 5]) - floor))
    turned = closure(at(0, yaw_deg=90))
    assert check.judge(turned, at(0), at(0), path_m=270)[0] is Status.ODOM_INCONSISTENT


def test_without_metres_only_the_rotation_is_compared():
    check = OdometryCheck(OdometryConfig())
    assert check.judge(closure(at(30), PoseKind.UP_TO_SCALE), at(0), at(0), path_m=10)[0] is Status.ACCEPTED
    turned = closure(at(0, yaw_deg=60), PoseKind.UP_TO_SCALE)
    assert check.judge(turned, at(0), at(0), path_m=10)[0] is Status.ODOM_INCONSISTENT


def test_the_false_alarm_rate_is_that_of_the_chi_square():
    check = OdometryCheck(OdometryConfig())
    verification = closure(I4)
    assert verification.covariance is not None
    covariance = check.covariance(I4, 40.0) + verification.covariance
    random = np.random.default_rng(0)
    errors = random.multivariate_normal(np.zeros(6), covariance, size=4000)
    refused = [check.judge(closure(se3_exp(e)), I4, I4, path_m=40.0)[0] is Status.ODOM_INCONSISTENT for e in errors]
    assert np.mean(refused) < 0.004


def test_gravity_is_compared_when_it_is_known():
    leaning = closure(make_transform(rotation_exp([np.radians(5), 0, 0]), [0, 0, 0]))
    aligned = OdometryCheck(OdometryConfig(gravity_aligned=True))
    unknown = OdometryCheck(OdometryConfig())
    assert aligned.judge(leaning, I4, I4, path_m=100)[0] is Status.GRAVITY
    assert unknown.judge(leaning, I4, I4, path_m=100)[0] is Status.ACCEPTED
    assert aligned.judge(closure(at(0, yaw_deg=8)), I4, I4, path_m=100)[0] is Status.ACCEPTED


def test_a_verification_without_a_pose_is_a_mistake():
    with pytest.raises(ValueError, match="without a pose"):
        OdometryCheck(OdometryConfig()).judge(Verification(Status.ACCEPTED), I4, I4, path_m=1)
