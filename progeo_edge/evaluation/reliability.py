"""Do the probabilities mean what they say? Stated probability against the observed share of right candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.evaluation.bootstrap import Interval, bootstrap, intervals
from progeo_edge.evaluation.counts import binomial_interval

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Candidates whose probability lies in one tenth of the scale.

    Attributes:
        low: Smallest probability of the bin.
        high: Largest; the last bin holds 1.
        count: Candidates in it.
        stated: Their mean probability.
        observed: Share of them that is right, with its exact interval for independent candidates.
    """

    low: float
    high: float
    count: int
    stated: float
    observed: Interval

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "stated": self.stated,
            "observed": self.observed.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability diagram in numbers.

    Attributes:
        bins: Those that hold a candidate, in order.
        ece: Expected calibration error: mean distance of stated and observed share over the bins, weighed by count.
        brier: Brier score: mean square of probability minus outcome (0 or 1).
        brier_of_base_rate: What always stating the share of right candidates would get; a useful probability is below.
        num_candidates: Best candidates judged; neutral ones are left out.
    """

    bins: tuple[Bin, ...]
    ece: Interval
    brier: Interval
    brier_of_base_rate: float
    num_candidates: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_candidates": self.num_candidates,
            "ece": self.ece.to_dict(),
            "brier": self.brier.to_dict(),
            "brier_of_base_rate": self.brier_of_base_rate,
            "bins": [one.to_dict() for one in self.bins],
        }


def judge_probabilities(
    probabilities: NDArray[np.float64],
    verdicts: NDArray[np.int8],
    *,
    block_length: int,
    resamples: int,
    seed: int,
) -> Reliability | None:
    """Judge the probability of each keyframe's best candidate.

    Args:
        probabilities: (K,) of the best candidate per keyframe; NaN without one.
        verdicts: (K,) 1 right, -1 wrong, 0 neutral or none.
        block_length: Of the block bootstrap for ECE and Brier score; neighbouring keyframes resemble each other.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        None when there is nothing to judge.
    """
    judged = (verdicts != 0) & ~np.isnan(probabilities)
    if not judged.any():
        return None
    right = np.where(verdicts > 0, 1.0, 0.0)

    def statistic(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = rows[judged[rows]]
        if len(chosen) == 0:
            return np.full(2, np.nan)
        return np.array([_ece(probabilities[chosen], right[chosen]), _brier(probabilities[chosen], right[chosen])])

    rows = np.arange(len(probabilities))
    samples = bootstrap(statistic, len(rows), block_length=block_length, resamples=resamples, seed=seed)
    ece, brier = intervals(statistic(rows), samples)
    base_rate = float(right[judged].mean())
    return Reliability(
        bins=_bins(probabilities[judged], right[judged]),
        ece=ece,
        brier=brier,
        brier_of_base_rate=base_rate * (1.0 - base_rate),
        num_candidates=int(judged.sum()),
    )


def _bin_of(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    # 0.3 is 2.9999... tenths in binary; it belongs to the bin that begins with it.
    return np.asarray(np.clip(np.floor(probabilities * NUM_BINS + 1e-9), 0, NUM_BINS - 1), np.int64)


def _bins(probabilities: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[Bin, ...]:
    numbers = _bin_of(probabilities)
    result = []
    for number in np.unique(numbers):
        inside = numbers == number
        count, num_right = int(inside.sum()), int(right[inside].sum())
        observed = binomial_interval(num_right, count)
        low, high = float(number / NUM_BINS), float((number + 1) / NUM_BINS)
        result.append(Bin(low, high, count, float(probabilities[inside].mean()), observed))
    return tuple(result)


def _ece(probabilities: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Naeini, Cooper and Hauskrecht 2015, with bins of equal width."""
    gaps = np.bincount(_bin_of(probabilities), weights=probabilities - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _brier(probabilities: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Brier 1950, for two outcomes."""
    return float(np.mean((probabilities - right) ** 2))
