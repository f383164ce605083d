from __future__ import annotations

import logging
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import closure_constraint, odometry_constraints, step_covariance
from progeo_edge.errors import ConfigError, InputError
from progeo_edge.geometry import invert, make_transform, rotation_angle, rotation_exp, se3_exp, se3_log
from progeo_edge.pose_graph import has_solver, optimise, solve, trajectory_error
from progeo_edge.types import LoopClosure, PoseKind, Status, Transform, Verification

CONFIG = OdometryConfig()
needs_solver = pytest.mark.skipif(not has_solver(), reason="GTSAM, of the extra 'graph', is not installed")
SIGMAS = np.array([0.05] * 3 + [np.radians(0.5)] * 3)
ANYWHERE = make_transform(rotation_exp([0.3, -0.2, 1.0]), [100.0, -50.0, 7.0])


def square_laps(laps: int = 2, side_m: float = 20.0, step_m: float = 1.0) -> dict[int, Transform]:
    """Poses of a robot that drives round a square, turning on the spot in steps of 30 degrees."""
    poses = [np.eye(4)]
    for _ in range(4 * laps):
        poses += [poses[-1] @ make_transform(np.eye(3), [step_m * i, 0, 0]) for i in range(1, int(side_m / step_m) + 1)]
        poses += [poses[-1] @ make_transform(rotation_exp([0, 0, np.pi / 6 * i]), [0, 0, 0]) for i in range(1, 4)]
    return dict(enumerate(poses))


def drifted(truth: dict[int, Transform], seed: int = 0, bias_deg_per_m: float = 0.1) -> dict[int, Transform]:
    """Odometry with a heading bias, a wrong wheel radius and noise, in a frame of its own."""
    rng = np.random.default_rng(seed)
    ids = sorted(truth)
    poses = {ids[0]: ANYWHERE}
    for a, b in pairwise(ids):
        step = invert(truth[a]) @ truth[b]
        distance_m = float(np.linalg.norm(step[:3, 3]))
        step[:3, 3] *= 1.02
        error = np.r_[rng.normal(0, 0.01, 3), rng.normal(0, 0.0005, 3)]
        error[5] += np.radians(bias_deg_per_m) * distance_m
        poses[b] = poses[a] @ step @ se3_exp(error)
    return poses


def closure_between(
    truth: dict[int, Transform],
    reference: int,
    query: int,
    rng: np.random.Generator,
    kind: PoseKind = PoseKind.METRIC,
    T: Transform | None = None,
) -> LoopClosure:
    T_reference_query = invert(truth[reference]) @ truth[query] @ se3_exp(SIGMAS * rng.standard_normal(6))
    covariance = np.diag(SIGMAS**2)
    if kind is PoseKind.UP_TO_SCALE:
        T_reference_query[:3, 3] = [0.0, 1.0, 0.0]
        covariance[:3, :3] = 4.0 * np.eye(3)
    elif kind is PoseKind.ROTATION_ONLY:
        T_reference_query[:3, 3] = 0.0
    verification = Verification(
        Status.ACCEPTED, T_reference_query if T is None else T, None if kind is PoseKind.NONE else covariance, kind
    )
    return LoopClosure(query, reference, 0.9, verification=verification)


def lap_closures(
    truth: dict[int, Transform], every: int = 7, seed: int = 1, kind: PoseKind = PoseKind.METRIC
) -> list[LoopClosure]:
    rng = np.random.default_rng(seed)
    per_lap = (len(truth) - 1) // 2
    return [closure_between(truth, i - per_lap, i, rng, kind) for i in range(per_lap, len(truth), every)]


def wrong_closures(truth: dict[int, Transform], count: int, seed: int = 5) -> list[LoopClosure]:
    """Pairs that are far apart, said to be at the same place."""
    rng = np.random.default_rng(seed)
    result: list[LoopClosure] = []
    while len(result) < count:
        a, b = sorted(rng.integers(len(truth), size=2).tolist())
        if np.linalg.norm(truth[a][:3, 3] - truth[b][:3, 3]) > 10:
            result.append(closure_between(truth, a, b, rng, T=np.eye(4)))
    return result


