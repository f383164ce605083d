"""Percentile intervals by resampling, for independent items and for sequences whose neighbours resemble each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value between the bounds of its bootstrap interval; all three are None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def percent(self, bound_digits: int = 1) -> str:
        """Such as "84.7 [77.5, 91.0]"; "-" where it is undefined."""
        if self.value is None:
            return "-"
        text = f"{100 * self.value:.1f}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{100 * self.low:.{bound_digits}f}, {100 * self.high:.{bound_digits}f}]"


def default_block_length(count: int) -> int:
    """About the square root of the number of keyframes: long enough for neighbours, short enough for many blocks."""
    return max(1, math.isqrt(count))


def resample(count: int, block_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of one bootstrap sample of `count` items: (count,) int64.

    With `block_length` 1 the items are drawn independently (Efron 1979). With more, runs of neighbours are drawn
    together, wrapping at the end: the circular block bootstrap (Politis and Romano 1992), which keeps the dependence
    between neighbouring keyframes inside the blocks.
    """
    starts = rng.integers(0, count, size=math.ceil(count / block_length))
    indices = (starts[:, None] + np.arange(block_length)[None, :]) % count
    return np.asarray(indices.ravel()[:count], np.int64)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    count: int,
    *,
    block_length: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Evaluate `statistic` on resampled indices.

    Args:
        statistic: Maps (count,) int64 indices to (S,) values; NaN where undefined.
        count: Number of items.
        block_length: Items drawn together; 1 for independent ones.
        resamples: Number of samples drawn.
        seed: Of the random generator; the same seed gives the same interval.

    Returns:
        (resamples, S) float64.

    Raises:
        InputError: nothing to draw from, or a block length or number of resamples below 1.
    """
    if count < 1:
        raise InputError("a bootstrap over 0 items has no meaning; it needs at least 1")
    if block_length < 1 or resamples < 1:
        raise InputError(f"block length {block_length} and resamples {resamples} must both be at least 1")
    rng = np.random.default_rng(seed)
    length = min(block_length, count)
    return np.stack([np.asarray(statistic(resample(count, length, rng)), np.float64) for _ in range(resamples)])


def percentile_bounds(
    samples: NDArray[np.float64], level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper percentile of (B, S) samples per column, NaN left out; NaN where a column is all NaN."""
    bounds = np.full((2, samples.shape[1]), np.nan)
    tail = 50.0 * (1.0 - level)
    defined = ~np.isnan(samples).all(axis=0)
    if defined.any():
        bounds[:, defined] = np.nanpercentile(samples[:, defined], [tail, 100.0 - tail], axis=0)
    return bounds[0], bounds[1]


def intervals(values: NDArray[np.float64], samples: NDArray[np.float64], level: float = LEVEL) -> list[Interval]:
    """Pair (S,) measured values with the percentile bounds of their (B, S) bootstrap samples."""
    low, high = percentile_bounds(samples, level)
    return [Interval(_known(v), _known(a), _known(b)) for v, a, b in zip(values, low, high, strict=True)]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
