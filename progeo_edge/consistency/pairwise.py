"""Whether two closures agree with each other: the loop over both, through the odometry between their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from progeo_edge.consistency.drift import Drives
from progeo_edge.consistency.measured import Measured, difference, fit_lengths
from progeo_edge.geometry import FloatArray, adjoint, invert
from progeo_edge.types import Transform

Leg = tuple[Transform, FloatArray]
"""The way between two keyframes by odometry: T_first_second and its (6, 6) covariance, right perturbation."""


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """A closure and its keyframes.

    Attributes:
        query_id: Keyframe id.
        reference_id: Keyframe id.
        query_session: Session of the query.
        reference_session: Session of the reference.
        measured: What it says.
    """

    query_id: int
    reference_id: int
    query_session: int
    reference_session: int
    measured: Measured


def metres_apart(a: Ends, b: Ends, drives: Drives, T_odom_query: Transform | None = None) -> float | None:
    """Metres driven between the queries and between the references, together; arguments as of `legs`.

    None when the queries, or the references, are of different sessions.
    """
    if a.query_session != b.query_session or a.reference_session != b.reference_session:
        return None
    queries, references = drives.of(a.query_session), drives.of(a.reference_session)
    metres = abs((references.at(a.reference_id) or 0.0) - (references.at(b.reference_id) or 0.0))
    if a.query_id != b.query_id:
        until_b = queries.at(b.query_id) if T_odom_query is None else queries.to(T_odom_query)
        metres += abs((queries.at(a.query_id) or 0.0) - (until_b or 0.0))
    return metres


def legs(a: Ends, b: Ends, drives: Drives, T_odom_query: Transform | None = None) -> tuple[Leg, Leg] | None:
    """The odometry from query a to query b, and from reference a to reference b.

    None without odometry of one of them.

    Args:
        a: A closure.
        b: Another, of the same or a later query, and of the same sessions.
        drives: The way driven.
        T_odom_query: Pose of query b by odometry while it is not part of the drives yet.
    """
    queries, references = drives.of(a.query_session), drives.of(a.reference_session)
    to_reference = references.between(a.reference_id, b.reference_id)
    if a.query_id == b.query_id:
        to_query: Leg | None = np.eye(4), np.zeros((6, 6))
    elif T_odom_query is None:
        to_query = queries.between(a.query_id, b.query_id)
    else:
        to_query = queries.since(a.query_id, T_odom_query)
    return None if to_query is None or to_reference is None else (to_query, to_reference)


def disagreement2(a: Measured, b: Measured, leg_query: Leg, leg_reference: Leg, floor: FloatArray) -> float:
    """Squared Mahalanobis distance between closure b and what closure a and the odometry predict of it.

    The loop query a -> reference a ~> reference b <- query b ~> query a (pairwise consistency: Mangelson, Dominic,
    Eustice, Vasudevan, ICRA 2018). Unknown lengths of UP_TO_SCALE closures take the values that agree best.

    Args:
        a: A closure.
        b: Another.
        leg_query: Odometry from query a to query b.
        leg_reference: Odometry from reference a to reference b.
        floor: (6, 6) covariance added for the odometry's errors at any distance.
    """
    T_queries, T_references = leg_query[0], leg_reference[0]

    def error(length_a: float, length_b: float) -> tuple[FloatArray, Transform]:
        T_predicted = invert(T_references) @ a.pose(length_a) @ T_queries
        return difference(b.pose(length_b), T_predicted), T_predicted

    at_zero, T_predicted = error(0.0, 0.0)
    past_queries, past_all = adjoint(invert(T_queries)), adjoint(invert(T_predicted))
    covariance = b.covariance + past_queries @ a.covariance @ past_queries.T
    covariance = covariance + leg_query[1] + past_all @ leg_reference[1] @ past_all.T + floor
    terms, grown, reaches = [at_zero], [], []
    if a.direction is not None:
        terms.append(error(1.0, 0.0)[0] - at_zero)
        grown.append(past_queries @ (a.covariance_at(1.0) - a.covariance) @ past_queries.T)
        reaches.append(a.reach_m)
    if b.direction is not None:
        terms.append(error(0.0, 1.0)[0] - at_zero)
        grown.append(b.covariance_at(1.0) - b.covariance)
        reaches.append(b.reach_m)
    return fit_lengths(terms, grown, covariance, reaches)


def largest_clique(agree: Sequence[set[int]], member: int) -> set[int]:
    """The largest set of nodes that all agree with each other and contain `member` (Bron and Kerbosch 1973).

    Args:
        agree: For each node those that agree with it.
        member: A node.
    """
    best: set[int] = {member}

    def extend(clique: set[int], open_: set[int], done: set[int]) -> None:
        nonlocal best
        if not open_ and not done and len(clique) > len(best):
            best = clique
        if len(clique) + len(open_) <= len(best):
            return
        pivot = max(sorted(open_ | done), key=lambda node: len(agree[node] & open_))
        for node in sorted(open_ - agree[pivot]):
            extend(clique | {node}, open_ & agree[node], done & agree[node])
            open_ = open_ - {node}
            done = done | {node}

    extend({member}, set(agree[member]) - {member}, set())
    return best


def floor_covariance(floor_m: float, floor_deg: float) -> FloatArray:
    """(6, 6) of the errors that odometry has at any distance."""
    return np.diag([floor_m**2] * 3 + [np.radians(floor_deg) ** 2] * 3)