@needs_solver
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_closures_shrink_the_drift(seed: int) -> None:
    truth = square_laps()
    odometry = drifted(truth, seed, bias_deg_per_m=0.2)
    before = trajectory_error(odometry, truth)
    after = trajectory_error(optimise(odometry, lap_closures(truth, seed=seed + 10), CONFIG), truth)
    assert before.rmse_m > 1.0
    assert after.rmse_m < 0.5 * before.rmse_m
    assert after.rmse_deg < 0.7 * before.rmse_deg


@needs_solver
def test_the_first_pose_stays_and_neighbours_stay_near() -> None:
    truth = square_laps()
    odometry = drifted(truth)
    optimised = optimise(odometry, lap_closures(truth), CONFIG)
    assert optimised.keys() == odometry.keys()
    np.testing.assert_allclose(optimised[0], odometry[0], atol=1e-5)
    for i in range(len(truth) - 1):
        step = invert(invert(odometry[i]) @ odometry[i + 1]) @ invert(optimised[i]) @ optimised[i + 1]
        assert np.linalg.norm(step[:3, 3]) < 0.2


@needs_solver
@pytest.mark.parametrize("count", [1, 10])
def test_wrong_closures_change_nothing(count: int, caplog: Any) -> None:
    truth = square_laps()
    odometry, right = drifted(truth), lap_closures(truth)
    clean = trajectory_error(optimise(odometry, right, CONFIG), truth)
    assert not caplog.records
    spoilt = trajectory_error(optimise(odometry, [*wrong_closures(truth, count), *right], CONFIG), truth)
    assert spoilt.rmse_m < clean.rmse_m + 0.05
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].getMessage().startswith(f"{count} of {count + len(right)} closures")


@needs_solver
def test_a_single_wrong_closure_alone_does_not_bend_the_path() -> None:
    truth = square_laps()
    odometry = drifted(truth)
    optimised = optimise(odometry, wrong_closures(truth, 1), CONFIG)
    before, after = trajectory_error(odometry, truth), trajectory_error(optimised, truth)
    assert after.rmse_m < before.rmse_m + 0.05


@needs_solver
@pytest.mark.parametrize(("kind", "share"), [(PoseKind.UP_TO_SCALE, 0.75), (PoseKind.ROTATION_ONLY, 0.95)])
def test_closures_without_metres_help_by_what_they_know(kind: PoseKind, share: float) -> None:
    truth = square_laps()
    odometry = drifted(truth)
    before = trajectory_error(odometry, truth)
    after = trajectory_error(optimise(odometry, lap_closures(truth, 3, kind=kind), CONFIG), truth)
    assert after.rmse_m < share * before.rmse_m
    assert after.rmse_deg < 0.7 * before.rmse_deg


def test_a_rotation_only_closure_says_nothing_of_the_translation() -> None:
    truth = square_laps()
    closure = closure_between(truth, 0, 40, np.random.default_rng(0), PoseKind.UP_TO_SCALE)
    constraint = closure_constraint(closure)
    assert constraint is not None
    np.testing.assert_array_equal(constraint.T_first_second[:3, 3], 0.0)
    np.testing.assert_array_equal(constraint.covariance[:3, :3], 4.0 * np.eye(3))
    free = closure_constraint(closure_between(truth, 0, 40, np.random.default_rng(0), PoseKind.ROTATION_ONLY))
    assert free is not None
    assert free.covariance[0, 0] == 1e6
    assert closure_constraint(closure_between(truth, 0, 40, np.random.default_rng(0), PoseKind.NONE)) is None
    assert closure_constraint(LoopClosure(1, 0, 0.9)) is None


