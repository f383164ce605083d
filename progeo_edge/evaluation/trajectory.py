"""Trajectory error of a run against true poses, without and with its closures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import OdometryConfig, load_config
from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.true_poses import TruePoses
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.outputs import write_tum
from progeo_edge.pose_graph import align, has_solver, solve
from progeo_edge.types import LoopClosure, Transform

RPE_M = 10.0
TUM_NAMES = ("odometry.tum", "closures.tum", "truth.tum")


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """Figures of one kind of error over a trajectory."""

    rmse: float
    mean: float
    median: float
    max: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"rmse": self.rmse, "mean": self.mean, "median": self.median, "max": self.max}


@dataclass(frozen=True, slots=True, eq=False)
class JudgedTrajectory:
    """One estimate of a trajectory against the truth.

    Attributes:
        ate_m: Absolute trajectory error of positions after rigid alignment (Sturm et al., IROS 2012).
        ate_deg: And of orientations.
        rpe_step_m: Relative pose error from one keyframe to the next, translation.
        rpe_step_deg: Rotation.
        rpe_m: Relative pose error over `rpe_distance_m` of the true path; None where the drive is shorter.
        rpe_deg: Rotation.
        rpe_distance_m: That distance.
        positions: (N, 3) positions in the frame of the truth, for plots.
        errors_m: (N,) distance of each to the truth.
    """

    ate_m: ErrorFigures
    ate_deg: ErrorFigures
    rpe_step_m: ErrorFigures | None
    rpe_step_deg: ErrorFigures | None
    rpe_m: ErrorFigures | None
    rpe_deg: ErrorFigures | None
    rpe_distance_m: float
    positions: NDArray[np.float64]
    errors_m: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("ate_m", "ate_deg", "rpe_step_m", "rpe_step_deg", "rpe_m", "rpe_deg")
        figures = {name: getattr(self, name) for name in names}
        record = {name: None if value is None else value.to_dict() for name, value in figures.items()}
        return record | {"rpe_distance_m": self.rpe_distance_m}


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryResult:
    """A run's trajectory judged.

    Attributes:
        odometry: As the run was given it.
        with_closures: After optimisation; None without GTSAM, or without a closure that has a pose.
        num_keyframes: Keyframes that have odometry and a true pose.
        num_closures: Closures that were given to the optimisation.
        left_out: Of them, those that contradict the rest, as (query, reference) names.
        truth: (N, 3) true positions.
        estimates: By name of `TUM_NAMES`, T_world_base by keyframe id.
        stamps_ns: By keyframe id.
    """

    odometry: JudgedTrajectory
    with_closures: JudgedTrajectory | None
    num_keyframes: int
    num_closures: int
    left_out: tuple[tuple[str, str], ...]
    truth: NDArray[np.float64]
    estimates: Mapping[str, Mapping[int, Transform]]
    stamps_ns: Mapping[int, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_keyframes": self.num_keyframes,
            "num_closures": self.num_closures,
            "left_out": [list(pair) for pair in self.left_out],
            "odometry": self.odometry.to_dict(),
            "with_closures": None if self.with_closures is None else self.with_closures.to_dict(),
        }


def judge_trajectory(run: Path, truth: TruePoses, rpe_distance_m: float = RPE_M) -> TrajectoryResult:
    """Judge the last session of a run's map, before and after optimisation with all closures of the map.

    Args:
        run: Folder that `progeo-run` wrote.
        truth: True poses of the base, or of any frame that is fixed to it where the estimate is of that frame too.
        rpe_distance_m: Of the relative pose error.

    Raises:
        SourceError: no map in the folder, no odometry, or no keyframe with a true pose.
        MapError: the map cannot be read.
    """
    path = run / "map.progeo"
    if not path.is_file():
        raise SourceError(f"{run} holds no map.progeo; give the --out folder of progeo-run")
    with MapStore.open(path, read_only=True) as store:
        infos, closures = store.infos(), store.closures()
    odometry = {info.id: info.T_odom_base for info in infos if info.T_odom_base is not None}
    if not odometry:
        raise SourceError(f"{path} holds no odometry; a trajectory needs a source with poses")
    last = max(info.session for info in infos if info.id in odometry)
    judged = {info.id: info for info in infos if info.session == last and info.id in odometry}
    names = {info.id: info.name or str(info.stamp_ns) for info in infos}
    by_name = truth.of({names[i]: info.stamp_ns for i, info in judged.items()})
    true = {i: by_name[names[i]] for i in judged if names[i] in by_name}
    if len(true) < 2:
        raise SourceError(
            f"{len(true)} of {len(judged)} keyframes of {run} have a pose in {truth.path}; expected at least 2 with "
            "the same clock, or the same image names"
        )
    before = {i: odometry[i] for i in judged}
    usable = _with_pose(closures, odometry)
    solution = None
    if usable and has_solver():
        config = run / "config.yaml"
        drift = load_config(config).odometry if config.is_file() else OdometryConfig()
        solution = solve(odometry, usable, drift, {info.id: info.session for info in infos})
    after = None if solution is None else {i: solution.poses[i] for i in judged}
    left_out = () if solution is None else solution.left_out
    return TrajectoryResult(
        odometry=judge_poses(before, true, rpe_distance_m),
        with_closures=None if after is None else judge_poses(after, true, rpe_distance_m),
        num_keyframes=len(true),
        num_closures=len(usable),
        left_out=tuple((names[c.query_id], names[c.reference_id]) for c in left_out),
        truth=np.stack([true[i][:3, 3] for i in sorted(true)]),
        estimates=dict(zip(TUM_NAMES, (before, after or {}, true), strict=True)),
        stamps_ns={i: info.stamp_ns for i, info in judged.items()},
    )


def judge_poses(
    estimate: Mapping[int, Transform], truth: Mapping[int, Transform], rpe_distance_m: float = RPE_M
) -> JudgedTrajectory:
    """Absolute and relative errors of the poses that both know, in the order of their ids.

    Raises:
        InputError: no pose in common, or a distance that is not positive.
    """
    if not rpe_distance_m > 0:
        raise InputError(f"a relative pose error over {rpe_distance_m} m has no meaning; give a positive distance")
    _, aligned, true = align(estimate, truth)
    errors_m = np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1)
    angles_deg = np.array([_angle_deg(a, t) for a, t in zip(aligned, true, strict=True)])
    steps = [(i, i + 1) for i in range(len(true) - 1)]
    step_m, step_deg = _relative_errors(aligned, true, steps)
    rpe_m, rpe_deg = _relative_errors(aligned, true, _pairs_apart(true, rpe_distance_m))
    return JudgedTrajectory(
        ate_m=_figures(errors_m),
        ate_deg=_figures(angles_deg),
        rpe_step_m=step_m,
        rpe_step_deg=step_deg,
        rpe_m=rpe_m,
        rpe_deg=rpe_deg,
        rpe_distance_m=rpe_distance_m,
        positions=aligned[:, :3, 3],
        errors_m=errors_m,
    )


def write_trajectories(result: TrajectoryResult, folder: Path) -> list[Path]:
    """Write odometry.tum, closures.tum and truth.tum, as evo and others read them; those that there are.

    Raises:
        SourceError: the folder cannot be written.
    """
    written = []
    for name, poses in result.estimates.items():
        if not poses:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_tum(folder / name, poses, result.stamps_ns)
        except OSError as error:
            raise SourceError(f"{folder} cannot be written: {error}; choose another --tum") from error
        written.append(folder / name)
    return written


def _with_pose(closures: list[LoopClosure], odometry: Mapping[int, Transform]) -> list[LoopClosure]:
    return [
        c
        for c in closures
        if c.verification is not None
        and c.verification.T_reference_query is not None
        and c.query_id in odometry
        and c.reference_id in odometry
    ]


def _relative_errors(
    estimate: NDArray[np.float64], truth: NDArray[np.float64], pairs: list[tuple[int, int]]
) -> tuple[ErrorFigures | None, ErrorFigures | None]:
    """Of the motion between each pair of poses: translation in metres and rotation in degrees."""
    if not pairs:
        return None, None
    errors = []
    for i, j in pairs:
        T_error = invert(invert(truth[i]) @ truth[j]) @ (invert(estimate[i]) @ estimate[j])
        errors.append((np.linalg.norm(T_error[:3, 3]), np.degrees(rotation_angle(T_error[:3, :3]))))
    metres, degrees = np.array(errors).T
    return _figures(metres), _figures(degrees)


def _pairs_apart(truth: NDArray[np.float64], distance_m: float) -> list[tuple[int, int]]:
    """From every pose to the first one that lies at least this far along the true path."""
    steps = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)
    travelled_m = np.concatenate([[0.0], np.cumsum(steps)])
    ends = np.searchsorted(travelled_m, travelled_m + distance_m)
    return [(i, int(j)) for i, j in enumerate(ends) if j < len(truth)]


def _angle_deg(a: Transform, b: Transform) -> float:
    return float(np.degrees(rotation_angle(a[:3, :3].T @ b[:3, :3])))


def _figures(errors: NDArray[np.float64]) -> ErrorFigures:
    return ErrorFigures(
        rmse=float(np.sqrt(np.mean(errors**2))),
        mean=float(errors.mean()),
        median=float(np.median(errors)),
        max=float(errors.max()),
    )
