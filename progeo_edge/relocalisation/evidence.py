"""From verified votes to a probability: Bayes' rule with pass rates that were measured.

`python -m tools.relocalisation_rates` measures them; docs/relocalisation.md shows the counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from progeo_edge.types import Verification


@dataclass(frozen=True, slots=True)
class PassRates:
    """How often a verification passes with at least so many inliers.

    Attributes:
        min_inliers: At least this many.
        right: Share of views at a place of the map that pass so at that place; lower confidence bound.
        wrong: Share of verified impostors that pass so; upper confidence bound.
    """

    min_inliers: int
    right: float
    wrong: float


PASSED = (
    PassRates(0, 0.91, 0.039),
    PassRates(60, 0.80, 0.0162),
    PassRates(100, 0.69, 0.0051),
    PassRates(150, 0.64, 0.0024),
)
"""By number of inliers. Wrong ones are from a building with look-alike floors: streets and corridors pass less."""
AGAIN_RIGHT = 0.95
"""A view passes at the right place when the view before it has; under the lower confidence bound of 0.97 in streets."""
AGAIN_WRONG = 0.55
"""A view passes at a wrong place that the view before it has passed at, too; the upper confidence bound is 0.41 among
look-alike floors, but with 0.41 a corridor of equal doors got a wrong answer."""
LEAST_PRIOR = 0.05
"""No appearance is proof for or against a place: a calibration knows only the light of the drives in the map."""


def likelihood_ratio(verification: Verification | None) -> float:
    """How much more likely a passed verification is at the right place than at a wrong one; 1 without any."""
    if verification is None:
        return 1.0
    passed = [rates for rates in PASSED if verification.num_inliers >= rates.min_inliers][-1]
    return passed.right / passed.wrong


def log_odds(prior: float, strongest: Verification | None, num_agreeing: int, num_others: int) -> float:
    """Logarithm of the odds of one place against no place of the map.

    Neighbouring views are not independent: a place that looks like another does so from the next metre, too. So only
    the strongest view counts in full, and every further one by how often a second view says the same at a right and at
    a wrong place.

    Args:
        prior: Probability by appearance, 0 to 1.
        strongest: Verification of the view with most inliers.
        num_agreeing: Further views that vote for this place.
        num_others: Views that do not.
    """
    prior = min(max(prior, LEAST_PRIOR), 1.0 - LEAST_PRIOR)
    first = math.log(prior / (1.0 - prior)) + math.log(likelihood_ratio(strongest))
    again = math.log(AGAIN_RIGHT / AGAIN_WRONG)
    missed = math.log((1.0 - AGAIN_RIGHT) / (1.0 - AGAIN_WRONG))
    return first + num_agreeing * again + num_others * missed


def posterior(log_odds_of_places: Sequence[float]) -> list[float]:
    """Probabilities of places that exclude each other, from their odds against no place of the map."""
    largest = max([0.0, *log_odds_of_places])
    weights = [math.exp(value - largest) for value in log_odds_of_places]
    return [weight / (sum(weights) + math.exp(-largest)) for weight in weights]
