"""Judge the loop closures of a run against labelled pairs with a neutral band."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.bootstrap import (
    RESAMPLES,
    Interval,
    bootstrap,
    default_block_length,
    intervals,
    percentile_bounds,
)
from progeo_edge.evaluation.curves import Curve, precision_recall
from progeo_edge.evaluation.labelled_run import LabelledRun, label_run
from progeo_edge.evaluation.labels import Matches
from progeo_edge.evaluation.loops_result import RECALL_GRID, CurveResult, LoopsResult
from progeo_edge.evaluation.promise import false_rates
from progeo_edge.evaluation.recorded_run import SCORES, RecordedRun, RunClosure, RunKeyframe
from progeo_edge.evaluation.reliability import judge_probabilities
from progeo_edge.evaluation.true_poses import TruePoses, label_by_poses

logger = logging.getLogger(__name__)


def judge_loops(
    run: RecordedRun,
    truth: Matches | TruePoses,
    *,
    exclusion_s: float | None = None,
    promised_per_hour: float | None = None,
    block_length: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LoopsResult:
    """Judge what a run accepted, and what it could have accepted at other thresholds.

    Args:
        run: The run.
        truth: The labelled pairs, of which the later keyframe asks; or true poses.
        exclusion_s: Positives closer in time than this are nothing to find; None takes the run's own.
        promised_per_hour: False accepts per hour before geometry to hold the run against; None takes the run's own.
        block_length: Of the block bootstrap over keyframes; None takes the square root of their number.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        SourceError: run and truth do not meet, or there is no revisit to find.
    """
    exclusion_s = run.exclusion_s if exclusion_s is None else exclusion_s
    labelled = label(run, truth, exclusion_s)
    has_positive = labelled.has_positive()
    if not has_positive.any():
        raise SourceError(
            f"no keyframe of {run.path} has a positive in {truth.path} outside the exclusion of {exclusion_s:g} s; "
            "check the labels, or set another --exclude-within-s"
        )
    length = default_block_length(len(run.keyframes)) if block_length is None else block_length
    measure = _Measure(has_positive, length, resamples, seed)
    accepted = _judge_closures(run, labelled)
    precision, recall = measure.accepted(accepted)
    events = labelled.events()
    probabilities = best_candidates(run.keyframes, "probability", labelled)
    return LoopsResult(
        num_keyframes=len(run.keyframes),
        num_revisits=int(has_positive.sum()),
        num_excluded=labelled.num_excluded,
        num_unlisted=labelled.num_unlisted,
        exclusion_s=exclusion_s,
        num_closures=accepted.num_neutral + int(accepted.right.sum() + accepted.wrong.sum()),
        num_neutral_closures=accepted.num_neutral,
        precision=precision,
        recall=recall,
        false_closures=tuple(accepted.false_closures),
        num_events=len(events),
        event_recall=measure.events(events, accepted),
        curves=tuple(
            measure.curve(score, *best_candidates(run.keyframes, score, labelled)) for score in _scores_in(run)
        ),
        statuses=Counter(keyframe.status for keyframe in run.keyframes),
        candidate_statuses=Counter(c.status for keyframe in run.keyframes for c in keyframe.candidates),
        block_length=length,
        missed_events=tuple(_ends(run, event) for event in events if not (accepted.right[event] > 0).any()),
        rates=false_rates(run, labelled, accepted.false_closures, promised_per_hour),
        reliability=judge_probabilities(*probabilities, block_length=length, resamples=resamples, seed=seed),
    )


def label(run: RecordedRun, truth: Matches | TruePoses, exclusion_s: float) -> LabelledRun:
    """Put the truth on the keyframes of a run, whatever kind it is of."""
    if isinstance(truth, TruePoses):
        return label_by_poses(run, truth, exclusion_s)
    return label_run(run, truth, exclusion_s)


def best_candidates(
    keyframes: Sequence[RunKeyframe], score: str, labelled: LabelledRun
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """The largest score of each keyframe, (K,) float64, NaN without one; and whether its candidate is right, (K,) int8.

    Verdicts are 1 right, -1 wrong, 0 neutral or without a prediction.
    """
    scores = np.full(len(keyframes), np.nan)
    verdicts = np.zeros(len(keyframes), np.int8)
    for row, keyframe in enumerate(keyframes):
        scored = [candidate for candidate in keyframe.candidates if score in candidate.scores]
        if scored:
            best = max(scored, key=lambda candidate: candidate.scores[score])
            scores[row] = best.scores[score]
            verdicts[row] = labelled.verdict(row, best.reference)
    return scores, verdicts


@dataclass(frozen=True, slots=True)
class _Accepted:
    """Right and wrong closures per keyframe, (K,) int64 each; neutral ones; the wrong ones by name."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    num_neutral: int
    false_closures: list[RunClosure]


