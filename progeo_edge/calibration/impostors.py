"""Who cannot be the same place, without labels: what odometry puts too far away, or what one place rules out.

A query is judged by the best of its impostors, since it is falsely accepted when that one passes the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from progeo_edge.geometry import FloatArray
from progeo_edge.types import Transform

Ranked = Iterable[tuple[int, float]]
"""Reference ids with their scores, best first."""

DRIFT_SIGMAS = 3.0


@dataclass(frozen=True, slots=True)
class ImpostorMaximum:
    """The best score of a query among references that show other places.

    Attributes:
        score: The score.
        num_keyframes: References that it is the best of.
        is_second: Whether it may only be the second best: the best place of the query was left out, without knowing
            whether it was right.
    """

    score: float
    num_keyframes: int
    is_second: bool


class OdometryRule:
    """Impostors are references of the query's session that odometry puts too far away to be the same place."""

    def __init__(self, min_distance_m: float, drift: Callable[[int, Transform], FloatArray | None]) -> None:
        """Take the distance and what tells the (6, 6) covariance of odometry from a reference to the query's pose."""
        self._min_distance_m = min_distance_m
        self._drift = drift

    def best(
        self, ranked: Ranked, T_odom_query: Transform, positions: Mapping[int, FloatArray]
    ) -> tuple[int, float] | None:
        """Id and score of the best impostor; None when none of the ranked references is one.

        Args:
            ranked: References, best first.
            T_odom_query: Pose of the query.
            positions: (3,) position by odometry of the keyframes of the same session.
        """
        for reference_id, score in ranked:
            position = positions.get(reference_id)
            if position is not None and self._is_far(reference_id, position, T_odom_query):
                return reference_id, score
        return None

    def _is_far(self, reference_id: int, position: FloatArray, T_odom_query: Transform) -> bool:
        distance_m = float(np.linalg.norm(position - T_odom_query[:3, 3]))
        if distance_m <= self._min_distance_m:
            return False
        drift = self._drift(reference_id, T_odom_query)
        if drift is None:
            return False
        sigma_m = float(np.sqrt(np.linalg.eigvalsh(drift[:3, :3])[-1]))
        return distance_m > DRIFT_SIGMAS * sigma_m


def best_elsewhere(ranked: Ranked, same_place: set[int]) -> tuple[int, float] | None:
    """Id and score of the best reference that is not among `same_place`: the robot cannot be in two places."""
    for reference_id, score in ranked:
        if reference_id not in same_place:
            return reference_id, score
    return None
