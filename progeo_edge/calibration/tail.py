"""The upper tail of what different places score, and the score that a promised number of false closures allows.

A query is falsely accepted when the largest score among its impostors passes the gate. Scores above a level come like
the points of a Poisson process, so that the largest of many impostors follows a Gumbel law whose location grows with
the logarithm of their number (Coles, An Introduction to Statistical Modeling of Extreme Values, sections 3.1 and 7.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import CalibrationError

FloatArray = NDArray[np.float64]
Scale = Literal["cosine", "plain"]
"""How a score is stretched before its tail is exponential: "cosine" for scores that end at 1, "plain" for others."""

CENSORED_SHARE = 0.5
"""The lower half of the maxima only counts as "below the level": the fit is to serve the tail."""
MIN_LARGE = 20
"""Maxima above the level without which there is no tail to speak of."""
_EDGE = 1e-6
_NEWTON_STEPS = 60


@dataclass(frozen=True, slots=True)
class ImpostorTail:
    """Expected number of impostors above a score, per query and per keyframe of the map.

    In stretched scores t (see `stretch`) the expected number among n keyframes is n exp(log_rate - slope (t - level)).

    Attributes:
        scale: How scores are stretched.
        level: Stretched score above which the law was fitted.
        log_rate: Logarithm of the number expected above `level`, per keyframe of the map.
        slope: Decay per unit of stretched score.
        num_large: Independent maxima above the level; the fewer, the more cautious beyond it.
        num_queries: Queries that the law was fitted to.
    """

    scale: Scale
    level: float
    log_rate: float
    slope: float
    num_large: float
    num_queries: int

    def expected(self, score: ArrayLike, num_keyframes: ArrayLike) -> FloatArray:
        """Impostors expected above a score among so many keyframes.

        Above the level this is the average over what the slope may be, given how few maxima it was learned from (a
        gamma posterior turns the exponential into a power law), so that the promise holds on average and not only for
        an infinite sample.
        """
        t = stretch(score, self.scale)
        at_level = np.asarray(num_keyframes, np.float64) * np.exp(self.log_rate)
        beyond = self.slope * (t - self.level)
        decay = np.where(
            beyond > 0,
            (1.0 + np.maximum(beyond, 0.0) / self.num_large) ** -self.num_large,
            np.exp(-np.minimum(beyond, 0.0)),
        )
        return np.asarray(at_level * decay)

    def false_probability(self, score: ArrayLike, num_keyframes: ArrayLike) -> FloatArray:
        """Probability that at least one impostor of a query scores above `score`."""
        return np.asarray(-np.expm1(-self.expected(score, num_keyframes)))

    def score_at(self, false_probability: float, num_keyframes: float) -> float:
        """The score that the best impostor of a query exceeds with this probability; the inverse of the above."""
        wanted = -np.log1p(-min(max(false_probability, 1e-300), 1.0 - 1e-12))
        ratio = num_keyframes * np.exp(self.log_rate) / wanted
        if ratio > 1.0:
            beyond = self.num_large * np.expm1(np.log(ratio) / self.num_large)
        else:
            beyond = np.log(max(ratio, 1e-300))
        return float(unstretch(self.level + beyond / self.slope, self.scale))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def stretch(score: ArrayLike, scale: Scale) -> FloatArray:
    """Cosines c to -log(1 - c), in which the tail of a score that ends at 1 is exponential; others as they are."""
    values = np.asarray(score, np.float64)
    return np.asarray(-np.log(np.maximum(1.0 - values, _EDGE))) if scale == "cosine" else values


def unstretch(t: float, scale: Scale) -> float:
    """The inverse of `stretch`."""
    return float(-np.expm1(-t)) if scale == "cosine" else float(t)


def fit_tail(
    maxima: ArrayLike,
    num_keyframes: ArrayLike,
    second: ArrayLike | None = None,
    *,
    scale: Scale = "cosine",
) -> ImpostorTail:
    """Fit the law by maximum likelihood, with the lower half of the maxima censored.

    Args:
        maxima: (Q,) largest impostor score of each query, in the order of the queries.
        num_keyframes: (Q,) keyframes that it was the largest of.
        second: (Q,) bool, True where the score is known to be no better than the second largest; None for nowhere.
        scale: How scores are stretched.

    Raises:
        CalibrationError: too few maxima, or all of them equal.
    """
    t = stretch(maxima, scale)
    weights = np.asarray(num_keyframes, np.float64)
    is_second = np.zeros(len(t), bool) if second is None else np.asarray(second, bool)
    if len(t) == 0 or not np.all(np.isfinite(t)) or np.any(weights <= 0):
        raise CalibrationError("maxima of impostors are empty or not finite; give one finite score per query")
    level = float(np.quantile(t, CENSORED_SHARE))
    large = t > level
    if large.sum() < MIN_LARGE:
        raise CalibrationError(
            f"{len(t)} queries leave {int(large.sum())} maxima to fit a tail to; at least {MIN_LARGE} are needed: "
            "drive further"
        )
    spread = float(t[large].mean() - level)
    if spread < 1e-9:
        raise CalibrationError("the best impostors of all queries score the same: there is no tail to extrapolate")
    mean_weight = float(np.exp(np.log(weights).mean()))
    log_rate, slope = _most_likely(np.maximum(t - level, 0.0), large, weights / mean_weight, is_second, 1.0 / spread)
    return ImpostorTail(scale, level, log_rate - float(np.log(mean_weight)), slope, float(_independent(large)), len(t))


def _most_likely(
    excess: FloatArray, large: NDArray[np.bool_], weights: FloatArray, second: NDArray[np.bool_], slope: float
) -> tuple[float, float]:
    """Newton's method with halved steps in (log of the rate at the level, log of the slope)."""

    def log_likelihood(parameters: FloatArray) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            log_expected = np.log(weights) + parameters[0] - np.exp(parameters[1]) * excess
            expected = np.exp(log_expected)
            order = np.where(second, 2.0, 1.0)
            seen = order * log_expected + parameters[1] - expected
            below = -expected + np.where(second, np.log1p(expected), 0.0)
            total = float(np.where(large, seen, below).sum())
        return total if np.isfinite(total) else -np.inf

    current = np.array([0.0, np.log(slope)])
    best = log_likelihood(current)
    for _ in range(_NEWTON_STEPS):
        gradient, hessian = _derivatives(log_likelihood, current)
        step = _ascent(gradient, hessian)
        while (value := log_likelihood(current + step)) < best and np.abs(step).max() > 1e-9:
            step = 0.5 * step
        if value <= best + 1e-10:
            break
        current, best = current + step, value
    return float(current[0]), float(np.exp(current[1]))