def _judge_closures(run: RecordedRun, labelled: LabelledRun) -> _Accepted:
    row_of = {keyframe.query: row for row, keyframe in enumerate(run.keyframes)}
    counts = np.zeros((3, len(run.keyframes)), np.int64)
    false_closures = []
    for closure in run.closures:
        row = row_of.get(closure.query)
        if row is None:
            logger.warning("closure of %s is left out: the run has no such keyframe", closure.query)
            continue
        verdict = labelled.verdict(row, closure.reference)
        counts[verdict, row] += 1
        if verdict < 0:
            false_closures.append(closure)
    return _Accepted(counts[1], counts[-1], int(counts[0].sum()), false_closures)


@dataclass(frozen=True, slots=True)
class _Measure:
    """Figures with their block-bootstrap intervals over the keyframes."""

    has_positive: NDArray[np.bool_]
    block_length: int
    resamples: int
    seed: int

    def accepted(self, accepted: _Accepted) -> tuple[Interval, Interval]:
        """Precision over closures and recall over revisits, at the thresholds the run had."""
        judged = accepted.right + accepted.wrong
        found = accepted.right > 0

        def statistic(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            precision = _ratio(accepted.right[rows].sum(), judged[rows].sum())
            return np.array([precision, _ratio(found[rows].sum(), self.has_positive[rows].sum())])

        precision, recall = self._intervals(statistic)
        return precision, recall

    def events(self, events: Sequence[NDArray[np.int64]], accepted: _Accepted) -> Interval:
        """Share of the events closed at least once; events are far apart, so they are resampled one by one."""
        closed = np.array([(accepted.right[event] > 0).any() for event in events], np.float64)
        samples = bootstrap(
            lambda rows: closed[rows].mean(keepdims=True), len(closed), resamples=self.resamples, seed=self.seed
        )
        return intervals(closed.mean(keepdims=True), samples)[0]

    def curve(self, score: str, scores: NDArray[np.float64], verdicts: NDArray[np.int8]) -> CurveResult:
        """The curve of one score, its figures, and the band of its precision."""

        def statistic(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            num_positive = int(self.has_positive[rows].sum())
            if num_positive == 0:
                return np.full(4 + len(RECALL_GRID), np.nan)
            curve = precision_recall(scores[rows], verdicts[rows], num_positive)
            return np.concatenate([_figures(curve), curve.precision_at_recall(RECALL_GRID)])

        samples = self._samples(statistic)
        curve = precision_recall(scores, verdicts, int(self.has_positive.sum()))
        average, best_f1, at_100, at_95 = intervals(_figures(curve), samples[:, :4])
        band = np.stack(percentile_bounds(samples[:, 4:]))
        # Where few samples reach a recall, those few are the lucky ones.
        band[:, np.isnan(samples[:, 4:]).mean(axis=0) > 0.05] = np.nan
        return CurveResult(
            score=score,
            curve=curve,
            average_precision=average,
            max_f1=best_f1,
            max_f1_threshold=curve.max_f1()[1],
            recall_at_100=at_100,
            recall_at_100_threshold=curve.recall_at_precision(1.0)[1],
            recall_at_95=at_95,
            band=band,
            num_neutral=int(((verdicts == 0) & ~np.isnan(scores)).sum()),
        )

    def _intervals(self, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> list[Interval]:
        return intervals(statistic(np.arange(len(self.has_positive))), self._samples(statistic))

    def _samples(self, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        return bootstrap(
            statistic,
            len(self.has_positive),
            block_length=self.block_length,
            resamples=self.resamples,
            seed=self.seed,
        )


def _ends(run: RecordedRun, event: NDArray[np.int64]) -> tuple[str, str]:
    return run.keyframes[event[0]].query, run.keyframes[event[-1]].query


def _figures(curve: Curve) -> NDArray[np.float64]:
    return np.array(
        [
            curve.average_precision(),
            curve.max_f1()[0],
            curve.recall_at_precision(1.0)[0],
            curve.recall_at_precision(0.95)[0],
        ]
    )


def _scores_in(run: RecordedRun) -> list[str]:
    written = {name for keyframe in run.keyframes for candidate in keyframe.candidates for name in candidate.scores}
    return [score for score in SCORES if score in written]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
