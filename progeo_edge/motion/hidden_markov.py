"""A hidden-Markov filter over places: where on the known ways is the robot, or is it somewhere new?

States are a keyframe of the map together with the direction it is passed in, and one state "a new place". Only the
likely ones are kept. The idea of a discrete Bayes filter over places with a "new place": Angeli et al., "Fast and
incremental method for loop-closure detection using bags of visual words" (IEEE T-RO 2008); here with the odometry's
distance as the motion along a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import Config
from progeo_edge.index import PlaceIndex
from progeo_edge.motion.background import Background
from progeo_edge.motion.place_graph import PlaceGraph, WayPoint, driven_m
from progeo_edge.row_products import row_products
from progeo_edge.types import Keyframe, Transform

MAX_STATES = 64
"""States carried from one keyframe to the next."""
LEAST_PROBABILITY = 1e-5
"""States less likely than this are dropped."""
MAX_DEPTH = 24
"""Keyframes along a way that one keyframe of the query may advance."""
MAX_LAPS = 3
SAME_PLACE_STEPS = 3
"""A candidate's probability is that of all states this near to it."""
NEIGHBOUR_STEPS = 8
"""States up to here count neither for nor against it."""
UNKNOWN_PLACES = 200
"""Added to the size of the index: a map of three places is not where most of the world is."""
TURN_PROBABILITY = 0.01
"""That the robot turns round and follows the way in the other direction."""
SPREADS_REACHED = 3.0
LEAST_KERNEL = float(np.exp(-2.0))
"""A way whose keyframes all lie farther from the predicted distance than two spreads has been left."""

EVIDENCE_PER_DEVIATION = 1.5
EVEN_DEVIATIONS = 2.2
MOST_EVIDENCE = 12.0
"""Logarithm of how much likelier a cosine is at the same place than at another, over deviations from the background:
a straight line through 0 at EVEN_DEVIATIONS, capped on both sides."""

State = tuple[int, int]
"""Keyframe id and direction, 1 as in its session, -1 against it."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Probabilities after a keyframe; they sum to 1.

    Attributes:
        places: Of the states kept.
        new_place: Of being where no keyframe of the index is.
    """

    places: dict[State, float] = field(default_factory=dict)
    new_place: float = 1.0


