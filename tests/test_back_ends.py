"""What the real solvers make of our numbers; each skips where its library has no wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.back_ends import (
    g2o_information,
    gtsam_covariance,
    gtsam_direction_factor,
    gtsam_factor,
    gtsam_noise,
    parent_axes,
    ros_covariance,
    rotation_vector_information,
)
from progeo_edge.config import OdometryConfig, VerificationConfig
from progeo_edge.constraints import Constraint, closure_constraint, odometry_constraints
from progeo_edge.errors import InputError
from progeo_edge.geometry import (
    Camera,
    FloatArray,
    adjoint,
    invert,
    make_transform,
    rotation_exp,
    se3_exp,
    se3_log,
    transform_from_quaternion,
)
from progeo_edge.outputs import write_g2o
from progeo_edge.types import Keyframe, LoopClosure, PoseKind, Status, Transform, Verification
from progeo_edge.verification.features import FeatureExtractor
from progeo_edge.verification.verifier import Verifier
from tests.evaluation.test_judged_trajectory import closures_of, two_laps, write_run
from tests.small_world import camera, two_passes

ROOT = Path(__file__).resolve().parents[1]
COUNT = 12
ANCHOR = 1e-6


def gtsam_or_skip() -> Any:
    return pytest.importorskip("gtsam", reason="GTSAM, of the extra 'graph', has wheels for Python 3.11 on")


# -- a noisy ring, solved here without any of the libraries ----------------------------------------------------------


def correlated_covariance(rng: np.random.Generator) -> FloatArray:
    """Very unequal axes, and translation tied to rotation: whatever is swapped or scaled moves the solution."""
    A = rng.standard_normal((6, 6)) * np.array([0.02, 0.2, 0.05, 0.002, 0.02, 0.008])[:, None]
    return np.asarray(A @ A.T + np.diag([1e-4] * 3 + [1e-6] * 3))


def noisy_ring(seed: int) -> tuple[dict[int, Transform], list[Constraint]]:
    """True poses, and noisy constraints between neighbours and across the ring, drawn from their covariances."""
    rng = np.random.default_rng(seed)
    step = make_transform(rotation_exp([0.05, -0.04, 2 * np.pi / COUNT]), [2.0, 0.0, 0.1])
    truth = {0: np.eye(4)}
    for i in range(1, COUNT):
        truth[i] = truth[i - 1] @ step
    pairs = [(i, i + 1) for i in range(COUNT - 1)] + [(0, COUNT - 1), (1, COUNT - 1), (2, 8), (0, 6)]
    constraints = []
    for first, second in pairs:
        covariance = correlated_covariance(rng)
        noise = se3_exp(rng.multivariate_normal(np.zeros(6), covariance))
        constraints.append(Constraint(first, second, invert(truth[first]) @ truth[second] @ noise, covariance))
    return truth, constraints


def dead_reckoning(constraints: Sequence[Constraint]) -> dict[int, Transform]:
    poses = {0: np.eye(4)}
    for c in constraints[: COUNT - 1]:
        poses[c.second_id] = poses[c.first_id] @ c.T_first_second
    return poses


def chi2(poses: dict[int, Transform], constraints: Sequence[Constraint]) -> float:
    return float(np.sum(_residuals(poses, constraints) ** 2))


def _residuals(poses: dict[int, Transform], constraints: Sequence[Constraint]) -> FloatArray:
    """Whitened: by our covariance, in our order, of a right perturbation."""
    parts = []
    for c in constraints:
        twist = se3_log(invert(c.T_first_second) @ invert(poses[c.first_id]) @ poses[c.second_id])
        parts.append(np.linalg.solve(np.linalg.cholesky(c.covariance), twist))
    return np.concatenate(parts)


def solved_here(constraints: Sequence[Constraint]) -> dict[int, Transform]:
    """Gauss-Newton with numeric derivatives; pose 0 stays where it is."""
    poses = dead_reckoning(constraints)
    for _ in range(8):
        residuals = _residuals(poses, constraints)
        J = np.zeros((len(residuals), 6 * (COUNT - 1)))
        for column in range(J.shape[1]):
            i, axis = 1 + column // 6, column % 6
            moved = poses | {i: poses[i] @ se3_exp(1e-6 * np.eye(6)[axis])}
            J[:, column] = (_residuals(moved, constraints) - residuals) / 1e-6
        step = np.linalg.lstsq(J, -residuals, rcond=None)[0].reshape(-1, 6)
        poses = {0: poses[0]} | {i: poses[i] @ se3_exp(step[i - 1]) for i in range(1, COUNT)}
    return poses


def distance_m_deg(a: dict[int, Transform], b: dict[int, Transform]) -> tuple[float, float]:
    twists = np.array([se3_log(invert(a[i]) @ b[i]) for i in a])
    return float(np.abs(twists[:, :3]).max()), float(np.degrees(np.abs(twists[:, 3:]).max()))


def keyframe(keyframe_id: int, T_odom_base: Transform, session: int = 0) -> Keyframe:
    return Keyframe(keyframe_id, session, keyframe_id, np.array([1.0], np.float32), T_odom_base=T_odom_base)


def closure_of(constraint: Constraint, kind: PoseKind = PoseKind.METRIC) -> LoopClosure:
    verification = Verification(Status.ACCEPTED, constraint.T_first_second, constraint.covariance, kind)
    return LoopClosure(constraint.second_id, constraint.first_id, 0.9, verification=verification)


# -- g2o -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def g2o_python() -> Path:
    """The interpreter that has the real g2o: it needs NumPy 1 and so an environment of its own."""
    python = Path(os.environ.get("PROGEO_G2O_PYTHON", ROOT / ".venv-g2o" / "bin" / "python"))
    reason = "the real g2o is not here (make .venv-g2o; wheels for x86-64 and Python up to 3.11 only)"
    if not python.exists():
        pytest.skip(reason)
    found = subprocess.run([python, "-c", "import g2o"], capture_output=True, check=False, env=_bare_environment())
    if found.returncode:
        pytest.skip(reason)
    return python


def _bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def solved_by_g2o(python: Path, file: Path, *kernel: object) -> tuple[dict[int, Transform], dict[str, Any]]:
    command = [str(python), str(ROOT / "tests" / "g2o_solver.py"), str(file), *map(str, kernel)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_bare_environment(), cwd=file.parent)
    record = json.loads(done.stdout)
    poses = {int(i): transform_from_quaternion(p[:3], p[3:]) for i, p in record["poses"].items()}
    return dict(sorted(poses.items())), record


def write_graph(path: Path, start: dict[int, Transform], constraints: Sequence[Constraint]) -> Path:
    """Only these constraints: every keyframe is a session of its own, so that no odometry is written."""
    keyframes = [keyframe(i, T, session=i) for i, T in start.items()]
    write_g2o(path, keyframes, [closure_of(c) for c in constraints])
    return path


@pytest.mark.parametrize("seed", range(3))
def test_chi2_of_g2o_is_ours(seed: int, tmp_path: Path, g2o_python: Path) -> None:
    rng = np.random.default_rng(seed)
    covariance = correlated_covariance(rng)
    T = se3_exp(rng.normal(0, 1, 6))
    twist = 0.05 * rng.multivariate_normal(np.zeros(6), covariance)
    poses = {0: np.eye(4), 1: T @ se3_exp(twist)}
    file = write_graph(tmp_path / "t.g2o", poses, [Constraint(0, 1, T, covariance)])
    _, record = solved_by_g2o(g2o_python, file)
    assert record["chi2_start"] == [pytest.approx(twist @ np.linalg.solve(covariance, twist), rel=0.01)]


@pytest.mark.parametrize("seed", range(3))
def test_g2o_finds_the_solution_of_our_graph_and_so_the_truth(seed: int, tmp_path: Path, g2o_python: Path) -> None:
    truth, constraints = noisy_ring(seed)
    start = dead_reckoning(constraints)
    found, record = solved_by_g2o(g2o_python, write_graph(tmp_path / "t.g2o", start, constraints))
    expected = solved_here(constraints)
    far_m, far_deg = distance_m_deg(found, expected)
    error_m, error_deg = distance_m_deg(expected, truth)
    # g2o's error is a half angle only to first order, so it agrees to a small part of the noise, not to rounding.
    assert far_m < 0.05 * error_m and far_deg < 0.05 * error_deg, (far_m, far_deg, error_m, error_deg)
    assert sum(record["chi2_end"]) == pytest.approx(chi2(expected, constraints), rel=0.03)
    assert distance_m_deg(start, truth)[0] > error_m


@pytest.mark.parametrize(
    ("kernel", "delta", "cost"),
    [
        ("Huber", np.sqrt(12.59), lambda e: 2 * np.sqrt(12.59 * e) - 12.59),
        ("Cauchy", np.sqrt(12.59), lambda e: 12.59 * np.log1p(e / 12.59)),
        ("DCS", 12.59, lambda e: (2 * 12.59 / (12.59 + e)) ** 2 * e),
    ],
)
def test_kernels_of_g2o_take_chi2_as_documented(
    kernel: str, delta: float, cost: Callable[[float], float], tmp_path: Path, g2o_python: Path
) -> None:
    """docs/backends.md: the root of a chi-square for Huber and Cauchy, the chi-square itself for DCS."""
    poses = {0: np.eye(4), 1: se3_exp([1, 0, 0, 0, 0, 0])}
    file = write_graph(tmp_path / "t.g2o", poses, [Constraint(0, 1, np.eye(4), 0.02 * np.eye(6))])
    _, record = solved_by_g2o(g2o_python, file, kernel, delta)
    assert record["chi2_start"] == [pytest.approx(50.0)]
    assert record["robust_chi2_start"] == pytest.approx(cost(50.0), rel=1e-6)


def test_g2o_with_dcs_rejects_what_g2o_alone_believes(tmp_path: Path, g2o_python: Path) -> None:
    _, constraints = noisy_ring(0)
    wrong = Constraint(3, 9, se3_exp([5, 5, 0, 0, 0, 1.0]), 1e-4 * np.eye(6))
    start = dead_reckoning(constraints)
    file = write_graph(tmp_path / "t.g2o", start, [*constraints, wrong])
    expected = solved_here(constraints)
    plain, _ = solved_by_g2o(g2o_python, file)
    robust, _ = solved_by_g2o(g2o_python, file, "DCS", 12.59, len(constraints))
    assert distance_m_deg(plain, expected)[0] > 10 * distance_m_deg(robust, expected)[0]


# -- GTSAM -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_error_of_gtsam_is_half_of_our_chi2_at_any_size(seed: int) -> None:
    gtsam = gtsam_or_skip()
    rng = np.random.default_rng(seed)
    covariance = correlated_covariance(rng)
    T, twist = se3_exp(rng.normal(0, 0.5, 6)), rng.normal(0, 0.5, 6)
    values = gtsam.Values()
    values.insert(3, gtsam.Pose3(np.eye(4)))
    values.insert(8, gtsam.Pose3(T @ se3_exp(twist)))
    factor = gtsam_factor(Constraint(3, 8, T, covariance))
    expected = twist @ np.linalg.solve(covariance, twist)
    assert 2 * factor.error(values) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(factor.unwhitenedError(values), twist[[3, 4, 5, 0, 1, 2]], atol=1e-9)


def test_retract_of_gtsam_is_our_exponential() -> None:
    """The wheels are built with the full exponential map; a build without it agrees to first order only."""
    gtsam = gtsam_or_skip()
    T, twist = se3_exp([1, 2, 3, 0.4, -0.3, 0.2]), np.array([0.5, -0.2, 0.3, 0.3, 0.5, -0.4])
    moved = gtsam.Pose3(T).retract(twist[[3, 4, 5, 0, 1, 2]]).matrix()
    np.testing.assert_allclose(moved, T @ se3_exp(twist), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_gtsam_finds_the_solution_of_our_graph_and_so_the_truth(seed: int) -> None:
    gtsam = gtsam_or_skip()
    truth, constraints = noisy_ring(seed)
    found, error = solved_by_gtsam(gtsam, dead_reckoning(constraints), [gtsam_factor(c) for c in constraints])
    expected = solved_here(constraints)
    far_m, far_deg = distance_m_deg(found, expected)
    assert far_m < 1e-4 and far_deg < 1e-3
    assert 2 * error == pytest.approx(chi2(expected, constraints), rel=1e-4)
    assert distance_m_deg(expected, truth)[0] < distance_m_deg(dead_reckoning(constraints), truth)[0]


def solved_by_gtsam(gtsam: Any, start: dict[int, Transform], factors: Sequence[Any]) -> tuple[dict[int, Any], float]:
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for i, T in start.items():
        values.insert(i, gtsam.Pose3(T))
    graph.add(gtsam.PriorFactorPose3(0, gtsam.Pose3(start[0]), gtsam.noiseModel.Isotropic.Sigma(6, ANCHOR)))
    for factor in factors:
        graph.add(factor)
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setRelativeErrorTol(1e-12)
    result = gtsam.LevenbergMarquardtOptimizer(graph, values, parameters).optimize()
    return {i: result.atPose3(i).matrix() for i in start}, graph.error(result)


def test_a_robust_factor_weighs_a_contradiction_down() -> None:
    gtsam = gtsam_or_skip()
    _, constraints = noisy_ring(0)
    wrong = Constraint(3, 9, se3_exp([5, 5, 0, 0, 0, 1.0]), 1e-4 * np.eye(6))
    kernel = gtsam.noiseModel.mEstimator.DCS.Create(12.6)
    expected = solved_here(constraints)
    start = dead_reckoning(constraints)
    plain, _ = solved_by_gtsam(gtsam, start, [*map(gtsam_factor, constraints), gtsam_factor(wrong)])
    robust, _ = solved_by_gtsam(gtsam, start, [*map(gtsam_factor, constraints), gtsam_factor(wrong, kernel)])
    assert distance_m_deg(plain, expected)[0] > 20 * distance_m_deg(robust, expected)[0]


def test_kernels_of_gtsam_take_chi2_as_documented() -> None:
    """docs/backends.md: weights at the chi-square c and at 4 c."""
    robust = gtsam_or_skip().noiseModel.mEstimator
    c = 12.59
    for kernel, expected in (
        (robust.Huber.Create(np.sqrt(c)), (1.0, 0.5)),
        (robust.Cauchy.Create(np.sqrt(c)), (0.5, 0.2)),
        (robust.DCS.Create(c), (1.0, 0.16)),
        (robust.GemanMcClure.Create(np.sqrt(c)), (0.25, 0.04)),
    ):
        # GTSAM asks its kernels with the root of the chi-square.
        assert [kernel.weight(np.sqrt(chi2_)) for chi2_ in (c, 4 * c)] == pytest.approx(expected, rel=1e-6)


# -- closures without metres -----------------------------------------------------------------------------------------


def scaleless(constraint: Constraint, T_base_camera: Transform) -> LoopClosure:
    """The same closure as two views without metres tell it: no lever arm, and a direction in the reference's axes."""
    cameras = invert(T_base_camera) @ constraint.T_first_second @ T_base_camera
    direction = T_base_camera[:3, :3] @ cameras[:3, 3]
    pose = make_transform(constraint.T_first_second[:3, :3], direction / np.linalg.norm(direction))
    covariance = constraint.covariance.copy()
    covariance[:3, 3:] = covariance[3:, :3] = 0.0
    covariance[:3, :3] = 4.0 * np.eye(3)
    return closure_of(Constraint(constraint.first_id, constraint.second_id, pose, covariance), PoseKind.UP_TO_SCALE)