def two_sessions() -> tuple[dict[int, Transform], dict[int, Transform], dict[int, int]]:
    """Both laps of the same square, each in an odometry frame of its own."""
    truth = square_laps()
    half = (len(truth) - 1) // 2
    sessions = {i: 3 if i <= half else 8 for i in truth}
    odometry = drifted({i: truth[i] for i in truth if i <= half})
    second = drifted({i: truth[i] for i in truth if i > half}, seed=1)
    T_other = make_transform(rotation_exp([0.1, 0.1, -2.0]), [-300.0, 20.0, 1.0])
    return truth, odometry | {i: T_other @ T for i, T in second.items()}, sessions


@needs_solver
@pytest.mark.parametrize("num_wrong", [0, 4])
def test_closures_join_sessions_of_different_frames(num_wrong: int) -> None:
    truth, odometry, sessions = two_sessions()
    closures = wrong_closures(truth, num_wrong) + lap_closures(truth)
    optimised = optimise(odometry, closures, CONFIG, sessions)
    np.testing.assert_allclose(optimised[0], odometry[0], atol=1e-5)
    assert trajectory_error(odometry, truth).rmse_m > 20
    assert trajectory_error(optimised, truth).rmse_m < 1.5


@needs_solver
@settings(max_examples=5, deadline=None)
@given(labels=st.lists(st.integers(0, 10**6), min_size=2, max_size=2, unique=True))
def test_what_sessions_are_called_changes_nothing(labels: list[int]) -> None:
    truth, odometry, sessions = two_sessions()
    closures = [closure_between(truth, 0, max(truth), np.random.default_rng(0))]
    renamed = {i: labels[session == 8] for i, session in sessions.items()}
    first, again = (solve(odometry, closures, CONFIG, names) for names in (sessions, renamed))
    assert first.left_out == again.left_out
    for i, T in first.poses.items():
        np.testing.assert_array_equal(T, again.poses[i])


@needs_solver
def test_closures_left_out_are_named() -> None:
    truth = square_laps()
    wrong, right = wrong_closures(truth, 2), lap_closures(truth)
    solution = solve(drifted(truth), [wrong[0], *right, wrong[1]], CONFIG)
    assert solution.left_out == tuple(wrong)


@needs_solver
def test_sessions_that_nothing_joins_keep_their_own_frames() -> None:
    truth, odometry, sessions = two_sessions()
    rng = np.random.default_rng(0)
    second_start = min(i for i, session in sessions.items() if session == 8)
    inside = closure_between(truth, 0, second_start - 1, rng)
    across = closure_between(truth, 3, second_start + 3, rng, PoseKind.ROTATION_ONLY)
    optimised = optimise(odometry, [inside, across], CONFIG, sessions)
    np.testing.assert_allclose(optimised[0], odometry[0], atol=1e-5)
    for i in range(second_start, len(truth)):
        np.testing.assert_allclose(optimised[i], odometry[i], atol=1e-4)


@needs_solver
def test_a_session_joined_only_by_wrong_closures_is_still_solved() -> None:
    truth, odometry, sessions = two_sessions()
    rng = np.random.default_rng(0)
    queries = sorted(i for i in truth if sessions[i] == 8)[:3]
    wrong = [closure_between(truth, 5 * n, query, rng, T=np.eye(4)) for n, query in enumerate(queries)]
    optimised = optimise(odometry, wrong, CONFIG, sessions)
    assert np.all(np.isfinite(list(optimised.values())))
    first = [i for i in truth if sessions[i] == 3]
    kept = trajectory_error({i: optimised[i] for i in first}, {i: odometry[i] for i in first})
    assert kept.rmse_m < 0.5


def test_without_usable_closures_odometry_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gtsam", None)
    truth = square_laps(1)
    rng = np.random.default_rng(0)
    useless = [
        LoopClosure(40, 0, 0.9),
        closure_between(truth, 0, 40, rng, PoseKind.NONE),
        closure_between(truth | {-1: np.eye(4)}, 0, -1, rng),
        closure_between(truth | {999: np.eye(4)}, 0, 999, rng),
    ]
    for closures in ([], useless):
        optimised = optimise(truth, closures, CONFIG)
        for i in truth:
            np.testing.assert_array_equal(optimised[i], truth[i])
    assert optimise({}, [], CONFIG) == {}


