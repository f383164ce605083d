"""Which keyframes see the same or the next place: neighbours in time, and through earlier closures.

A map of several laps has neighbours of one place in every lap, so "near" is counted along this graph and never as a
difference of image indices.
"""

from __future__ import annotations

from collections import deque


class PlaceGraph:
    """Undirected graph over keyframe ids; every edge is one step, and the images of one moment are one node."""

    def __init__(self) -> None:
        self._neighbours: dict[int, list[int]] = {}
        self._last_of_session: dict[int, int] = {}
        self._first_of_moment: dict[int, int] = {}
        self._others_of_moment: dict[int, list[int]] = {}

    def add_keyframe(self, keyframe_id: int, session: int, *, joins: bool = False) -> None:
        """Add a keyframe and tie it to the moment before it in its session.

        Args:
            keyframe_id: Its id.
            session: Its session.
            joins: It is another image of the moment of the keyframe before: they see one place.
        """
        previous = self._last_of_session.get(session)
        if joins and previous is not None:
            self._first_of_moment[keyframe_id] = previous
            self._others_of_moment.setdefault(previous, []).append(keyframe_id)
            return
        self._neighbours[keyframe_id] = []
        if previous is not None:
            self._tie(previous, keyframe_id)
        self._last_of_session[session] = keyframe_id

    def add_closure(self, query_id: int, reference_id: int) -> None:
        """Tie two keyframes that were verified to see one place."""
        self._tie(query_id, reference_id)

    def within(self, keyframe_id: int, max_steps: int) -> dict[int, int]:
        """Keyframes at most `max_steps` away, with their number of steps; those of the keyframe's moment at 0."""
        start = self._node(keyframe_id)
        steps = {start: 0}
        queue = deque([start])
        while queue:
            current = queue.popleft()
            if steps[current] == max_steps:
                continue
            for neighbour in self._neighbours.get(current, ()):
                if neighbour not in steps:
                    steps[neighbour] = steps[current] + 1
                    queue.append(neighbour)
        if self._others_of_moment:
            steps |= {other: n for first, n in steps.items() for other in self._others_of_moment.get(first, ())}
        return steps

    def _node(self, keyframe_id: int) -> int:
        return self._first_of_moment.get(keyframe_id, keyframe_id)

    def _tie(self, a: int, b: int) -> None:
        a, b = self._node(a), self._node(b)
        self._neighbours.setdefault(a, []).append(b)
        self._neighbours.setdefault(b, []).append(a)
