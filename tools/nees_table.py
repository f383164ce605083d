"""Is what we say of our errors true? Closures, odometry and optimised trajectories of rendered worlds against truth.

    python -m tools.nees_table --seeds 100 101 102 --mode depth      # or stereo, mono
    python -m tools.nees_table --seeds 100 --maps DIR                # keep the maps, and take them from there again

NEES is the squared error weighed by the stated covariance; divided by its degrees of freedom it is 1 on average where
the covariance is true, more where errors are larger than stated.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gtsam
import numpy as np

from progeo_edge.config import Config, load_config
from progeo_edge.consistency import Drives
from progeo_edge.constraints import Constraint, closure_constraint, odometry_constraints
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import FloatArray, invert, se3_log
from progeo_edge.map_store import MapStore
from progeo_edge.pose_graph import optimise, trajectory_error
from progeo_edge.types import LoopClosure, PoseKind, Transform
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

MODES = ("depth", "stereo", "mono")
INLIER = {3: 16.27, 6: 22.46}
_ROTATION_FIRST = np.array([3, 4, 5, 0, 1, 2])


@dataclass
class Drive:
    """A finished run: what odometry said, what was true, and the closures."""

    odometry: dict[int, Transform]
    truth: dict[int, Transform]
    closures: list[LoopClosure]
    drives: Drives


def main() -> None:
    """Print one line per world and the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103])
    parser.add_argument("--mode", choices=MODES, default="depth")
    parser.add_argument("--maps", type=Path, help="folder in which the maps are kept")
    arguments = parser.parse_args()
    config = load_config(overrides=["budget.deadline_ms=0", "store.thumbnails=false"])
    columns = ("seed", "closures", "false", "closure NEES", "rotation NEES", "odometry NEES", "trajectory NEES")
    print("| " + " | ".join((*columns, "ATE before m", "ATE after m")) + " |\n|" + "---:|" * 9)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.maps or Path(scratch)
        for seed in arguments.seeds:
            rows.append(judge(go(seed, arguments.mode, folder, config), config))
            _print_row(str(seed), rows[-1])
    _print_row("median", np.nanmedian(np.array(rows), axis=0))


def _print_row(name: str, row: Sequence[float] | FloatArray) -> None:
    print(
        f"| {name} | {row[0]:.0f} | {row[1]:.0f} | " + " | ".join(f"{value:.2f}" for value in row[2:]) + " |",
        flush=True,
    )


def go(seed: int, mode: str, folder: Path, config: Config) -> Drive:
    """Drive a world, or read the map of the drive."""
    path = folder / f"{mode}-{seed}.progeo"
    world = StreetWorld(seed)
    steps = simulate_drive(world, seed, frame_rate_hz=2.5)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        camera = forward_camera(320, 240, baseline_m=0.12 if mode == "stereo" else None)
        source = WorldSource(world, steps, camera, depth=mode == "depth", stereo=mode == "stereo")
        encoder = load_encoder("vlad")
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with MapStore.create(partial, encoder.spec) as store:
            detector = LoopDetector(encoder, store, camera, config)
            for frame in source:
                detector.process(frame)
        partial.rename(path)
    truth_at = {step.stamp_ns: step.T_world_base for step in steps}
    with MapStore.open(path, read_only=True) as store:
        infos, closures = store.infos(), store.closures()
    odometry = {info.id: info.T_odom_base for info in infos if info.T_odom_base is not None}
    truth = {info.id: truth_at[info.stamp_ns] for info in infos}
    return Drive(odometry, truth, closures, Drives(config.odometry, infos))


