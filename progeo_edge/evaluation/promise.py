"""Was the promise kept? False accepts per hour, before and after the geometry, against what the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from progeo_edge.evaluation.counts import Rate, rate
from progeo_edge.evaluation.labelled_run import LabelledRun
from progeo_edge.evaluation.recorded_run import RecordedRun, RunClosure, ScoredReference
from progeo_edge.types import Status

REFUSED_BEFORE_GEOMETRY = frozenset(
    status.value for status in (Status.LOW_SIMILARITY, Status.SUPPRESSED, Status.FAILED_SEQUENCE)
)
"""A candidate with one of these was refused before the geometry. With another status it had passed the gates there,
unless the run says that it was not `supported`: such a candidate is verified with what is left of the budget."""

Verdict = Literal["kept", "not contradicted", "broken"]


@dataclass(frozen=True, slots=True)
class FalseAccept:
    """A keyframe whose best candidate passed the gates before the geometry, though it shows another place."""

    query: str
    reference: str
    similarity: float
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "query": self.query,
            "reference": self.reference,
            "similarity": self.similarity,
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True)
class FalseRates:
    """False accepts per hour of a run.

    Attributes:
        before_geometry: Keyframes whose best candidate passed the gates though it is wrong, counted from the first
            keyframe with a calibrated probability on; over the whole run where there is none.
        after_geometry: Wrong closures.
        promised_per_hour: `calibration.max_false_per_hour`, which speaks of the rate before geometry; None without.
        false_accepts: Those before geometry by name.
    """

    before_geometry: Rate
    after_geometry: Rate
    promised_per_hour: float | None
    false_accepts: tuple[FalseAccept, ...]

    @property
    def verdict(self) -> Verdict | None:
        """Whether the interval of the rate before geometry lies below the promise, holds it, or lies above it."""
        if self.promised_per_hour is None:
            return None
        if self.before_geometry.high <= self.promised_per_hour:
            return "kept"
        return "not contradicted" if self.before_geometry.low <= self.promised_per_hour else "broken"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "before_geometry": self.before_geometry.to_dict(),
            "after_geometry": self.after_geometry.to_dict(),
            "promised_per_hour": self.promised_per_hour,
            "verdict": self.verdict,
            "false_accepts": [accept.to_dict() for accept in self.false_accepts],
        }


def false_rates(
    run: RecordedRun,
    labelled: LabelledRun,
    false_closures: Sequence[RunClosure],
    promised_per_hour: float | None = None,
) -> FalseRates | None:
    """Count false accepts over the time from the first keyframe to the last.

    Before the geometry only the time counts in which a calibration was in force: the promise speaks of no other.

    Args:
        run: The run.
        labelled: Its labels.
        false_closures: Its wrong closures.
        promised_per_hour: What to hold it against; None takes that of the run's config.

    Returns:
        None where the keyframes span no time, as images without stamps do.
    """
    if run.hours <= 0:
        return None
    first = _first_calibrated(run)
    hours = run.hours_from(first)
    if hours <= 0:  # the calibration came with the last keyframe
        first, hours = 0, run.hours
    accepts = false_accepts(run, labelled, first)
    return FalseRates(
        before_geometry=rate(len(accepts), hours),
        after_geometry=rate(len(false_closures), run.hours),
        promised_per_hour=run.max_false_per_hour if promised_per_hour is None else promised_per_hour,
        false_accepts=accepts,
    )


def false_accepts(run: RecordedRun, labelled: LabelledRun, first: int = 0) -> tuple[FalseAccept, ...]:
    """Keyframes from number `first` on whose best candidate before geometry is wrong; one that is neutral is none."""
    found = []
    for row, keyframe in list(enumerate(run.keyframes))[first:]:
        best = _best_passed(keyframe.candidates)
        if best is not None and labelled.verdict(row, best.reference) < 0:
            scores = best.scores
            found.append(FalseAccept(keyframe.query, best.reference, scores["similarity"], scores.get("probability")))
    return tuple(found)


def _best_passed(candidates: Sequence[ScoredReference]) -> ScoredReference | None:
    passed = [candidate for candidate in candidates if _passed(candidate)]
    return max(passed, key=lambda candidate: candidate.scores["similarity"], default=None)


def _passed(candidate: ScoredReference) -> bool:
    if candidate.supported is not None:
        return candidate.supported
    return candidate.status not in REFUSED_BEFORE_GEOMETRY


def _first_calibrated(run: RecordedRun) -> int:
    """Number of the first keyframe with a probability; 0 in a run without any."""
    for row, keyframe in enumerate(run.keyframes):
        if any("probability" in candidate.scores for candidate in keyframe.candidates):
            return row
    return 0
