"""Sequence matching: the last keyframes against the way past each candidate, aligned step by step.

After Milford and Wyeth, "SeqSLAM" (ICRA 2012), with two differences: the way follows the place graph in place of image
indices, and the speed may change at every step (a dynamic programme in place of straight lines).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import MotionConfig
from progeo_edge.index import PlaceIndex
from progeo_edge.motion.background import Background
from progeo_edge.motion.place_graph import PlaceGraph
from progeo_edge.types import Descriptor, Keyframe

MAX_LAPS = 3
"""Keyframes of different laps that are compared at each step of a way."""
DIRECTIONS = (-1, 1)

_NOTHING = -np.inf


class SequenceMatcher:
    """Mean similarity of the last `length` keyframes along the best way past a candidate.

    The query sits at the candidate. Each keyframe before it lies 0 to `max_step` steps farther back along the way; one
    step is expected, since map and query choose keyframes by the same rule, and every step more or fewer costs
    `step_cost`. Both directions are tried: a robot that drives the other way has seen before what the map saw after.

    Similarities are counted in spreads above the background, so that they can be compared between dark and bright
    images and between models. Keyframes before the first one of the run count as background.

    Args:
        config: `length`, `max_step` and `step_cost`.
        graph: Where the ways lead.
        index: Descriptors of what is old enough to be a revisit; what is not in it is not compared.
    """

    def __init__(self, config: MotionConfig, graph: PlaceGraph, index: PlaceIndex) -> None:
        self._config = config
        self._graph = graph
        self._index = index
        self._background = Background(index)
        self._past: deque[tuple[Descriptor, float]] = deque(maxlen=config.length - 1)

    def scores(self, query: Keyframe, reference_ids: Sequence[int]) -> dict[int, float]:
        """Score per reference that is in the index."""
        if not reference_ids or len(self._index) == 0:
            return {}
        centre, spread = self._background.measure(query)
        last = [(query.descriptor, centre), *self._past]
        similarities = self._along_the_ways(np.stack([descriptor for descriptor, _ in last]), reference_ids)
        deviations = (similarities - np.array([centre for _, centre in last])) / spread
        best = best_alignment(deviations, self._config.max_step, self._config.step_cost).max(axis=1)
        scores = best / self._config.length
        return {id: float(score) for id, score in zip(reference_ids, scores, strict=True) if np.isfinite(score)}

    def remember(self, query: Keyframe) -> None:
        """The keyframe belongs to the past of those to come."""
        self._past.appendleft((query.descriptor, self._background.measure(query)[0]))
        self._background.remember(query)

    def _along_the_ways(self, queries: NDArray[np.float32], reference_ids: Sequence[int]) -> NDArray[np.float64]:
        """(C, 2, S, L) best cosine of each of the last L keyframes with each step of each way; -inf without one."""
        num_steps = self._config.max_step * (len(queries) - 1) + 1
        cells: list[int] = []
        ids: list[int] = []
        for way, (reference_id, direction) in enumerate((r, d) for r in reference_ids for d in DIRECTIONS):
            for step, points in enumerate(self._graph.way(reference_id, direction, num_steps - 1, MAX_LAPS)):
                ids += [point.id for point in points]
                cells += [way * num_steps + step] * len(points)
        known, descriptors = self._index.descriptors(ids)
        best = np.full((len(DIRECTIONS) * len(reference_ids) * num_steps, len(queries)), _NOTHING)
        np.maximum.at(best, np.array(cells, dtype=np.intp)[known], (descriptors @ queries.T).astype(np.float64))
        return best.reshape(len(reference_ids), len(DIRECTIONS), num_steps, len(queries))


def best_alignment(similarities: NDArray[np.float64], max_step: int, step_cost: float) -> NDArray[np.float64]:
    """Sum of similarities along the best monotone path that starts at step 0 with the newest query.

    Args:
        similarities: (..., S, L) similarity of step s of a way with the query of age l; -inf where there is nothing.
        max_step: Steps that the path may advance from one query to the one before it.
        step_cost: What an advance costs for every step that it differs from 1.

    Returns:
        (...) sum over the L queries, less the costs; -inf where nothing is known of step 0.
    """
    num_steps, length = similarities.shape[-2:]
    path = np.full(similarities.shape[:-1], _NOTHING)
    path[..., 0] = similarities[..., 0, 0]
    for age in range(1, length):
        reached = path - step_cost
        for advance in range(1, min(max_step, num_steps - 1) + 1):
            arriving = path[..., :-advance] - step_cost * (advance - 1)
            reached[..., advance:] = np.maximum(reached[..., advance:], arriving)
        path = reached + similarities[..., age]
    return np.asarray(path.max(axis=-1))
