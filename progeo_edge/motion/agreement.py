"""Agreement: how many of the last keyframes point to the same place."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from progeo_edge.config import MotionConfig
from progeo_edge.motion.place_graph import PlaceGraph


class Agreement:
    """k-of-n agreement along the place graph.

    The keyframe i steps ago agrees with a candidate when one of its own best candidates lies within i * `max_step`
    steps of it in the place graph, forwards or backwards, so that both driving directions and laps at other speeds
    agree. The query itself counts as one. (The idea of k temporally consistent matches: Galvez-Lopez and Tardos, Bags
    of Binary Words, T-RO 2012, section V-B; there over image indices.)
    """

    def __init__(self, config: MotionConfig, graph: PlaceGraph) -> None:
        self._config = config
        self._graph = graph
        self._history: deque[tuple[int, ...]] = deque(maxlen=config.window - 1)

    def agreement(self, reference_id: int) -> int:
        """Number of the last keyframes, the query included, that point to the reference's place."""
        max_step = self._config.max_step
        steps = self._graph.within(reference_id, max_step * len(self._history))
        return 1 + sum(
            any(steps.get(candidate, max_step * age + 1) <= max_step * age for candidate in candidates)
            for age, candidates in enumerate(self._history, start=1)
        )

    def passes(self, reference_id: int) -> bool:
        """Whether enough keyframes agree."""
        return self.agreement(reference_id) >= self._config.required

    def remember(self, reference_ids: Sequence[int]) -> None:
        """Note the candidates of the current keyframe, best first, for the keyframes to come."""
        self._history.appendleft(tuple(reference_ids[: self._config.history_top_k]))