MOUNTING = make_transform(rotation_exp([-1.2, 1.1, -1.0]), [0.3, -0.1, 1.2])


def straight_there_and_back() -> tuple[dict[int, Transform], list[Constraint]]:
    """Odometry whose heading drifts: true poses, and constraints between neighbours."""
    truth = {i: make_transform(rotation_exp([0, 0, 0.25 * i]), [i, 0.2 * i * i, 0]) for i in range(COUNT)}
    drift = se3_exp([0.01, 0.02, 0, 0, 0, np.radians(3)])
    covariance = np.diag([0.03**2] * 3 + [np.radians(2) ** 2] * 3)
    steps = [Constraint(i, i + 1, invert(truth[i]) @ truth[i + 1] @ drift, covariance) for i in range(COUNT - 1)]
    return truth, steps


def exact_scaleless(truth: dict[int, Transform]) -> list[LoopClosure]:
    covariance = np.diag([1.0] * 3 + [np.radians(0.2) ** 2] * 3)
    pairs = [(0, i) for i in range(2, COUNT)]
    return [scaleless(Constraint(a, b, invert(truth[a]) @ truth[b], covariance), MOUNTING) for a, b in pairs]


def test_rotation_and_radius_of_a_scaleless_closure_correct_the_heading_in_both_solvers(
    tmp_path: Path, g2o_python: Path
) -> None:
    truth, steps = straight_there_and_back()
    start = dead_reckoning(steps)
    near = [c for c in exact_scaleless(truth) if np.linalg.norm(truth[c.query_id][:3, 3]) < 4.0]
    before_deg = distance_m_deg(start, truth)[1]
    assert before_deg > 20
    said = [c for c in map(closure_constraint, near) if c is not None]
    assert said and all(np.all(c.T_first_second[:3, 3] == 0) for c in said)
    last = max(c.second_id for c in said)
    write_g2o(tmp_path / "t.g2o", [keyframe(i, T) for i, T in start.items()], near, constraint=closure_constraint)
    assert sum(line.startswith("EDGE") for line in (tmp_path / "t.g2o").read_text().splitlines()) == COUNT - 1 + len(
        near
    )
    gtsam = gtsam_or_skip()
    found, _ = solved_by_gtsam(gtsam, start, [gtsam_factor(c) for c in [*steps, *said]])
    angle_deg = distance_m_deg({last: found[last]}, {last: truth[last]})[1]
    assert angle_deg < 0.1 * distance_m_deg({last: start[last]}, {last: truth[last]})[1]
    alike, _ = solved_by_gtsam(gtsam, start, [*map(gtsam_factor, odometry_constraints(start, OdometryConfig()) + said)])
    by_g2o, _ = solved_by_g2o(g2o_python, tmp_path / "t.g2o")
    far_m, far_deg = distance_m_deg(by_g2o, alike)
    assert far_m < 0.05 and far_deg < 0.2, (far_m, far_deg)