def judge(drive: Drive, config: Config) -> list[float]:
    """The figures of one row, without the seed."""
    errors = [(closure, closure_error(closure, drive.truth)) for closure in drive.closures]
    metric, turned = [], []
    for closure, error in errors:
        v = closure.verification
        if v is None or v.covariance is None:
            continue
        turned.append(nees(error[3:], v.covariance[3:, 3:]))
        if v.pose_kind is PoseKind.METRIC:
            metric.append(nees(error, v.covariance))
    result = optimise(drive.odometry, drive.closures, config.odometry)
    before, after = trajectory_error(drive.odometry, drive.truth), trajectory_error(result, drive.truth)
    return [
        len(drive.closures),
        sum(is_far(closure, drive.truth) for closure in drive.closures),
        float(np.mean(metric)) if metric else float("nan"),
        float(np.mean(turned)) if turned else float("nan"),
        float(np.mean(list(odometry_nees(drive)))),
        float(np.mean(trajectory_nees(drive, result, config))),
        before.rmse_m,
        after.rmse_m,
    ]


def nees(error: FloatArray, covariance: FloatArray) -> float:
    """Per degree of freedom."""
    return float(error @ np.linalg.solve(covariance, error)) / len(error)


def closure_error(closure: LoopClosure, truth: Mapping[int, Transform]) -> FloatArray:
    """(6,) twist from the closure's pose to the truth; its translation means nothing without metres."""
    if closure.verification is None or closure.verification.T_reference_query is None:
        return np.full(6, np.nan)
    T_true = invert(truth[closure.reference_id]) @ truth[closure.query_id]
    return se3_log(invert(closure.verification.T_reference_query) @ T_true)


def is_far(closure: LoopClosure, truth: Mapping[int, Transform]) -> bool:
    """No two views of one place."""
    return float(np.linalg.norm((truth[closure.reference_id] - truth[closure.query_id])[:3, 3])) > 10.0


def odometry_nees(drive: Drive) -> Iterator[float]:
    """Of the odometry between the ends of every closure, by the stated drift model."""
    path = drive.drives.of(0)
    floor = np.diag([0.005**2] * 3 + [np.radians(0.2) ** 2] * 3)
    for closure in drive.closures:
        between = path.between(closure.reference_id, closure.query_id)
        if between is not None:
            T_true = invert(drive.truth[closure.reference_id]) @ drive.truth[closure.query_id]
            yield nees(se3_log(invert(between[0]) @ T_true), between[1] + floor)


def trajectory_nees(drive: Drive, result: Mapping[int, Transform], config: Config) -> list[float]:
    """Of every keyframe against the first, by the marginals of the graph without the closures that were left out."""
    odometry = odometry_constraints(drive.odometry, config.odometry)
    measured = [c for c in map(closure_constraint, drive.closures) if c is not None]
    first = min(result)
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for keyframe_id, T in result.items():
        values.insert(keyframe_id, gtsam.Pose3(T))
    graph.add(gtsam.PriorFactorPose3(first, gtsam.Pose3(result[first]), gtsam.noiseModel.Isotropic.Sigma(6, 1e-6)))
    for constraint in (*odometry, *(c for c in measured if _is_inlier(c, result))):
        noise = gtsam.noiseModel.Gaussian.Covariance(_rotation_first(constraint.covariance))
        pose = gtsam.Pose3(constraint.T_first_second)
        graph.add(gtsam.BetweenFactorPose3(constraint.first_id, constraint.second_id, pose, noise))
    marginals = gtsam.Marginals(graph, values)
    found = []
    for keyframe_id in sorted(result)[1::5]:
        covariance = _rotation_first(marginals.marginalCovariance(keyframe_id))
        T_true = result[first] @ invert(drive.truth[first]) @ drive.truth[keyframe_id]
        found.append(nees(se3_log(invert(result[keyframe_id]) @ T_true), covariance))
    return found


def _is_inlier(constraint: Constraint, poses: Mapping[int, Transform]) -> bool:
    T = invert(poses[constraint.first_id]) @ poses[constraint.second_id]
    return 6 * nees(se3_log(invert(constraint.T_first_second) @ T), constraint.covariance) < INLIER[6]


def _rotation_first(covariance: FloatArray) -> FloatArray:
    """Swap translation and rotation, either way."""
    return np.asarray(covariance[np.ix_(_ROTATION_FIRST, _ROTATION_FIRST)])


if __name__ == "__main__":
    main()