class PlaceFilter:
    """The filter.

    Args:
        config: Section `motion`, and the drift of `odometry`.
        graph: Where the ways lead.
        index: Descriptors of what is old enough to be a revisit.
    """

    def __init__(self, config: Config, graph: PlaceGraph, index: PlaceIndex) -> None:
        self._config = config
        self._graph = graph
        self._index = index
        self._background = Background(index)
        self._belief = Belief()
        self._last: Transform | None = None
        self._pending: tuple[int, Belief] | None = None

    def scores(self, query: Keyframe, reference_ids: Sequence[int]) -> dict[int, float]:
        """Log odds per reference that the query was taken at its place; nothing is remembered of the query."""
        belief = self._update(query, reference_ids)
        self._pending = (query.id, belief)
        return {id: self._log_odds(belief, id) for id in reference_ids}

    def remember(self, query: Keyframe) -> None:
        """The query becomes the last keyframe."""
        if self._pending is None or self._pending[0] != query.id:
            self._pending = (query.id, self._update(query, ()))
        self._belief = _likeliest(self._pending[1])
        self._background.remember(query)
        self._last = query.T_odom_base
        self._pending = None

    def _update(self, query: Keyframe, reference_ids: Sequence[int]) -> Belief:
        moved, new_place = self._predict(driven_m(self._last, query.T_odom_base))
        leave = self._config.motion.leave_probability
        for id in reference_ids:
            for direction in (1, -1):
                moved.setdefault((id, direction), 0.0)
        states = list(moved)
        prior = np.array([moved[state] for state in states])
        prior += new_place * leave / (2 * (len(self._index) + UNKNOWN_PLACES))
        known, descriptors = self._index.descriptors([id for id, _ in states])
        evidence = self._evidence(query, descriptors)
        posterior = prior[known] * np.exp(evidence)
        return _normalised([states[i] for i in known.tolist()], posterior, new_place * (1.0 - leave))

    def _evidence(self, query: Keyframe, descriptors: NDArray[np.float32]) -> NDArray[np.float64]:
        centre, spread = self._background.measure(query)
        deviations = (row_products(descriptors, query.descriptor).astype(np.float64) - centre) / spread
        return np.asarray(
            np.clip(EVIDENCE_PER_DEVIATION * (deviations - EVEN_DEVIATIONS), -MOST_EVIDENCE, MOST_EVIDENCE)
        )

    def _predict(self, driven: float | None) -> tuple[dict[State, float], float]:
        """The belief moved on by the way driven, before the query has been looked at."""
        moved: dict[State, float] = {}
        new_place = self._belief.new_place
        stay = 1.0 - self._config.motion.leave_probability
        for (id, direction), probability in self._belief.places.items():
            left = probability
            for (other, along), weight in self._transitions(id, direction, driven):
                arriving = probability * stay * weight
                for state, share in (((other, along), 1.0 - TURN_PROBABILITY), ((other, -along), TURN_PROBABILITY)):
                    moved[state] = moved.get(state, 0.0) + share * arriving
                left -= arriving
            new_place += left
        return moved, new_place

    def _transitions(self, id: int, direction: int, driven: float | None) -> list[tuple[State, float]]:
        """States reached from a keyframe that is passed in a direction, with their probabilities (sum at most 1)."""
        spread = self._spread_m(driven)
        reached: list[tuple[State, float]] = []
        for sign in (1, -1):
            for step, points in enumerate(self._graph.way(id, sign * direction, MAX_DEPTH, MAX_LAPS)):
                if step == 0 and sign < 0:
                    continue
                if self._is_beyond(sign, step, points[0], driven, spread):
                    break
                kernels = [self._kernel(sign, step, point, driven, spread) for point in points]
                reached += [
                    ((p.id, sign * p.direction), kernel) for p, kernel in zip(points, kernels, strict=True) if kernel
                ]
        total = max(sum(kernel for _, kernel in reached), LEAST_KERNEL)
        return [(state, kernel / total) for state, kernel in reached]

    def _kernel(self, sign: int, step: int, point: WayPoint, driven: float | None, spread: float) -> float:
        """Unnormalised likelihood of having moved to a point; by steps where the metres are unknown."""
        if driven is None or point.way_m is None:
            return 1.0 if sign > 0 and step <= self._config.motion.max_step else 0.0
        deviation = (sign * point.way_m - driven) / spread
        return float(np.exp(-0.5 * deviation**2)) if abs(deviation) < SPREADS_REACHED else 0.0

    def _is_beyond(self, sign: int, step: int, point: WayPoint, driven: float | None, spread: float) -> bool:
        if driven is None or point.way_m is None:
            return sign < 0 or step > self._config.motion.max_step
        return sign * (sign * point.way_m - driven) >= SPREADS_REACHED * spread

    def _spread_m(self, driven: float | None) -> float:
        drift_m = self._config.odometry.drift_m_per_m * (driven or 0.0)
        return float(np.hypot(self._config.motion.spread_m, drift_m))

    def _log_odds(self, belief: Belief, reference_id: int) -> float:
        steps = self._steps_around(reference_id)
        here = sum(p for (id, _), p in belief.places.items() if steps.get(id, NEIGHBOUR_STEPS) <= SAME_PLACE_STEPS)
        elsewhere = belief.new_place + sum(p for (id, _), p in belief.places.items() if id not in steps)
        return float(np.log(max(here, 1e-300)) - np.log(max(elsewhere, 1e-300)))

    def _steps_around(self, reference_id: int) -> dict[int, int]:
        """Keyframes of all laps along the way to both sides of a reference, with their steps from it."""
        steps: dict[int, int] = {}
        for direction in (1, -1):
            for step, points in enumerate(self._graph.way(reference_id, direction, NEIGHBOUR_STEPS, MAX_LAPS)):
                for point in points:
                    steps.setdefault(point.id, step)
        return steps


def _normalised(states: list[State], weights: NDArray[np.float64], new_place: float) -> Belief:
    total = float(weights.sum()) + new_place
    return Belief(dict(zip(states, (weights / total).tolist(), strict=True)), new_place / total)


def _likeliest(belief: Belief) -> Belief:
    """The states worth carrying on; what the others had goes to the new place, so that nothing is lost."""
    kept = sorted(belief.places, key=lambda state: -belief.places[state])[:MAX_STATES]
    places = {state: belief.places[state] for state in kept if belief.places[state] > LEAST_PROBABILITY}
    return Belief(places, max(1.0 - sum(places.values()), 0.0))
