"""Where the keyframes of a map stand to each other, as far as a short way along the place graph tells.

The odometry of a map drifts, so two poses of one session are only comparable when little was driven between them. A
short way through the place graph, along neighbours in time and through verified closures, gives a relative pose that
also holds between laps and between sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from progeo_edge.geometry import invert
from progeo_edge.map_store import KeyframeInfo
from progeo_edge.types import LoopClosure, PoseKind, Transform

MAX_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """How one keyframe is reached from another.

    Attributes:
        num_steps: Edges of the place graph between them.
        T_a_b: Pose of the second base in the first; None when an edge on every way there has no pose in metres.
        path_m: Metres of odometry in `T_a_b`; 0 without it.
    """

    num_steps: int
    T_a_b: Transform | None
    path_m: float


@dataclass(frozen=True, slots=True, eq=False)
class _Edge:
    to: int
    T_from_to: Transform | None
    path_m: float


class PlacePoses:
    """Relations between the keyframes of a map as it is now."""

    def __init__(self, keyframes: Iterable[KeyframeInfo], closures: Iterable[LoopClosure]) -> None:
        """Args: keyframes: in the order of their ids. closures: between them."""
        self._edges: dict[int, list[_Edge]] = {}
        self._reached: dict[int, dict[int, Relation]] = {}
        last_of_session: dict[int, KeyframeInfo] = {}
        for info in keyframes:
            self._edges[info.id] = []
            previous = last_of_session.get(info.session)
            if previous is not None:
                T = _step(previous.T_odom_base, info.T_odom_base)
                self._tie(previous.id, info.id, T, 0.0 if T is None else float(np.linalg.norm(T[:3, 3])))
            last_of_session[info.session] = info
        for closure in closures:
            verification = closure.verification
            is_metric = verification is not None and verification.pose_kind is PoseKind.METRIC
            T = verification.T_reference_query if verification is not None and is_metric else None
            self._tie(closure.reference_id, closure.query_id, T, 0.0)

    def __contains__(self, keyframe_id: int) -> bool:
        """Whether the map held this keyframe when it was read."""
        return keyframe_id in self._edges

    def relation(self, a: int, b: int) -> Relation | None:
        """From keyframe a to keyframe b; None when they are more than `MAX_STEPS` apart, or not connected."""
        if a not in self._reached:
            anywhere = self._search(a, only_metric=False)
            self._reached[a] = {**anywhere, **self._search(a, only_metric=True)}
        return self._reached[a].get(b)

    def _search(self, start: int, *, only_metric: bool) -> dict[int, Relation]:
        """Breadth first: the way with the fewest edges."""
        reached = {start: Relation(0, np.eye(4), 0.0)}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            relation = reached[here]
            if relation.num_steps == MAX_STEPS:
                continue
            for edge in self._edges[here]:
                if edge.to in reached or (only_metric and edge.T_from_to is None):
                    continue
                T = _chain(relation.T_a_b, edge.T_from_to) if only_metric else None
                reached[edge.to] = Relation(relation.num_steps + 1, T, relation.path_m + edge.path_m)
                queue.append(edge.to)
        return reached

    def _tie(self, a: int, b: int, T_a_b: Transform | None, path_m: float) -> None:
        self._edges[a].append(_Edge(b, T_a_b, path_m))
        self._edges[b].append(_Edge(a, None if T_a_b is None else invert(T_a_b), path_m))


def _chain(T_a_b: Transform | None, T_b_c: Transform | None) -> Transform | None:
    return None if T_a_b is None or T_b_c is None else T_a_b @ T_b_c


def _step(T_odom_a: Transform | None, T_odom_b: Transform | None) -> Transform | None:
    return None if T_odom_a is None or T_odom_b is None else invert(T_odom_a) @ T_odom_b