def test_without_gtsam_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gtsam", None)
    truth = square_laps(1)
    with pytest.raises(ConfigError, match=r"progeo-edge\[graph\]"):
        optimise(truth, [closure_between(truth, 0, 40, np.random.default_rng(0))], CONFIG)


def test_bad_poses_and_covariances_are_refused() -> None:
    truth = square_laps(1)
    closure = closure_between(truth, 0, 40, np.random.default_rng(0))
    with pytest.raises(InputError, match="odometry pose of keyframe 3 is not rigid"):
        optimise(truth | {3: np.diag([2.0, 1, 1, 1])}, [closure], CONFIG)
    assert closure.verification is not None
    for covariance in (np.zeros((6, 6)), np.full((6, 6), np.nan), np.eye(5)):
        bad = Verification(Status.ACCEPTED, closure.verification.T_reference_query, covariance, PoseKind.METRIC)
        with pytest.raises(InputError, match="closure 40 -> 0 has no positive definite"):
            optimise(truth, [LoopClosure(40, 0, 0.9, verification=bad)], CONFIG)


def test_odometry_is_weighed_by_the_metres_driven() -> None:
    short, long = (step_covariance(make_transform(np.eye(3), [d, 0, 0]), CONFIG) for d in (1.0, 4.0))
    still = step_covariance(np.eye(4), CONFIG)
    turned = step_covariance(make_transform(rotation_exp([0, 0, 1.0]), [0, 0, 0]), CONFIG)
    np.testing.assert_allclose((long - still), 4 * (short - still))
    assert np.all(np.diag(still) > 0)
    assert turned[5, 5] > still[5, 5]
    # Over the distance on which errors add up, the stated share of the path holds.
    ten_m = np.sqrt(step_covariance(make_transform(np.eye(3), [10.0, 0, 0]), CONFIG)[0, 0])
    assert ten_m == pytest.approx(10 * CONFIG.drift_m_per_m, rel=0.01)


def test_odometry_links_neighbours_of_a_session_only() -> None:
    poses = {i: make_transform(np.eye(3), [i, 0, 0]) for i in (2, 3, 5, 8, 9)}
    pairs = [(c.first_id, c.second_id) for c in odometry_constraints(poses, CONFIG, {2: 0, 3: 0, 5: 1, 8: 0, 9: 1})]
    assert sorted(pairs) == [(2, 3), (3, 8), (5, 9)]
    assert odometry_constraints(poses, CONFIG)[2].T_first_second[0, 3] == 3.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 20))
