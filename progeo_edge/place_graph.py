"""Which keyframes see the same or the next place: neighbours in time, and through earlier closures.

A map of several laps has neighbours of one place in every lap, so "near" is counted along this graph and never as a
difference of image indices.
"""

from __future__ import annotations

from collections import deque


class PlaceGraph:
    """Undirected graph over keyframe ids; every edge is one step."""

    def __init__(self) -> None:
        self._neighbours: dict[int, list[int]] = {}
        self._last_of_session: dict[int, int] = {}

    def add_keyframe(self, keyframe_id: int, session: int) -> None:
        """Add a keyframe and tie it to the one before it in its session."""
        self._neighbours[keyframe_id] = []
        previous = self._last_of_session.get(session)
        if previous is not None:
            self._tie(previous, keyframe_id)
        self._last_of_session[session] = keyframe_id

    def add_closure(self, query_id: int, reference_id: int) -> None:
        """Tie two keyframes that were verified to see one place."""
        self._tie(query_id, reference_id)

    def within(self, keyframe_id: int, max_steps: int) -> dict[int, int]:
        """Keyframes at most `max_steps` away, with their number of steps; the keyframe itself at 0."""
        steps = {keyframe_id: 0}
        queue = deque([keyframe_id])
        while queue:
            current = queue.popleft()
            if steps[current] == max_steps:
                continue
            for neighbour in self._neighbours.get(current, ()):
                if neighbour not in steps:
                    steps[neighbour] = steps[current] + 1
                    queue.append(neighbour)
        return steps

    def _tie(self, a: int, b: int) -> None:
        self._neighbours.setdefault(a, []).append(b)
        self._neighbours.setdefault(b, []).append(a)