def test_directions_recover_what_rotations_cannot() -> None:
    """Odometry that slips sideways with the right heading: only a direction of the translation can tell."""
    gtsam = gtsam_or_skip()
    truth, _ = straight_there_and_back()
    slip = make_transform(np.eye(3), [0.0, 0.15, 0.0])
    covariance = np.diag([0.05, 0.2, 0.05, 0.002, 0.002, 0.002]) ** 2
    steps = [Constraint(i, i + 1, invert(truth[i]) @ truth[i + 1] @ slip, covariance) for i in range(COUNT - 1)]
    start = dead_reckoning(steps)
    mounted = Camera("pinhole", 64, 48, np.eye(3), T_base_camera=MOUNTING)
    closures = exact_scaleless(truth)
    rotations = [c for c in map(closure_constraint, closures) if c is not None]
    loose = [Constraint(c.first_id, c.second_id, c.T_first_second, _free_translation(c.covariance)) for c in rotations]
    turned, _ = solved_by_gtsam(gtsam, start, [gtsam_factor(c) for c in [*steps, *loose]])
    eyes = {100 + i: T @ MOUNTING for i, T in start.items()}
    ties = [gtsam_factor(Constraint(i, 100 + i, MOUNTING, 1e-10 * np.eye(6))) for i in start]
    directions = [
        gtsam_direction_factor(c, mounted, (100 + c.reference_id, 100 + c.query_id), direction_sigma_deg=0.5)
        for c in closures
    ]
    found, _ = solved_by_gtsam(gtsam, start | eyes, [*map(gtsam_factor, steps), *ties, *directions])
    bases = {i: found[i] for i in truth}
    assert distance_m_deg(turned, truth)[0] > 1.0
    assert distance_m_deg(bases, truth)[0] < 0.5 * distance_m_deg(turned, truth)[0]


