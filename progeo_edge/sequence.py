"""Temporal consistency: the last keyframes must point to the same place before a candidate is believed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from progeo_edge.config import SequenceConfig
from progeo_edge.place_graph import PlaceGraph


class SequenceCheck:
    """k-of-n agreement along the place graph.

    The keyframe i steps ago agrees with a candidate when one of its own best candidates lies within i * `max_step`
    steps of it in the place graph, forwards or backwards, so that both driving directions and laps at other speeds
    agree. The query itself counts as one. The images of one moment of a rig are one keyframe here: what they point to
    is put together, and they do not support each other. (The idea of k temporally consistent matches: Galvez-Lopez and
    Tardos, Bags of Binary Words, T-RO 2012, section V-B; there over image indices.)
    """

    def __init__(self, config: SequenceConfig, graph: PlaceGraph) -> None:
        self._config = config
        self._graph = graph
        self._history: deque[tuple[int, ...]] = deque(maxlen=config.window)

    def agreement(self, reference_id: int, *, joins: bool = False) -> int:
        """Number of the last keyframes, the query included, that point to the reference's place.

        Args:
            reference_id: The candidate.
            joins: The query is another image of the moment that was remembered last.
        """
        max_step = self._config.max_step
        earlier = list(islice(self._history, int(joins), int(joins) + self._config.window - 1))
        steps = self._graph.within(reference_id, max_step * len(earlier))
        return 1 + sum(
            any(steps.get(candidate, max_step * age + 1) <= max_step * age for candidate in candidates)
            for age, candidates in enumerate(earlier, start=1)
        )

    def passes(self, reference_id: int, *, joins: bool = False) -> bool:
        """Whether enough keyframes agree; always true when the check is switched off."""
        return not self._config.enabled or self.agreement(reference_id, joins=joins) >= self._config.required

    def remember(self, reference_ids: Sequence[int], *, joins: bool = False) -> None:
        """Note the candidates of the current keyframe, best first, for the keyframes to come.

        Args:
            reference_ids: The candidates.
            joins: The keyframe is another image of the moment that was remembered last.
        """
        leading = tuple(reference_ids[: self._config.history_top_k])
        if joins and self._history:
            self._history[0] += leading
        else:
            self._history.appendleft(leading)
