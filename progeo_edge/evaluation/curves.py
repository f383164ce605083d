"""Precision and recall over a threshold, and the figures read from the curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class Curve:
    """One point per distinct score, from the strictest threshold to the loosest; "accepted" means score >= threshold.

    Attributes:
        thresholds: (T,) float64, descending.
        precision: (T,) float64, share of the accepted that is right.
        recall: (T,) float64, share of all that should be found that is accepted and right.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def average_precision(self) -> float:
        """Area under the steps of the curve: sum of (recall gained) * precision at each threshold, no interpolation."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    def max_f1(self) -> tuple[float, float]:
        """Largest harmonic mean of precision and recall, and its threshold (NaN when nothing is right)."""
        total = self.precision + self.recall
        f1 = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        if not f1.any():
            return 0.0, float("nan")
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.thresholds[best])

    def recall_at_precision(self, precision: float) -> tuple[float, float]:
        """Largest recall at a threshold with at least this precision, and the threshold; 0 and NaN without one."""
        # 19 of 20 must count as 95 %, whatever its last binary digit.
        allowed = np.flatnonzero((self.precision >= precision - 1e-12) & (self.recall > 0))
        if len(allowed) == 0:
            return 0.0, float("nan")
        best = allowed[np.argmax(self.recall[allowed])]
        return float(self.recall[best]), float(self.thresholds[best])

    def precision_at_recall(self, recall: NDArray[np.float64]) -> NDArray[np.float64]:
        """Precision at the strictest threshold that reaches each recall; NaN where none does."""
        first = np.searchsorted(self.recall, recall - 1e-12)
        reached = first < len(self.recall)
        result = np.full(len(recall), np.nan)
        result[reached] = self.precision[first[reached]]
        return result


def precision_recall(scores: NDArray[np.float64], verdicts: NDArray[np.int8], num_positive: int) -> Curve:
    """Curve over one scored prediction per keyframe. Equal scores share one point, since no threshold separates them.

    Args:
        scores: (P,) score of each prediction.
        verdicts: (P,) 1 right, -1 wrong, 0 neutral (left out).
        num_positive: Keyframes that have something to find, whether or not there is a prediction for them.

    Raises:
        InputError: lengths differ, or more right predictions than keyframes with something to find.
    """
    if scores.shape != verdicts.shape or scores.ndim != 1:
        raise InputError(f"scores {scores.shape} and verdicts {verdicts.shape} must be two vectors of one length")
    if int((verdicts > 0).sum()) > num_positive:
        raise InputError(f"{int((verdicts > 0).sum())} predictions are right, yet only {num_positive} could be")
    judged = verdicts != 0
    order = np.argsort(-scores[judged], kind="stable")
    ordered, right = scores[judged][order], verdicts[judged][order] > 0
    last_of_equal = np.flatnonzero(np.diff(ordered, append=-np.inf) != 0)
    num_right = np.cumsum(right)[last_of_equal]
    return Curve(
        thresholds=ordered[last_of_equal],
        precision=num_right / (last_of_equal + 1.0),
        recall=num_right / max(num_positive, 1),
    )
