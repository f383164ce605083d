"""A trajectory corrected by its loop closures: pose-graph optimisation with GTSAM, which the extra `graph` installs."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.back_ends import gtsam_factor, import_gtsam
from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import UNKNOWN_M, Constraint, chains, closure_constraint, odometry_constraints
from progeo_edge.errors import InputError
from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_angle
from progeo_edge.truncated_problem import TruncatedProblem
from progeo_edge.types import LoopClosure, Transform

_LOGGER = logging.getLogger(__name__)

_ANCHOR_SIGMA = 1e-6
# Square metres per orientation: too light to matter beside positions, enough to settle what they leave open.
_ORIENTATION_WEIGHT_M2 = 1e-6


def has_solver() -> bool:
    """Whether GTSAM is installed."""
    return importlib.util.find_spec("gtsam") is not None


@dataclass(frozen=True, slots=True)
class Solution:
    """A solved pose graph.

    Attributes:
        poses: T_world_base by keyframe id.
        left_out: The closures that contradict the rest, in their order.
    """

    poses: dict[int, Transform]
    left_out: tuple[LoopClosure, ...] = ()


def optimise(
    odometry_poses: Mapping[int, Transform],
    closures: Sequence[LoopClosure],
    config: OdometryConfig,
    sessions: Mapping[int, int] | None = None,
) -> dict[int, Transform]:
    """The poses of `solve`."""
    return solve(odometry_poses, closures, config, sessions).poses


def solve(
    odometry_poses: Mapping[int, Transform],
    closures: Sequence[LoopClosure],
    config: OdometryConfig,
    sessions: Mapping[int, int] | None = None,
) -> Solution:
    """Poses that agree with the odometry and with those closures that agree with each other.

    Wrong closures are found by graduated non-convexity with truncated least squares (Yang, Antonante, Tzoumas,
    Carlone, RA-L 2020): it starts from a convex problem, so that a right closure is not given up merely because the
    odometry has drifted far, and ends with every closure either kept or left out. Where it leaves some out, a second
    solution from a soft kernel is tried, and the one with the lower truncated cost is taken.

    METRIC closures count in full, UP_TO_SCALE ones by their rotation and the prior revisit radius, ROTATION_ONLY ones
    by their rotation; see `closure_constraint`. Closures without a pose, or of a keyframe without odometry, are left
    out.

    Args:
        odometry_poses: T_odom_base by keyframe id.
        closures: Accepted closures.
        config: The drift model, which says how far odometry may bend.
        sessions: Session of each keyframe; None when all are of one. Odometry frames of sessions have nothing to do
            with each other; closures join them.

    Returns:
        Poses and the closures found wrong. The first keyframe keeps its odometry pose, and so does the first one of
        every group of sessions that no closure joins with an earlier group.

    Raises:
        ConfigError: GTSAM is not installed.
        InputError: a pose that is not rigid.
    """
    odometry = odometry_constraints(odometry_poses, config, sessions)
    usable = _usable_constraints(closures, odometry_poses)
    components = _join(chains(odometry_poses, sessions), odometry_poses, [c for _, c in usable])
    initial = {i: component.T_world_odom[i] @ odometry_poses[i] for component in components for i in component.ids}
    component_of = {i: number for number, component in enumerate(components) for i in component.ids}
    joined = [(closure, c) for closure, c in usable if component_of[c.first_id] == component_of[c.second_id]]
    if not joined:
        return Solution(initial)
    poses, kept = _solve(initial, odometry, [c for _, c in joined], components)
    left_out = tuple(closure for (closure, _), good in zip(joined, kept, strict=True) if not good)
    if left_out:
        _LOGGER.warning("%d of %d closures contradict the rest and were left out", len(left_out), len(joined))
    return Solution(poses, left_out)


# -- what goes into the graph ----------------------------------------------------------------------------------------


def _usable_constraints(
    closures: Sequence[LoopClosure], poses: Mapping[int, Transform]
) -> list[tuple[LoopClosure, Constraint]]:
    result = []
    for closure in closures:
        constraint = closure_constraint(closure)
        if constraint is not None and constraint.first_id in poses and constraint.second_id in poses:
            result.append((closure, constraint))
    if len(result) < len(closures):
        _LOGGER.info("%d of %d closures have no pose or no odometry", len(closures) - len(result), len(closures))
    return result


@dataclass(frozen=True, slots=True)
class _Component:
    """Sessions that closures join: their ids, the first id of each, and each keyframe's odometry frame in the world."""

    ids: list[int]
    starts: list[int]
    T_world_odom: dict[int, Transform]


def _join(
    session_chains: Sequence[list[int]], poses: Mapping[int, Transform], measured: Sequence[Constraint]
) -> list[_Component]:
    """Group chains along closures that know where they are, each laid out by the alignment most closures support."""
    chain_of = {i: number for number, chain in enumerate(session_chains) for i in chain}
    alignments: dict[tuple[int, int], list[Transform]] = {}
    for c in measured:
        a, b = chain_of[c.first_id], chain_of[c.second_id]
        if a == b or c.covariance[0, 0] >= UNKNOWN_M**2:
            continue
        T_odom_a_odom_b = poses[c.first_id] @ c.T_first_second @ invert(poses[c.second_id])
        alignments.setdefault((a, b), []).append(T_odom_a_odom_b)
        alignments.setdefault((b, a), []).append(invert(T_odom_a_odom_b))
    components: list[_Component] = []
    placed: set[int] = set()
    for root in range(len(session_chains)):
        if root in placed:
            continue
        T_world = {root: np.eye(4)}
        queue = [root]
        for here in queue:
            for (a, b), candidates in sorted(alignments.items(), key=lambda item: item[0]):
                if a == here and b not in T_world:
                    T_world[b] = T_world[here] @ _most_supported(candidates)
                    queue.append(b)
        placed |= T_world.keys()
        ids = [i for number in T_world for i in session_chains[number]]
        starts = [session_chains[number][0] for number in T_world]
        components.append(_Component(ids, starts, {i: T_world[chain_of[i]] for i in ids}))
    return components