def test_a_direction_that_the_verifier_found_agrees_with_the_true_cameras() -> None:
    gtsam = gtsam_or_skip()
    frames, truth = two_passes()
    config = VerificationConfig(working_size_px=320, max_features=1000)
    extractor, verifier = FeatureExtractor(config), Verifier(config)
    first, second = (frames[i] for i in (0, 2))
    features = [extractor.extract(frame.image, camera=camera()) for frame in (first, second)]
    verification = verifier.verify(features[1], features[0], camera(), camera())
    assert verification.pose_kind is PoseKind.UP_TO_SCALE
    factor = gtsam_direction_factor(LoopClosure(1, 0, 0.9, verification=verification), camera(), (0, 1))
    values = gtsam.Values()
    for key, frame in enumerate((first, second)):
        values.insert(key, gtsam.Pose3(truth[frame.stamp_ns] @ camera().T_base_camera))
    rotation_and_direction_deg = np.degrees(np.abs(factor.unwhitenedError(values)))
    assert rotation_and_direction_deg.max() < 2.0, rotation_and_direction_deg


def _free_translation(covariance: FloatArray) -> FloatArray:
    free = covariance.copy()
    free[:3, :3] = 1e6 * np.eye(3)
    return np.asarray(free)


def test_a_direction_is_asked_of_scaleless_closures_only() -> None:
    gtsam_or_skip()
    constraint = Constraint(0, 1, se3_exp([1, 0, 0, 0, 0, 0]), np.eye(6))
    with pytest.raises(InputError, match="pose is METRIC; only UP_TO_SCALE has a direction"):
        gtsam_direction_factor(closure_of(constraint), None, (0, 1))
    with pytest.raises(InputError, match="pose is None"):
        gtsam_direction_factor(LoopClosure(1, 0, 0.9), None, (0, 1))