def _derivatives(function: Any, at: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401
    """Central differences of a function of two numbers: gradient (2,) and Hessian (2, 2)."""
    h = 1e-4
    x, y = np.array([h, 0.0]), np.array([0.0, h])
    centre = function(at)
    right, left, up, down = function(at + x), function(at - x), function(at + y), function(at - y)
    cross = (function(at + x + y) - function(at + x - y) - function(at - x + y) + function(at - x - y)) / (4 * h * h)
    gradient = np.array([right - left, up - down]) / (2 * h)
    hessian = np.array([[(right - 2 * centre + left) / (h * h), cross], [cross, (up - 2 * centre + down) / (h * h)]])
    return gradient, hessian


def _ascent(gradient: FloatArray, hessian: FloatArray) -> FloatArray:
    """Newton's step where the function is concave, else a short step uphill; at most 1 in either direction."""
    if np.linalg.eigvalsh(hessian).max() < -1e-9:
        step = -np.linalg.solve(hessian, gradient)
    else:
        step = gradient / max(float(np.linalg.norm(gradient)), 1e-12)
    return np.asarray(step / max(1.0, float(np.abs(step).max())))


def _independent(large: NDArray[np.bool_]) -> int:
    """Runs of large maxima in a row: neighbouring queries see the same impostor and count once."""
    return int(np.count_nonzero(np.diff(np.concatenate([[False], large]).astype(np.int8)) == 1))
