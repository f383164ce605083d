"""One wrong closure in a graph of right ones: what it does to the map, and which robust kernel notices.

    python examples/wrong_closure.py --out wrong_closure.png

A robot drives through a rendered street world; its odometry drifts. At a few places where it comes back, both pictures
are rendered and verified, which gives true closures with their covariances. Then one more closure is put in that joins
two places which only look alike, as precise as the others. The graph is solved by GTSAM without the wrong closure,
with it and no kernel, with it and each kernel, and by graduated non-convexity, which is what `progeo_edge.pose_graph`
does. Needs the extra `graph`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from progeo_edge.back_ends import gtsam_factor, import_gtsam
from progeo_edge.config import OdometryConfig, VerificationConfig
from progeo_edge.constraints import Constraint, metric_constraint, odometry_constraints
from progeo_edge.errors import ProgeoError
from progeo_edge.geometry import se3_exp
from progeo_edge.pose_graph import Solution, align, solve, trajectory_error
from progeo_edge.types import LoopClosure, PoseKind, ScaleSource, Status, Transform, Verification
from progeo_edge.verification.features import FeatureExtractor
from progeo_edge.verification.verifier import Verifier
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, is_same_place, simulate_drive

CHI2_6_95 = 12.59
"""95 % quantile of the chi-square with 6 degrees of freedom: right closures stay below it 19 times of 20."""
ANCHOR_SIGMA = 1e-6
SOLVERS = ("no kernel", "Huber", "Cauchy", "DCS", "Geman-McClure", "Cauchy, then DCS", "GNC")


@dataclass(frozen=True)
class Outcome:
    """One way to solve the graph.

    Attributes:
        poses: T_world_base by keyframe.
        rmse_m: Absolute trajectory error.
        weight: What the solver left of the wrong closure, 0 to 1; NaN without it.
        rejected: (query, reference) of the closures that are left with less than half.
    """

    poses: Mapping[int, Transform]
    rmse_m: float
    weight: float
    rejected: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Drive:
    """Keyframes of a drive, the truth, and closures measured in pictures."""

    odometry: dict[int, Transform]
    truth: dict[int, Transform]
    closures: list[LoopClosure]
    wrong: LoopClosure


def render_drive(seed: int, num_closures: int = 6) -> Drive:
    """Drive once, and verify rendered pairs of pictures at places that the robot comes back to."""
    world, camera = StreetWorld(seed), forward_camera(320, 240)
    steps = simulate_drive(world, seed, frame_rate_hz=2.5)
    truth = {i: step.T_world_base for i, step in enumerate(steps)}
    odometry = {i: step.T_odom_base for i, step in enumerate(steps)}
    config = VerificationConfig(working_size_px=320, max_features=800)
    extractor, verifier = FeatureExtractor(config), Verifier(config)
    closures: list[LoopClosure] = []
    for query, reference in revisits(truth):
        if closures and query - closures[-1].query_id < len(steps) // (4 * num_closures):
            continue
        pictures = list(WorldSource(world, [steps[reference], steps[query]], camera, depth=True))
        seen, now = (extractor.extract(p.image, camera=camera, depth_m=p.depth_m) for p in pictures)
        verification = verifier.verify(now, seen, camera, camera)
        if verification.status is Status.ACCEPTED and verification.pose_kind is PoseKind.METRIC:
            closures.append(LoopClosure(query, reference, 0.9, verification=verification))
        if len(closures) == num_closures:
            break
    return Drive(odometry, truth, closures, wrong_closure(truth, closures))


def revisits(truth: Mapping[int, Transform]) -> list[tuple[int, int]]:
    """(query, reference) 30 s apart or more, within 1.5 m, looking the same way: the nearest of each query."""
    found = []
    for query, T in truth.items():
        near = [i for i in range(query - 75) if is_same_place(T, truth[i], max_distance_m=1.5, max_angle_deg=10.0)]
        if near:
            found.append((query, min(near, key=lambda i: float(np.linalg.norm(truth[i][:3, 3] - T[:3, 3])))))
    return found


def wrong_closure(truth: Mapping[int, Transform], closures: Sequence[LoopClosure]) -> LoopClosure:
    """Two keyframes far apart, said to be within half a metre, and as sure of it as the right closures."""
    query = closures[len(closures) // 2].query_id
    reference = max(range(query - 75), key=lambda i: float(np.linalg.norm(truth[i][:3, 3] - truth[query][:3, 3])))
    right = closures[0].verification
    assert right is not None
    pose = se3_exp([0.4, 0.1, 0.0, 0.0, 0.0, 0.03])
    verification = Verification(Status.ACCEPTED, pose, right.covariance, PoseKind.METRIC, ScaleSource.DEPTH)
    return LoopClosure(query, reference, 0.9, verification=verification)


def solve_all(drive: Drive, chi2: float = CHI2_6_95) -> dict[str, Outcome]:
    """Every way to solve the graph, by name; "without it" and "odometry" are what to compare with."""
    closures = [*drive.closures, drive.wrong]
    outcomes = {"odometry": _outcome(drive, drive.odometry, {})}
    outcomes["without it"] = _with_kernel(drive, drive.closures, None)
    robust = kernels(chi2)
    for name, kernel in robust.items():
        outcomes[name] = _with_kernel(drive, closures, kernel)
    outcomes["Cauchy, then DCS"] = _with_kernel(drive, closures, robust["DCS"], outcomes["Cauchy"].poses)
    outcomes["GNC"] = _by_gnc(drive, solve(drive.odometry, closures, OdometryConfig()), closures)
    return outcomes


def kernels(chi2: float) -> dict[str, Any]:
    """GTSAM's kernels with their parameters in terms of the chi-square that a right closure stays below."""
    robust = import_gtsam().noiseModel.mEstimator
    return {
        "no kernel": None,
        "Huber": robust.Huber.Create(chi2**0.5),
        "Cauchy": robust.Cauchy.Create(chi2**0.5),
        "DCS": robust.DCS.Create(chi2),
        "Geman-McClure": robust.GemanMcClure.Create(chi2**0.5),
    }