# -- ROS -------------------------------------------------------------------------------------------------------------


def test_ros_covariance_is_that_of_position_and_fixed_axes() -> None:
    """REP 103 and PoseWithCovariance: drawn poses scatter in the header's frame as the 36 numbers say."""
    rng = np.random.default_rng(4)
    covariance = 0.01 * correlated_covariance(rng)
    T = se3_exp([2, -1, 0.5, 0.3, -0.6, 1.8])
    drawn = [T @ se3_exp(xi) for xi in rng.multivariate_normal(np.zeros(6), covariance, size=40_000)]
    positions = np.array([D[:3, 3] - T[:3, 3] for D in drawn])
    turns = np.array([se3_log(make_transform(D[:3, :3] @ T[:3, :3].T, [0, 0, 0]))[3:] for D in drawn])
    seen = np.cov(np.hstack([positions, turns]).T)
    stated = np.array(ros_covariance(T, covariance)).reshape(6, 6)
    scale = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
    np.testing.assert_allclose(seen / scale, stated / scale, atol=0.03)


def test_a_consumer_of_the_ros_covariance_solves_the_same_graph() -> None:
    """What a back end does that reads the message: it turns the axes back and puts a factor between the two poses."""
    gtsam = gtsam_or_skip()
    _, constraints = noisy_ring(2)
    read = []
    for c in constraints:
        numbers = ros_covariance(c.T_first_second, c.covariance)
        assert len(numbers) == 36 and all(type(number) is float for number in numbers)
        turned = parent_axes(invert(c.T_first_second), np.array(numbers).reshape(6, 6))
        read.append(Constraint(c.first_id, c.second_id, c.T_first_second, turned))
    found, _ = solved_by_gtsam(gtsam, dead_reckoning(constraints), [gtsam_factor(c) for c in read])
    assert distance_m_deg(found, solved_here(constraints))[0] < 1e-4


