"""Exact intervals of counted things: rates of rare events, and shares of few trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from progeo_edge.errors import InputError
from progeo_edge.evaluation.bootstrap import LEVEL, Interval

_STEPS = 200


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per hour.

    Attributes:
        count: Events seen.
        hours: Over this time.
        low: Lower bound of the exact interval, per hour.
        high: Upper bound.
    """

    count: int
    hours: float
    low: float
    high: float

    @property
    def per_hour(self) -> float:
        """Events seen per hour."""
        return self.count / self.hours

    def text(self) -> str:
        """Such as "2.5 [0.3, 9.0] per hour"."""
        return f"{_short(self.per_hour)} [{_short(self.low)}, {_short(self.high)}] per hour"

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "count": self.count,
            "hours": self.hours,
            "per_hour": self.per_hour,
            "low": self.low,
            "high": self.high,
        }


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def rate(count: int, hours: float, level: float = LEVEL) -> Rate:
    """Rate of a Poisson process with its exact interval (Garwood 1936).

    Args:
        count: Events seen.
        hours: Time they were counted over.
        level: Share of such intervals that hold the true rate, at least.

    Raises:
        InputError: a time that is not positive, or a negative count.
    """
    if not hours > 0 or count < 0:
        raise InputError(f"{count} events in {hours} hours have no rate; expected a count over a positive time")
    low, high = poisson_interval(count, level)
    return Rate(count, hours, low / hours, high / hours)


def poisson_interval(count: int, level: float = LEVEL) -> tuple[float, float]:
    """Bounds of the expected number of events when `count` were seen (Garwood 1936)."""
    tail = 0.5 * (1.0 - level)
    top = count + 20.0 * math.sqrt(count + 1.0) + 20.0
    low = 0.0 if count == 0 else _solve(lambda mean: 1.0 - _poisson_below(count - 1, mean), tail, top)
    return low, _solve(lambda mean: -_poisson_below(count, mean), -tail, top)


def binomial_interval(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Share of successes with its exact interval (Clopper and Pearson 1934); undefined without trials.

    Raises:
        InputError: more successes than trials.
    """
    if not 0 <= successes <= trials:
        raise InputError(f"{successes} successes in {trials} trials are not possible")
    if trials == 0:
        return Interval(None, None, None)
    tail = 0.5 * (1.0 - level)
    low = 0.0 if successes == 0 else _solve(lambda p: 1.0 - _binomial_below(successes - 1, trials, p), tail, 1.0)
    high = 1.0 if successes == trials else _solve(lambda p: -_binomial_below(successes, trials, p), -tail, 1.0)
    return Interval(successes / trials, low, high)


def _solve(rising: Callable[[float], float], wanted: float, top: float) -> float:
    """Where a function that rises over 0 to `top` takes a value: bisection."""
    low, high = 0.0, top
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return 0.5 * (low + high)


def _poisson_below(count: int, mean: float) -> float:
    """P(X <= count) of a Poisson variable."""
    if mean <= 0.0:
        return 1.0
    k = np.arange(count + 1)
    return _sum_exp(k * math.log(mean) - mean - _log_factorials(count)[: count + 1])


def _binomial_below(count: int, trials: int, p: float) -> float:
    """P(X <= count) of a binomial variable."""
    if p <= 0.0:
        return 1.0
    if p >= 1.0:
        return float(count >= trials)
    k = np.arange(count + 1)
    factorials = _log_factorials(trials)
    log_choose = factorials[trials] - factorials[k] - factorials[trials - k]
    return _sum_exp(log_choose + k * math.log(p) + (trials - k) * math.log1p(-p))


def _log_factorials(count: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])


def _sum_exp(logarithms: np.ndarray) -> float:
    return min(1.0, float(np.exp(logarithms).sum()))
