from __future__ import annotations

import json
from dataclasses import replace

import pytest

from progeo_edge.config import Config
from progeo_edge.evaluation.labels import Matches
from progeo_edge.evaluation.loops import judge_loops
from progeo_edge.evaluation.promise import REFUSED_BEFORE_GEOMETRY
from progeo_edge.evaluation.recorded_run import RecordedRun, RunClosure, RunKeyframe, ScoredReference, read_run
from progeo_edge.types import Status

HOUR_NS = 3600 * 10**9


def _candidate(reference, similarity, status, probability=None):
    scores = {"similarity": similarity} | ({} if probability is None else {"probability": probability})
    return ScoredReference(reference, status, scores)


def _run(tmp_path, candidates, closures=(), hours=2.0, promised=None):
    """Keyframes 0 to 9 spread over the hours."""
    keyframes = tuple(
        RunKeyframe(f"{row}.jpg", int(row * hours * HOUR_NS / 9), "X", tuple(candidates.get(row, ())))
        for row in range(10)
    )
    return RecordedRun(tmp_path, keyframes, tuple(closures), 0.0, promised)


def _judge(run, tmp_path, ignored=(), **options):
    positive = {("4.jpg", "0.jpg"), ("5.jpg", "1.jpg"), ("6.jpg", "2.jpg")}
    return judge_loops(
        run, Matches(tmp_path / "m.csv", frozenset(positive), frozenset(ignored), True), resamples=5, **options
    )


def test_false_accepts_by_hand(tmp_path):
    candidates = {
        4: [_candidate("0.jpg", 0.9, "ACCEPTED"), _candidate("3.jpg", 0.8, "FEW_INLIERS")],  # the best is right
        5: [_candidate("3.jpg", 0.9, "FEW_MATCHES"), _candidate("1.jpg", 0.8, "ACCEPTED")],  # the best is wrong
        6: [_candidate("3.jpg", 0.9, "LOW_SIMILARITY"), _candidate("2.jpg", 0.8, "ACCEPTED")],  # refused at the gate
        7: [_candidate("3.jpg", 0.9, "FAILED_SEQUENCE"), _candidate("2.jpg", 0.7, "SUPPRESSED")],
        8: [_candidate("3.jpg", 0.9, "NOT_VERIFIED")],  # passed, and the budget was spent
        9: [_candidate("1.jpg", 0.9, "ACCEPTED")],  # neutral
    }
    closures = [RunClosure("4.jpg", "0.jpg", 0.9, 50), RunClosure("8.jpg", "3.jpg", 0.9, 50)]
    rates = _judge(_run(tmp_path, candidates, closures), tmp_path, ignored={("9.jpg", "1.jpg")}).rates
    assert rates is not None
    assert [(a.query, a.reference) for a in rates.false_accepts] == [("5.jpg", "3.jpg"), ("8.jpg", "3.jpg")]
    assert rates.before_geometry.per_hour == 1.0
    assert rates.after_geometry.per_hour == 0.5
    assert (rates.promised_per_hour, rates.verdict) == (None, None)
    json.dumps(rates.to_dict(), allow_nan=False)


def test_what_a_run_says_of_support_counts_more_than_the_status(tmp_path):
    """Candidates that the gate refused are verified with what is left of the budget, and end with its status."""
    refused = ScoredReference("3.jpg", "FEW_INLIERS", {"similarity": 0.9}, supported=False)
    passed = ScoredReference("3.jpg", "FEW_INLIERS", {"similarity": 0.9}, supported=True)
    rates = _judge(_run(tmp_path, {5: [refused], 8: [passed]}), tmp_path).rates
    assert rates is not None and [a.query for a in rates.false_accepts] == ["8.jpg"]


def test_the_promise_speaks_of_the_time_with_a_calibration(tmp_path):
    candidates = {
        2: [_candidate("1.jpg", 0.9, "NOT_VERIFIED")],
        3: [_candidate("0.jpg", 0.9, "NOT_VERIFIED", 0.4)],
        8: [_candidate("3.jpg", 0.9, "NOT_VERIFIED", 0.4)],
    }
    rates = _judge(_run(tmp_path, candidates, [RunClosure("2.jpg", "1.jpg", 0.9, 50)], hours=9.0), tmp_path).rates
    assert rates is not None
    assert [(a.query, a.probability) for a in rates.false_accepts] == [("3.jpg", 0.4), ("8.jpg", 0.4)]
    assert (rates.before_geometry.hours, rates.after_geometry.hours) == (pytest.approx(6.0), pytest.approx(9.0))
    assert rates.after_geometry.count == 1


@pytest.mark.parametrize(("promised", "verdict"), [(0.05, "broken"), (1.0, "not contradicted"), (10.0, "kept")])
def test_the_verdict_looks_at_the_interval(tmp_path, promised, verdict):
    candidates = {row: [_candidate("3.jpg", 0.9, "NOT_VERIFIED")] for row in (5, 8)}
    run = _run(tmp_path, candidates, promised=promised)
    rates = _judge(run, tmp_path).rates
    assert rates is not None and (rates.promised_per_hour, rates.verdict) == (promised, verdict)
    asked = _judge(replace(run, max_false_per_hour=None), tmp_path, promised_per_hour=promised).rates
    assert asked is not None and asked.verdict == verdict


def test_images_without_times_have_no_rate(tmp_path):
    assert _judge(_run(tmp_path, {}, hours=0.0), tmp_path).rates is None


def test_the_gates_before_geometry_are_statuses_of_ours():
    assert {Status(value) for value in REFUSED_BEFORE_GEOMETRY} == {
        Status.LOW_SIMILARITY,
        Status.SUPPRESSED,
        Status.FAILED_SEQUENCE,
    }


def _write_run(folder, config):
    line = {"query_id": 0, "query": "0.jpg", "stamp_ns": 0, "status": "NO_CANDIDATE", "candidates": []}
    (folder / "candidates.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "config.yaml").write_text(config)
    return folder


@pytest.mark.skipif("calibration" not in Config.model_fields, reason="this version has no calibration")
def test_the_promise_is_that_of_the_config(tmp_path):
    assert read_run(_write_run(tmp_path, "calibration: {max_false_per_hour: 3.5}\n")).max_false_per_hour == 3.5
    assert read_run(_write_run(tmp_path, "calibration: {enabled: false}\n")).max_false_per_hour is None