def _most_supported(alignments: Sequence[Transform]) -> Transform:
    """The one with the smallest median distance to the others, a radian counted as much as ten metres."""
    distances = np.array([[_distance(a, b) for b in alignments] for a in alignments])
    return alignments[int(np.median(distances, axis=1).argmin())]


def _distance(a: Transform, b: Transform) -> float:
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])) + 10.0 * rotation_angle(a[:3, :3].T @ b[:3, :3])


# -- the solver ------------------------------------------------------------------------------------------------------


def _solve(
    initial: Mapping[int, Transform],
    odometry: Sequence[Constraint],
    measured: Sequence[Constraint],
    components: Sequence[_Component],
) -> tuple[dict[int, Transform], NDArray[np.bool_]]:
    """Poses by keyframe id, and which of `measured` were kept."""
    gtsam = import_gtsam()
    trusted, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for keyframe_id, T_world_base in initial.items():
        values.insert(keyframe_id, gtsam.Pose3(T_world_base))
    for component in components:
        for number, start in enumerate(component.starts):
            # Later sessions hang on closures; if all of those turn out wrong, this keeps the system solvable.
            sigma = _ANCHOR_SIGMA if number == 0 else UNKNOWN_M
            noise = gtsam.noiseModel.Isotropic.Sigma(6, sigma)
            trusted.add(gtsam.PriorFactorPose3(start, gtsam.Pose3(initial[start]), noise))
    for constraint in odometry:
        trusted.add(gtsam_factor(constraint))
    problem = TruncatedProblem(gtsam, trusted, measured)
    result, kept = problem.by_gnc(values)
    if not kept.all():
        # Where stiff closures are few, all of them may lose to a wrong one on the way: then a soft kernel may see more.
        other, other_kept = problem.by_soft_kernel(values)
        if problem.cost(other, other_kept) < problem.cost(result, kept):
            result, kept = other, other_kept
    return {keyframe_id: np.asarray(result.atPose3(keyframe_id).matrix()) for keyframe_id in initial}, kept


# -- how good is a trajectory ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrajectoryError:
    """Absolute trajectory error after the best rigid alignment.

    Attributes:
        rmse_m: Root mean square distance to the true positions.
        max_m: The largest.
        rmse_deg: Root mean square angle to the true orientations.
    """

    rmse_m: float
    max_m: float
    rmse_deg: float


def trajectory_error(estimate: Mapping[int, Transform], truth: Mapping[int, Transform]) -> TrajectoryError:
    """Compare the keyframes that both know, after `align`.

    Args:
        estimate: T_world_base by keyframe id, in any frame.
        truth: The same in another.

    Raises:
        InputError: no keyframe in common.
    """
    _, aligned, true = align(estimate, truth)
    errors_m = np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1)
    angles_rad = [rotation_angle(a[:3, :3].T @ t[:3, :3]) for a, t in zip(aligned, true, strict=True)]
    return TrajectoryError(
        rmse_m=float(np.sqrt(np.mean(errors_m**2))),
        max_m=float(errors_m.max()),
        rmse_deg=float(np.degrees(np.sqrt(np.mean(np.square(angles_rad))))),
    )


def align(
    estimate: Mapping[int, Transform], truth: Mapping[int, Transform]
) -> tuple[list[int], FloatArray, FloatArray]:
    """Lay an estimate over the truth without changing its scale.

    The alignment is Umeyama's (TPAMI 1991) with scale 1. Where positions leave it open, as on a straight line, the
    orientations decide.

    Returns:
        Ids that both know in ascending order; their (N, 4, 4) estimates in the frame of the truth; and (N, 4, 4) truth.

    Raises:
        InputError: no keyframe in common.
    """
    ids = sorted(estimate.keys() & truth.keys())
    if not ids:
        raise InputError("estimate and truth have no keyframe in common; give both by the same keyframe ids")
    estimated, true = np.stack([estimate[i] for i in ids]), np.stack([truth[i] for i in ids])
    return ids, _rigid_alignment(estimated, true) @ estimated, true


def _rigid_alignment(estimated: FloatArray, true: FloatArray) -> Transform:
    """(N, 4, 4) poses each; T_true_estimated."""
    p_estimated, p_true = estimated[:, :3, 3], true[:, :3, 3]
    mean_estimated, mean_true = p_estimated.mean(axis=0), p_true.mean(axis=0)
    correlation = (p_true - mean_true).T @ (p_estimated - mean_estimated)
    correlation += _ORIENTATION_WEIGHT_M2 * np.einsum("nij,nkj->ik", true[:, :3, :3], estimated[:, :3, :3])
    U, _, Vt = np.linalg.svd(correlation)
    R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return make_transform(R, mean_true - R @ mean_estimated)