def test_the_code_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gtsam_or_skip()
    truth, odometry = two_laps()
    write_run(tmp_path / "out", odometry, closures_of(truth))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "backends.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/backends.md", "exec"), names)
    assert names["graph"].size() == len(odometry) - 1 + len(names["closures"]) == 59 + 10


# -- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_converter_can_be_undone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covariance = correlated_covariance(rng)
    T = se3_exp(rng.normal(0, 1, 6))
    half = np.diag([1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
    back = np.linalg.inv(half @ g2o_information(covariance) @ half)
    np.testing.assert_allclose(back, covariance, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.inv(rotation_vector_information(covariance)), covariance, rtol=1e-6, atol=1e-12
    )
    np.testing.assert_array_equal(gtsam_covariance(gtsam_covariance(covariance)), covariance)
    undone = parent_axes(invert(T), np.array(ros_covariance(T, covariance)).reshape(6, 6))
    np.testing.assert_allclose(undone, covariance, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_constraint_told_from_the_other_end_weighs_the_same(seed: int) -> None:
    """Relabelled keyframes: T^-1 with the covariance moved by the adjoint is the same factor."""
    gtsam = gtsam_or_skip()
    rng = np.random.default_rng(seed)
    covariance = correlated_covariance(rng)
    T = se3_exp(rng.normal(0, 0.5, 6))
    A = adjoint(T)
    forth = gtsam_factor(Constraint(0, 1, T, covariance))
    back = gtsam_factor(Constraint(1, 0, invert(T), A @ covariance @ A.T))
    values = gtsam.Values()
    values.insert(0, gtsam.Pose3(np.eye(4)))
    values.insert(1, gtsam.Pose3(T @ se3_exp(rng.multivariate_normal(np.zeros(6), covariance))))
    assert forth.error(values) == pytest.approx(back.error(values), rel=1e-6)


def test_gtsam_noise_is_the_covariance_rotation_first() -> None:
    gtsam_or_skip()
    covariance = correlated_covariance(np.random.default_rng(0))
    order = [3, 4, 5, 0, 1, 2]
    np.testing.assert_allclose(gtsam_noise(covariance).covariance(), covariance[np.ix_(order, order)], rtol=1e-9)