def test_a_rigidly_moved_trajectory_has_no_error(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth = {i: se3_exp(rng.normal(0, 2, 6)) for i in range(count)}
    moved = {i: ANYWHERE @ T for i, T in truth.items()}
    error = trajectory_error(moved, truth)
    assert error.rmse_m == pytest.approx(0, abs=1e-6)
    assert error.max_m == pytest.approx(0, abs=1e-6)
    assert error.rmse_deg == pytest.approx(0, abs=1e-3)


def test_a_straight_drive_is_aligned_by_its_orientations() -> None:
    truth = {i: make_transform(np.eye(3), [i, 0, 0]) for i in range(10)}
    error = trajectory_error({i: ANYWHERE @ T for i, T in truth.items()}, truth)
    assert error.rmse_deg == pytest.approx(0, abs=1e-3)
    assert error.rmse_m == pytest.approx(0, abs=1e-6)


def test_trajectory_error_is_what_it_says() -> None:
    """A square with corners moved out along the diagonals: no alignment helps, and scale is not fitted."""
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    truth = {i: make_transform(np.eye(3), [x, y, 0]) for i, (x, y) in enumerate(corners)}
    larger = {i: make_transform(np.eye(3), [2 * x, 2 * y, 0]) for i, (x, y) in enumerate(corners)}
    error = trajectory_error(larger | {77: np.eye(4)}, truth)
    assert error.rmse_m == pytest.approx(np.sqrt(2))
    assert error.max_m == pytest.approx(np.sqrt(2))
    tilt = rotation_exp([0, 0, np.radians(6)])
    tilted = {i: T @ make_transform(tilt if i % 2 else tilt.T, [0, 0, 0]) for i, T in truth.items()}
    assert trajectory_error(tilted, truth).rmse_deg == pytest.approx(6, abs=1e-3)
    assert rotation_angle(tilt) == pytest.approx(np.radians(6))
    with pytest.raises(InputError, match="no keyframe in common"):
        trajectory_error({1: np.eye(4)}, {2: np.eye(4)})


@needs_solver
def test_covariances_reach_the_solver_in_its_order() -> None:
    """Two poses, odometry against one closure of a lopsided covariance: the solver against plain least squares."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(4)
    A = rng.standard_normal((6, 6)) * np.array([1.0, 0.1, 0.3, 0.01, 0.1, 0.03])[:, None]
    covariance = 0.01 * (A @ A.T) + np.diag([1e-4, 4e-4, 1e-3, 1e-6, 1e-5, 4e-5])
    odometry = {0: ANYWHERE, 1: ANYWHERE @ se3_exp([2.0, 0.3, 0.1, 0.1, 0.2, 0.5])}
    T_odometry = invert(odometry[0]) @ odometry[1]
    T_closure = T_odometry @ se3_exp([0.02, -0.03, 0.01, 0.004, -0.006, 0.01])
    closure = LoopClosure(1, 0, 0.9, verification=Verification(Status.ACCEPTED, T_closure, covariance, PoseKind.METRIC))
    terms = [(T_odometry, step_covariance(T_odometry, CONFIG)), (T_closure, covariance)]
    whitened = [(T, np.linalg.inv(np.linalg.cholesky(S))) for T, S in terms]

    def residuals(xi: Any) -> Any:
        T = T_odometry @ se3_exp(xi)
        return np.concatenate([W @ se3_log(invert(measured) @ T) for measured, W in whitened])

    expected = T_odometry @ se3_exp(optimize.least_squares(residuals, np.zeros(6), xtol=1e-14, ftol=1e-14).x)
    optimised = optimise(odometry, [closure], CONFIG)
    found = invert(optimised[0]) @ optimised[1]
    assert np.linalg.norm(se3_log(invert(T_odometry) @ expected)) > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_images_of_one_moment_are_tied_rigidly() -> None:
    poses = {0: ANYWHERE, 1: ANYWHERE, 2: ANYWHERE @ make_transform(np.eye(3), [1.0, 0, 0])}
    same, next_moment = odometry_constraints(poses, CONFIG)
    assert np.linalg.eigvalsh(same.covariance).min() > 0
    assert np.sqrt(same.covariance[0, 0]) < 0.001 < np.sqrt(next_moment.covariance[0, 0])
    np.testing.assert_allclose(same.T_first_second, np.eye(4), atol=1e-9)


@needs_solver
def test_a_rig_is_optimised_like_one_camera() -> None:
    """Keyframes 2 i and 2 i + 1 are the images of moment i; the closures are between images of different cameras."""
    truth = square_laps()
    odometry = drifted(truth)
    closures = lap_closures(truth)
    one = optimise(odometry, closures, CONFIG)
    doubled = {2 * i + side: pose for i, pose in odometry.items() for side in range(2)}
    crossed = [replace(c, query_id=2 * c.query_id + 1, reference_id=2 * c.reference_id) for c in closures]
    rig = optimise(doubled, crossed, CONFIG)
    for i, pose in one.items():
        np.testing.assert_allclose(rig[2 * i], pose, atol=2e-3)
        np.testing.assert_allclose(rig[2 * i + 1], rig[2 * i], atol=1e-3)
