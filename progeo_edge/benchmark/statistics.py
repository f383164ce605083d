"""What many timings say: percentiles of one series, and the ratio of two that were measured in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class Summary:
    """One series of measurements; everything but `count` in the unit of the series.

    Attributes:
        count: Measurements, at least 1.
        min: Smallest: the time with the least disturbance.
        mean: Arithmetic mean; its inverse is the throughput.
        p50: Median.
        p90: 90th percentile, interpolated linearly between neighbours, as the two others.
        p99: 99th percentile; of fewer than 100 measurements it lies between the two largest.
        max: Largest.
        std: Standard deviation over the series; one long outlier dominates it.
        jitter: Mean absolute difference of successive measurements, as RFC 3550 takes it for packets: how much one
            frame differs from the one before. 0 for a single measurement.
    """

    count: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    std: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long the baseline takes as the contender: above 1 the contender is faster.

    Attributes:
        median: Median over rounds of (baseline / contender).
        low: Smallest of the rounds.
        high: Largest of the rounds.
        num_rounds: Rounds that both took part in, at least 1.
    """

    median: float
    low: float
    high: float
    num_rounds: int


def summarise(values: ArrayLike) -> Summary:
    """Describe a series.

    Args:
        values: (N,) finite numbers in the order in which they were measured, N at least 1.

    Raises:
        InputError: empty, not one-dimensional, or not finite.
    """
    series = _series(values, "measurements")
    p50, p90, p99 = np.percentile(series, (50.0, 90.0, 99.0)).tolist()
    return Summary(
        count=len(series),
        min=float(series.min()),
        mean=float(series.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        max=float(series.max()),
        std=float(series.std()),
        jitter=float(np.abs(np.diff(series)).mean()) if len(series) > 1 else 0.0,
    )


def round_medians(rounds: Sequence[ArrayLike]) -> list[float]:
    """Median of each round.

    Raises:
        InputError: no round, or one that is empty or not finite.
    """
    if not rounds:
        raise InputError("there are 0 rounds; expected at least 1")
    return [float(np.median(_series(values, "measurements of a round"))) for values in rounds]


def ratio_over_rounds(baseline: ArrayLike, contender: ArrayLike) -> Ratio:
    """How much faster a contender is, from an interleaved run: within a round both meet the same disturbance.

    Args:
        baseline: (R,) positive medians per round of the one compared with.
        contender: (R,) those of the other, of the same rounds in the same order and unit.

    Raises:
        InputError: different numbers of rounds, none, or times that are not positive.
    """
    slow, fast = _series(baseline, "rounds of the baseline"), _series(contender, "rounds of the contender")
    if len(slow) != len(fast):
        raise InputError(
            f"the baseline has {len(slow)} rounds, the contender {len(fast)}; both must take part in every round"
        )
    if min(slow.min(), fast.min()) <= 0:
        raise InputError("a round took no time; expected medians above 0, measure more work per round")
    ratios = slow / fast
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), len(ratios))


def _series(values: ArrayLike, name: str) -> NDArray[np.float64]:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not len(series):
        raise InputError(f"{name} have shape {series.shape}; expected (N,) with N at least 1")
    if not math.isfinite(float(series.sum())):
        raise InputError(f"{name} contain a value that is not finite; expected numbers only")
    return series
