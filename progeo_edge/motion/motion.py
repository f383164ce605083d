"""Motion: what the keyframes before a query say about its candidates, by the method that the config names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from progeo_edge.config import Config
from progeo_edge.index import PlaceIndex
from progeo_edge.motion.agreement import Agreement
from progeo_edge.motion.hidden_markov import PlaceFilter
from progeo_edge.motion.place_graph import PlaceGraph
from progeo_edge.motion.sequence_matching import SequenceMatcher
from progeo_edge.types import Candidate, Keyframe, Status

_NOT_COMPARED = (Status.LOW_SIMILARITY,)
_NOT_LEADING = (Status.LOW_SIMILARITY, Status.SUPPRESSED)


class Motion:
    """Scores candidates and remembers keyframes. The cost of a keyframe does not depend on the size of the map.

    Args:
        config: Section `motion`, and the drift of `odometry`.
        index: Descriptors of what is old enough to be a revisit.
        graph: Which keyframes see one place; kept up to date by its owner.
    """

    def __init__(self, config: Config, index: PlaceIndex, graph: PlaceGraph) -> None:
        self._config = config.motion
        self._graph = graph
        self._agreement = Agreement(config.motion, self._graph)
        self._filter = PlaceFilter(config, self._graph, index)
        self._matcher = SequenceMatcher(config.motion, self._graph, index)
        self._method: str | None = None
        self._log_odds: dict[int, float] = {}

    @property
    def method(self) -> str:
        """What the scores are: hmm, sequence, k_of_n or none; "" before a first keyframe has decided."""
        return self._method or ""

    def scores(self, query: Keyframe, candidates: Sequence[Candidate]) -> dict[int, float]:
        """Support of the last keyframes per candidate, higher is better; the state does not change.

        All but the LOW_SIMILARITY candidates are scored. The unit depends on the method: log odds for hmm, mean
        similarity along the way, in spreads above the background, for sequence, number of keyframes for k_of_n.

        Returns:
            Score by reference id; empty when motion is switched off.
        """
        ids = [c.reference_id for c in candidates if c.status not in _NOT_COMPARED]
        method = self._method_for(query)
        if method == "hmm":
            self._log_odds = self._filter.scores(query, ids)
            return self._log_odds
        if method == "sequence":
            return self._matcher.scores(query, ids)
        if method == "k_of_n":
            return {id: float(self._agreement.agreement(id)) for id in ids}
        return {}

    def passes(self, reference_id: int) -> bool:
        """Whether the last keyframes support a reference that was scored just before; the uncalibrated rule.

        Enough of them must point there, and with hmm it must not be too unlikely. Always true when switched off.
        """
        if self._config.method == "none":
            return True
        likely = self._log_odds.get(reference_id, np.inf) >= self._config.min_log_odds
        return likely and self._agreement.passes(reference_id)

    def remember(self, keyframe: Keyframe, candidates: Sequence[Candidate]) -> None:
        """The keyframe is in the map, and in the graph."""
        self._log_odds = {}
        self._agreement.remember([c.reference_id for c in candidates if c.status not in _NOT_LEADING])
        self._method = self._method_for(keyframe)
        if self._method == "hmm":
            self._filter.remember(keyframe)
        elif self._method == "sequence":
            self._matcher.remember(keyframe)

    def _method_for(self, query: Keyframe) -> str:
        """A run keeps the method that its first keyframe decides, so that its scores can be compared."""
        if self._config.method != "auto":
            return self._config.method
        return self._method or ("sequence" if query.T_odom_base is None else "hmm")