def _with_kernel(
    drive: Drive,
    closures: Sequence[LoopClosure],
    kernel: Any,  # noqa: ANN401
    start: Mapping[int, Transform] | None = None,
) -> Outcome:
    """Levenberg-Marquardt from the odometry, or from `start`; only closures get the kernel, odometry is never wrong."""
    gtsam = import_gtsam()
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for i, T in (start or drive.odometry).items():
        values.insert(i, gtsam.Pose3(T))
    anchor = gtsam.noiseModel.Isotropic.Sigma(6, ANCHOR_SIGMA)
    graph.add(gtsam.PriorFactorPose3(0, gtsam.Pose3(drive.odometry[0]), anchor))
    for step in odometry_constraints(drive.odometry, OdometryConfig()):
        graph.add(gtsam_factor(step))
    said = [constraint for constraint in map(metric_constraint, closures) if constraint is not None]
    for constraint in said:
        graph.add(gtsam_factor(constraint, kernel))
    result = gtsam.LevenbergMarquardtOptimizer(graph, values).optimize()
    poses = {i: np.asarray(result.atPose3(i).matrix()) for i in drive.odometry}
    weight: Callable[[float], float] = (lambda _: 1.0) if kernel is None else kernel.weight
    weights = {(c.second_id, c.first_id): weight(_whitened_norm(c, result)) for c in said}
    return _outcome(drive, poses, weights)


def _whitened_norm(constraint: Constraint, values: Any) -> float:  # noqa: ANN401
    """Root of the residual's chi-square, which is what GTSAM's kernels are asked with."""
    return float(np.sqrt(2.0 * gtsam_factor(constraint).error(values)))


def _by_gnc(drive: Drive, solution: Solution, closures: Sequence[LoopClosure]) -> Outcome:
    left_out = {(c.query_id, c.reference_id) for c in solution.left_out}
    pairs = [(c.query_id, c.reference_id) for c in closures]
    return _outcome(drive, solution.poses, {pair: float(pair not in left_out) for pair in pairs})


def _outcome(drive: Drive, poses: Mapping[int, Transform], weights: Mapping[tuple[int, int], float]) -> Outcome:
    pair = (drive.wrong.query_id, drive.wrong.reference_id)
    rejected = tuple(pair for pair, weight in weights.items() if weight < 0.5)
    rmse_m = trajectory_error(poses, drive.truth).rmse_m
    return Outcome(poses, rmse_m, weights.get(pair, float("nan")), rejected)


def plot(drive: Drive, outcomes: Mapping[str, Outcome], path: Path) -> None:
    """One small map per solver, the wrong closure drawn where it was put in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    shown = [name for name in ("odometry", "without it", *SOLVERS) if name in outcomes]
    panels = np.atleast_1d(figure.subplots(3, 3)).ravel()
    for axes, name in zip(panels, shown, strict=False):
        outcome = outcomes[name]
        _, aligned, true = align(outcome.poses, drive.truth)
        axes.plot(*true[:, :2, 3].T, color="#adb5bd", lw=3)
        axes.plot(*aligned[:, :2, 3].T, color="#0b7285", lw=1)
        if not np.isnan(outcome.weight):
            ends = [aligned[i, :2, 3] for i in (drive.wrong.query_id, drive.wrong.reference_id)]
            style = ":" if outcome.weight < 0.5 else "-"
            axes.plot(*np.transpose(ends), style, color="#c92a2a", lw=1.2)
        axes.set_title(f"{name}: {outcome.rmse_m:.2f} m")
        axes.set_aspect("equal", "datalim")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle("grey: truth; red: the wrong closure, dotted where it was rejected; absolute trajectory error")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("wrong_closure.png"), help="plot")
    parser.add_argument("--seed", type=int, default=101, help="which world")
    arguments = parser.parse_args()
    try:
        drive = render_drive(arguments.seed)
        outcomes = solve_all(drive)
    except ProgeoError as error:
        sys.exit(f"error: {error}")
    pair = f"{drive.wrong.query_id} -> {drive.wrong.reference_id}"
    print(f"{len(drive.closures)} right closures, and the wrong one {pair}")
    for name, outcome in outcomes.items():
        rejected = ", ".join(f"{query} -> {reference}" for query, reference in outcome.rejected) or "nothing"
        weight = "" if np.isnan(outcome.weight) else f", weight left to the wrong one {outcome.weight:.3f}"
        print(f"{name:>14}: {outcome.rmse_m:6.2f} m{weight}, rejected {rejected}")
    plot(drive, outcomes, arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
