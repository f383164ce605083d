"""What the judgement of a run holds, and how it is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.evaluation.bootstrap import Interval
from progeo_edge.evaluation.curves import Curve
from progeo_edge.evaluation.promise import FalseRates
from progeo_edge.evaluation.recorded_run import RunClosure
from progeo_edge.evaluation.reliability import Reliability

RECALL_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class CurveResult:
    """What one score would reach, were the best candidate of each keyframe accepted from some threshold on.

    Attributes:
        score: similarity, rerank_score, probability or num_inliers.
        curve: The precision-recall curve.
        average_precision: Area under it.
        max_f1: Best harmonic mean; its threshold is `max_f1_threshold`.
        recall_at_100: R@100P, decided by the single most confident error; its threshold is `recall_at_100_threshold`.
        recall_at_95: R@95P.
        band: (2, 101) precision bounds at `RECALL_GRID`; NaN beyond what most samples reach.
        num_neutral: Keyframes whose best candidate is neutral; they make no prediction.
    """

    score: str
    curve: Curve
    average_precision: Interval
    max_f1: Interval
    max_f1_threshold: float
    recall_at_100: Interval
    recall_at_100_threshold: float
    recall_at_95: Interval
    band: NDArray[np.float64]
    num_neutral: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "average_precision": self.average_precision.to_dict(),
            "max_f1": self.max_f1.to_dict() | {"threshold": _finite(self.max_f1_threshold)},
            "recall_at_100_precision": self.recall_at_100.to_dict()
            | {"threshold": _finite(self.recall_at_100_threshold)},
            "recall_at_95_precision": self.recall_at_95.to_dict(),
            "num_neutral": self.num_neutral,
            "curve": {
                "threshold": self.curve.thresholds.tolist(),
                "precision": self.curve.precision.tolist(),
                "recall": self.curve.recall.tolist(),
            },
        }


@dataclass(frozen=True, slots=True)
class LoopsResult:
    """A run judged.

    Attributes:
        num_keyframes: Keyframes of the run.
        num_revisits: Those with at least one positive; the denominator of every recall.
        num_excluded: As in `LabelledRun`.
        num_unlisted: As in `LabelledRun`.
        exclusion_s: Positives closer in time than this are nothing to find.
        num_closures: Closures accepted by the run: right, neutral and wrong ones.
        num_neutral_closures: Closures on pairs of the neutral band.
        precision: Right closures / (right + wrong).
        recall: Share of the revisits with at least one right closure.
        false_closures: The wrong ones.
        num_events: Runs of consecutive revisits.
        event_recall: Share of events with at least one right closure.
        curves: Per score that the run wrote.
        statuses: Keyframes per status.
        candidate_statuses: Candidates per status.
        block_length: Neighbouring keyframes resampled together for the intervals.
        missed_events: First and last keyframe of each event without a right closure.
        rates: False accepts per hour; None where the keyframes span no time.
        reliability: Of the probabilities; None where the run wrote none.
    """

    num_keyframes: int
    num_revisits: int
    num_excluded: int
    num_unlisted: int
    exclusion_s: float
    num_closures: int
    num_neutral_closures: int
    precision: Interval
    recall: Interval
    false_closures: tuple[RunClosure, ...]
    num_events: int
    event_recall: Interval
    curves: tuple[CurveResult, ...]
    statuses: Mapping[str, int]
    candidate_statuses: Mapping[str, int]
    block_length: int
    missed_events: tuple[tuple[str, str], ...] = ()
    rates: FalseRates | None = None
    reliability: Reliability | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_keyframes": self.num_keyframes,
            "num_revisits": self.num_revisits,
            "num_excluded": self.num_excluded,
            "num_unlisted": self.num_unlisted,
            "exclusion_s": self.exclusion_s,
            "block_length": self.block_length,
            "accepted": {
                "num_closures": self.num_closures,
                "num_neutral": self.num_neutral_closures,
                "num_false": len(self.false_closures),
                "precision": self.precision.to_dict(),
                "recall": self.recall.to_dict(),
                "false_closures": [
                    {
                        "query": closure.query,
                        "reference": closure.reference,
                        "similarity": closure.similarity,
                        "num_inliers": closure.num_inliers,
                    }
                    for closure in self.false_closures
                ],
            },
            "events": {
                "num": self.num_events,
                "recall": self.event_recall.to_dict(),
                "missed": [list(event) for event in self.missed_events],
            },
            "false_per_hour": None if self.rates is None else self.rates.to_dict(),
            "reliability": None if self.reliability is None else self.reliability.to_dict(),
            "curves": {curve.score: curve.to_dict() for curve in self.curves},
            "statuses": dict(self.statuses),
            "candidate_statuses": dict(self.candidate_statuses),
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
