"""Which keyframes see the same or the next place: neighbours in time, and through earlier closures.

A map of several laps has neighbours of one place in every lap, so "near" is counted along this graph and never as a
difference of image indices. Every question about it costs the same however large the map has grown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from progeo_edge.types import Transform

MAX_CLOSURES = 4
"""Closures remembered per keyframe, the latest ones: a place passed a thousand times does not grow a thousand edges."""
MAX_VISITED = 128
"""Keyframes that `within` visits at most."""


class WayPoint(NamedTuple):
    """A keyframe on a way along the graph.

    Attributes:
        id: The keyframe.
        direction: How its own session goes on from here: 1 with the way, -1 against it.
        way_m: Metres from the beginning of the way; None where a step of it has no odometry.
    """

    id: int
    direction: int
    way_m: float | None


@dataclass(slots=True)
class _Node:
    """A keyframe: its neighbours in time, and the closures it takes part in.

    Attributes:
        before: The keyframe before it in its session; None for the first.
        after: The one after it; None for the last.
        step_m: Metres from the one before; None without odometry.
        closures: The other end of each closure, and whether the two face opposite ways.
    """

    before: int | None
    after: int | None
    step_m: float | None
    closures: deque[tuple[int, bool]]


class PlaceGraph:
    """Graph over keyframe ids; every edge is one step."""

    def __init__(self) -> None:
        self._nodes: dict[int, _Node] = {}
        self._last_of_chain: dict[tuple[int, str], tuple[int, Transform | None]] = {}
        self._moments: dict[tuple[int, int], list[int]] = {}
        self._moment_of: dict[int, tuple[int, int]] = {}

    def add_keyframe(
        self,
        keyframe_id: int,
        session: int,
        T_odom_base: Transform | None = None,
        *,
        camera: str = "",
        moment: int | None = None,
    ) -> None:
        """Add a keyframe and tie it to the one before it of the same session and camera.

        Args:
            keyframe_id: The keyframe.
            session: Its session.
            T_odom_base: Pose by odometry, or None.
            camera: Its camera; each camera of a rig makes a chain of its own.
            moment: Number within the session. Keyframes of one moment, the images of a rig, are no step apart; None
                for a moment of its own.
        """
        if moment is not None:
            self._moments.setdefault((session, moment), []).append(keyframe_id)
            self._moment_of[keyframe_id] = (session, moment)
        chain = (session, camera)
        previous, T_odom_previous = self._last_of_chain.get(chain, (None, None))
        step_m = driven_m(T_odom_previous, T_odom_base)
        self._nodes[keyframe_id] = _Node(previous, None, step_m, deque(maxlen=MAX_CLOSURES))
        if previous is not None:
            self._nodes[previous].after = keyframe_id
        self._last_of_chain[chain] = (keyframe_id, T_odom_base)

    def add_closure(self, query_id: int, reference_id: int, T_reference_query: Transform | None = None) -> None:
        """Tie two keyframes that were verified to see one place; nothing happens to those that are not in the graph.

        Args:
            query_id: One end.
            reference_id: The other.
            T_reference_query: Relative pose, of which only the rotation is used: past a right angle the two face
                opposite ways, and what is forward for one is backward for the other. None counts as facing alike.
        """
        if query_id not in self._nodes or reference_id not in self._nodes:
            return
        turned = T_reference_query is not None and float(np.trace(T_reference_query[:3, :3])) < 1.0
        self._nodes[query_id].closures.append((reference_id, turned))
        self._nodes[reference_id].closures.append((query_id, turned))

    def within(self, keyframe_id: int, max_steps: int) -> dict[int, int]:
        """Keyframes at most `max_steps` away, nearest first, with their steps; the keyframe and its moment at 0.

        At most MAX_VISITED of them, and what belongs to their moments, are returned.
        """
        steps = dict.fromkeys(self._of_moment(keyframe_id), 0)
        queue = deque(steps)
        while queue and len(steps) < MAX_VISITED:
            current = queue.popleft()
            if steps[current] == max_steps:
                break
            for neighbour in self._neighbours(current):
                if neighbour not in steps:
                    together = dict.fromkeys(self._of_moment(neighbour), steps[current] + 1)
                    steps |= together
                    queue.extend(together)
        return steps

    def _of_moment(self, keyframe_id: int) -> list[int]:
        moment = self._moment_of.get(keyframe_id)
        return [keyframe_id] if moment is None else self._moments[moment]

    def way(self, keyframe_id: int, direction: int, depth: int, width: int) -> Iterator[list[WayPoint]]:
        """What was passed on the way to a keyframe, or what comes behind it, step by step.

        The way leads along the keyframe's own session and, through closures, along the other laps of the same street.
        Laps that are driven the other way are followed the other way.

        Args:
            keyframe_id: Where the way begins.
            direction: 1 towards what was seen after it, -1 towards what was seen before it.
            depth: Steps to go.
            width: Keyframes of different laps kept at each step, at most.

        Yields:
            Up to depth + 1 steps: the keyframe itself, then 1 to `width` keyframes each until the way ends.
        """
        seen = {keyframe_id}
        start = WayPoint(keyframe_id, direction, 0.0)
        points = self._with_other_laps([start], seen, width)
        yield [start]
        for _ in range(depth):
            points = self._with_other_laps(self._next(points, seen), seen, width)
            if not points:
                return
            yield points

    def _next(self, points: list[WayPoint], seen: set[int]) -> list[WayPoint]:
        found = []
        for point in points:
            node = self._nodes.get(point.id)
            neighbour = None if node is None else (node.after if point.direction > 0 else node.before)
            if node is None or neighbour is None or neighbour in seen:
                continue
            seen.add(neighbour)
            step_m = self._nodes[neighbour].step_m if point.direction > 0 else node.step_m
            way_m = None if point.way_m is None or step_m is None else point.way_m + step_m
            found.append(WayPoint(neighbour, point.direction, way_m))
        return found

    def _with_other_laps(self, points: list[WayPoint], seen: set[int], width: int) -> list[WayPoint]:
        """The keyframes of a step, and those that closures say are at the same place."""
        found = points[:width]
        for point in points[:width]:
            node = self._nodes.get(point.id)
            for other, turned in () if node is None else node.closures:
                if len(found) >= width:
                    return found
                if other not in seen:
                    seen.add(other)
                    found.append(WayPoint(other, -point.direction if turned else point.direction, point.way_m))
        return found

    def _neighbours(self, keyframe_id: int) -> list[int]:
        node = self._nodes.get(keyframe_id)
        if node is None:
            return []
        in_time = [id for id in (node.before, node.after) if id is not None]
        return in_time + [id for id, _ in node.closures]


def driven_m(T_odom_a: Transform | None, T_odom_b: Transform | None) -> float | None:
    """Metres between two poses of one odometry frame; None when one is unknown."""
    if T_odom_a is None or T_odom_b is None:
        return None
    return float(np.linalg.norm(T_odom_b[:3, 3] - T_odom_a[:3, 3]))
