"""Maps that have learned enough for a calibration, without a drive of hundreds of keyframes."""

from __future__ import annotations

import numpy as np

from progeo_edge.calibration.impostors import ImpostorMaximum
from progeo_edge.calibration.observations import Observations
from progeo_edge.map_store import MapStore

NUM_QUERIES = 400


def observations(*, impostor: float = 0.3, same_place: float = 0.9, num_queries: int = NUM_QUERIES) -> Observations:
    """As after `num_queries` keyframes, one a second: impostors and pairs of one place score about so much."""
    rng, seen = np.random.default_rng(0), Observations()
    for k in range(num_queries):
        seen.add_impostor(ImpostorMaximum(float(impostor + 0.02 * rng.gumbel()), 50 + k, False))
        seen.add_neighbour(float(np.clip(same_place + 0.03 * rng.standard_normal(), -1.0, 1.0)))
        seen.add_interval(1.0)
        seen.set_map_size(50 + k)
    return seen


def teach(store: MapStore, seen: Observations | None = None) -> None:
    """Put what was observed into a map, as the detector does when it is closed."""
    store.set_blob("calibration_observations:cam0", (seen or observations()).to_bytes())
