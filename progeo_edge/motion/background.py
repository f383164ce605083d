"""How similar any two places look: the level above which a cosine says something."""

from __future__ import annotations

import numpy as np

from progeo_edge.index import PlaceIndex
from progeo_edge.row_products import row_products
from progeo_edge.types import Keyframe

SAMPLED = 64
"""Keyframes of the index that each query is compared with, drawn at random."""
MEMORY = 50
"""Keyframes over which the spread is averaged."""
LEAST_SPREAD = 0.01


class Background:
    """Centre and spread of the cosines between a query and places that it does not show.

    Measured on a random sample of the index, whose few true revisits do not move the median and the lower half. The
    centre is the query's own, since a dark image is less similar to everything; the spread is averaged over the run.
    """

    def __init__(self, index: PlaceIndex) -> None:
        self._index = index
        self._spread = 0.0
        self._count = 0

    def measure(self, query: Keyframe) -> tuple[float, float]:
        """Centre and spread for a query; nothing is remembered of it.

        In a map of a few places the background is not known yet: the spread is widened, without bound for an empty
        map.
        """
        sample = self._index.sample(SAMPLED, seed=query.id)
        if len(sample) == 0:
            return 0.0, np.inf
        centre, spread = _lower_half(row_products(sample, query.descriptor))
        averaged = (self._count * self._spread + spread) / (self._count + 1)
        caution = 1.0 + SAMPLED / len(self._index)
        return centre, caution * max(averaged, LEAST_SPREAD)

    def remember(self, query: Keyframe) -> None:
        """The query belongs to the run."""
        sample = self._index.sample(SAMPLED, seed=query.id)
        if len(sample) == 0:
            return
        _, spread = _lower_half(row_products(sample, query.descriptor))
        self._spread = (self._count * self._spread + spread) / (self._count + 1)
        self._count = min(self._count + 1, MEMORY)


def _lower_half(similarities: np.ndarray) -> tuple[float, float]:
    low, centre = np.percentile(similarities, [16.0, 50.0])
    return float(centre), float(centre - low)
