"""From a cosine to the probability of being the same place: a logistic curve that knows the size of the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.calibration.tail import stretch
from progeo_edge.errors import CalibrationError

FloatArray = NDArray[np.float64]

_RIDGE = 1e-5
_STEPS = 50


@dataclass(frozen=True, slots=True)
class SamePlaceCurve:
    """log odds = offset + slope * stretch(cosine) - log(n / typical_keyframes) + log odds of the prior.

    The best of n impostors has a density that grows with n in the tail, so that the same cosine says less in a larger
    map. The slope is never negative: the curve is monotone.

    Attributes:
        offset: Log odds at cosine 0 in a map of the typical size, without the prior.
        slope: Per unit of the stretched cosine; 0 or more.
        typical_keyframes: Size of the map that the impostors of the fit came from (geometric mean).
        prior: Share of queries that see a known place.
    """

    offset: float
    slope: float
    typical_keyframes: float
    prior: float

    def probability(self, similarity: ArrayLike, num_keyframes: ArrayLike) -> FloatArray:
        """Of the best candidate being the same place, 0 to 1."""
        size = np.maximum(np.asarray(num_keyframes, np.float64), 1.0)
        log_odds = self.offset + self.slope * stretch(similarity, "cosine")
        log_odds = log_odds - np.log(size / self.typical_keyframes) + np.log(self.prior / (1.0 - self.prior))
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(log_odds, -500.0, 500.0))))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def fit_curve(
    positives: ArrayLike, impostor_maxima: ArrayLike, num_keyframes: ArrayLike, prior: float
) -> SamePlaceCurve:
    """Fit the curve (Platt, Probabilistic Outputs for Support Vector Machines, 1999, with both classes weighing alike).

    Args:
        positives: (P,) cosines of pairs of one place.
        impostor_maxima: (Q,) cosine of the best impostor of each query.
        num_keyframes: (Q,) keyframes it was the best of.
        prior: Share of queries that see a known place, 0 to 1 exclusive.

    Raises:
        CalibrationError: no positives or no impostors.
    """
    same, other = stretch(positives, "cosine"), stretch(impostor_maxima, "cosine")
    if len(same) == 0 or len(other) == 0:
        raise CalibrationError(
            f"{len(same)} pairs of one place and {len(other)} of different places; both are needed for probabilities"
        )
    sizes = np.asarray(num_keyframes, np.float64)
    typical = float(np.exp(np.log(sizes).mean()))
    t = np.concatenate([same, other])
    label = np.concatenate([np.ones(len(same)), np.zeros(len(other))])
    shift = np.concatenate([np.zeros(len(same)), -np.log(sizes / typical)])
    weight = np.concatenate([np.full(len(same), 0.5 / len(same)), np.full(len(other), 0.5 / len(other))])
    offset, slope = _logistic(t, label, shift, weight)
    if slope < 0.0:
        offset, slope = 0.0, 0.0
    return SamePlaceCurve(offset, slope, typical, prior)


def _logistic(t: FloatArray, label: FloatArray, shift: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Newton's method on the weighted log loss; the ridge keeps separable classes finite."""
    centre, width = float(t.mean()), max(float(t.std()), 1e-9)
    design = np.stack([np.ones_like(t), (t - centre) / width], axis=1)
    w = np.zeros(2)
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ w + shift, -500.0, 500.0)))
        gradient = design.T @ (weight * (p - label)) + _RIDGE * w
        hessian = design.T @ (design * (weight * p * (1.0 - p))[:, None]) + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        step = step / max(1.0, float(np.abs(step).max()))
        w = w - step
        if float(np.abs(step).max()) < 1e-9:
            break
    slope = float(w[1]) / width
    return float(w[0]) - slope * centre, slope
