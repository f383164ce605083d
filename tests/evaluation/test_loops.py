from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.labelled_run import label_run
from progeo_edge.evaluation.labels import Matches
from progeo_edge.evaluation.loops import best_candidates, judge_loops
from progeo_edge.evaluation.recorded_run import (
    RecordedRun,
    RunClosure,
    RunKeyframe,
    ScoredReference,
    read_run,
)


def _candidate(reference, similarity=0.5, inliers=None, status="NOT_VERIFIED"):
    scores = {"similarity": similarity} | ({} if inliers is None else {"num_inliers": float(inliers)})
    return ScoredReference(reference, status, scores)


def _run(tmp_path, candidates, closures=(), step_s=10.0, names=None):
    """Keyframes 0, 1, 2 ...; `candidates` maps a number to its candidates."""
    count = max(candidates, default=0) + 1 if names is None else len(names)
    names = names or [f"{row}.jpg" for row in range(count)]
    keyframes = tuple(
        RunKeyframe(names[row], int(row * step_s * 1e9), "NO_CANDIDATE", tuple(candidates.get(row, ())))
        for row in range(count)
    )
    accepted = tuple(RunClosure(query, reference, 0.9, 40) for query, reference in closures)
    return RecordedRun(tmp_path, keyframes, accepted, exclusion_s=0.0)


def _matches(tmp_path, positive, ignored=()):
    return Matches(tmp_path / "matches.csv", frozenset(positive), frozenset(ignored), one_set=True)


def test_a_small_run_by_hand(tmp_path):
    # 4, 5 and 7 revisit; 6 is in the neutral band; 8 is a place seen once.
    positive = [("4.jpg", "0.jpg"), ("5.jpg", "1.jpg"), ("5.jpg", "0.jpg"), ("7.jpg", "3.jpg")]
    candidates = {
        4: [_candidate("0.jpg", 0.9, 50), _candidate("1.jpg", 0.8)],
        5: [_candidate("2.jpg", 0.8, 12), _candidate("1.jpg", 0.7, 45)],
        6: [_candidate("2.jpg", 0.95, 35)],
        7: [_candidate("0.jpg", 0.4)],
        8: [_candidate("1.jpg", 0.6, 20)],
    }
    closures = [("4.jpg", "0.jpg"), ("5.jpg", "1.jpg"), ("6.jpg", "2.jpg"), ("8.jpg", "1.jpg")]
    result = judge_loops(
        _run(tmp_path, candidates, closures), _matches(tmp_path, positive, [("6.jpg", "2.jpg")]), resamples=50
    )
    assert (result.num_keyframes, result.num_revisits, result.num_events) == (9, 3, 1)
    assert (result.num_closures, result.num_neutral_closures) == (4, 1)
    assert result.precision.value == pytest.approx(2 / 3)
    assert result.recall.value == pytest.approx(2 / 3)
    assert result.event_recall.value == 1.0
    assert [(c.query, c.reference) for c in result.false_closures] == [("8.jpg", "1.jpg")]
    by_similarity, by_inliers = result.curves
    assert (by_similarity.score, by_inliers.score) == ("similarity", "num_inliers")
    # Similarity: right 0.9, wrong 0.8 (5 -> 2), wrong 0.6 (8), wrong 0.4 (7); 6 is neutral.
    assert by_similarity.curve.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert by_similarity.average_precision.value == pytest.approx(1 / 3)
    assert by_similarity.num_neutral == 1
    # Inliers: right 50, right 45, wrong 20; 7 makes no prediction.
    assert by_inliers.average_precision.value == pytest.approx(2 / 3)
    assert by_inliers.recall_at_100.value == pytest.approx(2 / 3)
    assert by_inliers.recall_at_100_threshold == 45
    assert by_inliers.max_f1.value == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert result.statuses == {"NO_CANDIDATE": 9}
    assert result.candidate_statuses == {"NOT_VERIFIED": 7}
    json.dumps(result.to_dict(), allow_nan=False)


def test_events_are_runs_of_revisits_and_neutral_keyframes_do_not_split_them(tmp_path):
    positive = [(f"{row}.jpg", "0.jpg") for row in (2, 3, 5, 8)]
    run = _run(tmp_path, {9: []})
    labelled = label_run(run, _matches(tmp_path, positive, [("4.jpg", "0.jpg")]), 0.0)
    assert [event.tolist() for event in labelled.events()] == [[2, 3, 5], [8]]
    neutral_first = label_run(run, _matches(tmp_path, [("5.jpg", "0.jpg")], [("4.jpg", "0.jpg")]), 0.0)
    assert [event.tolist() for event in neutral_first.events()] == [[5]]


def test_each_event_counts_once(tmp_path):
    positive = [(f"{row}.jpg", "0.jpg") for row in (2, 3, 4, 8)]
    run = _run(tmp_path, {9: []}, [("2.jpg", "0.jpg"), ("3.jpg", "0.jpg"), ("4.jpg", "0.jpg")])
    result = judge_loops(run, _matches(tmp_path, positive), resamples=20)
    assert (result.num_events, result.event_recall.value, result.recall.value) == (2, 0.5, 0.75)


def test_the_later_keyframe_asks_whatever_the_columns_say(tmp_path):
    run = _run(tmp_path, {3: [_candidate("0.jpg")]}, [("3.jpg", "0.jpg")])
    result = judge_loops(run, _matches(tmp_path, [("0.jpg", "3.jpg")]), resamples=5)
    assert (result.num_revisits, result.recall.value, result.precision.value) == (1, 1.0, 1.0)


def test_positives_inside_the_exclusion_need_not_be_found_and_are_not_wrong(tmp_path):
    run = _run(tmp_path, {5: []}, [("1.jpg", "0.jpg")], step_s=10.0)
    positive = [("1.jpg", "0.jpg"), ("5.jpg", "0.jpg"), ("5.jpg", "4.jpg")]
    result = judge_loops(run, _matches(tmp_path, positive), exclusion_s=30.0, resamples=5)
    assert (result.num_revisits, result.num_excluded) == (1, 1)
    assert (result.num_closures, result.num_neutral_closures, len(result.false_closures)) == (1, 1, 0)
    assert result.precision.value is None
    assert judge_loops(run, _matches(tmp_path, positive), resamples=5).num_revisits == 2


def test_precision_counts_closures_and_recall_counts_keyframes(tmp_path):
    closures = [("4.jpg", "0.jpg"), ("4.jpg", "1.jpg"), ("4.jpg", "2.jpg"), ("5.jpg", "0.jpg")]
    positive = [("4.jpg", "0.jpg"), ("4.jpg", "1.jpg"), ("4.jpg", "2.jpg"), ("5.jpg", "1.jpg")]
    result = judge_loops(_run(tmp_path, {5: []}, closures), _matches(tmp_path, positive), resamples=5)
    assert (result.precision.value, result.recall.value, result.num_closures) == (0.75, 0.5, 4)


def test_a_run_without_closures_has_recall_0_and_no_precision(tmp_path):
    result = judge_loops(_run(tmp_path, {3: []}), _matches(tmp_path, [("3.jpg", "0.jpg")]), resamples=5)
    assert (result.precision.value, result.recall.value, result.curves) == (None, 0.0, ())


def test_references_of_an_earlier_map_count_only_when_the_run_had_one(tmp_path):
    positive = [("q1.jpg", "db1.jpg"), ("q2.jpg", "db2.jpg")]
    names = ["q0.jpg", "q1.jpg", "q2.jpg"]
    fresh = _run(tmp_path, {2: [_candidate("q0.jpg")]}, names=names)
    with pytest.raises(SourceError, match=r"no keyframe of .* has a positive"):
        judge_loops(fresh, _matches(tmp_path, positive), resamples=5)
    with_map = _run(
        tmp_path, {1: [_candidate("db1.jpg")], 2: [_candidate("db1.jpg")]}, [("q1.jpg", "db1.jpg")], names=names
    )
    result = judge_loops(with_map, _matches(tmp_path, positive), resamples=5)
    assert (result.num_revisits, result.recall.value, result.precision.value) == (2, 0.5, 1.0)


def test_names_meet_by_the_tail_of_the_path_and_ambiguity_is_an_error(tmp_path):
    positive = [("images/3.jpg", "images/0.jpg")]
    run = _run(tmp_path, {3: []}, [("3.jpg", "0.jpg")])
    assert judge_loops(run, _matches(tmp_path, positive), resamples=5).recall.value == 1.0
    with pytest.raises(SourceError, match="could be"):
        judge_loops(run, _matches(tmp_path, [("a/3.jpg", "b/3.jpg")]), resamples=5)
    twice = _run(tmp_path, {}, names=["a/3.jpg", "b/3.jpg"])
    with pytest.raises(SourceError, match=r"a/3\.jpg and b/3\.jpg .* are both 3\.jpg"):
        judge_loops(twice, _matches(tmp_path, [("3.jpg", "0.jpg")]), resamples=5)
    with pytest.raises(SourceError, match="none of the 4 keyframes"):
        judge_loops(run, _matches(tmp_path, [("x.jpg", "y.jpg")]), resamples=5)


def test_unlisted_keyframes_are_counted_and_their_closures_are_wrong(tmp_path):
    run = _run(tmp_path, {4: []}, [("4.jpg", "1.jpg"), ("3.jpg", "0.jpg")])
    result = judge_loops(run, _matches(tmp_path, [("3.jpg", "0.jpg")]), resamples=5)
    assert result.num_unlisted == 3
    assert [closure.query for closure in result.false_closures] == ["4.jpg"]


def test_the_best_candidate_is_best_by_the_score_asked_for(tmp_path):
    run = _run(tmp_path, {2: [_candidate("0.jpg", 0.6, 80), _candidate("1.jpg", 0.9, 10)]})
    labelled = label_run(run, _matches(tmp_path, [("2.jpg", "0.jpg")]), 0.0)
    similarity, by_similarity = best_candidates(run.keyframes, "similarity", labelled)
    inliers, by_inliers = best_candidates(run.keyframes, "num_inliers", labelled)
    assert (similarity[2], by_similarity[2]) == (0.9, -1)
    assert (inliers[2], by_inliers[2]) == (80, 1)
    assert np.isnan(similarity[:2]).all() and by_similarity[:2].tolist() == [0, 0]


def test_intervals_are_seeded_contain_the_value_and_name_their_block(tmp_path):
    rng = np.random.default_rng(0)
    positive = [(f"{row}.jpg", "0.jpg") for row in range(20, 100) if row % 20 < 12]
    candidates = {
        row: [_candidate("0.jpg" if rng.random() < 0.7 else "1.jpg", float(rng.random()))] for row in range(20, 100)
    }
    closures = [(f"{row}.jpg", "0.jpg") for row in range(20, 60)]
    run, matches = _run(tmp_path, candidates, closures), _matches(tmp_path, positive)
    first, again = (judge_loops(run, matches, resamples=100, seed=3) for _ in range(2))
    assert first.block_length == 10
    assert first.to_dict() == again.to_dict()
    for interval in (first.precision, first.recall, first.curves[0].average_precision, first.event_recall):
        assert interval.low is not None and interval.value is not None and interval.high is not None
        assert interval.low < interval.value < interval.high
    assert first.curves[0].band.shape == (2, 101)
    assert np.nanmax(first.curves[0].band[0] - first.curves[0].band[1]) <= 0
    assert judge_loops(run, matches, resamples=100, block_length=1).block_length == 1


def _write_run(folder, lines, closures=None):
    folder.mkdir(exist_ok=True)
    (folder / "candidates.jsonl").write_text("\n".join(lines) + "\n")
    if closures is not None:
        (folder / "closures.jsonl").write_text("\n".join(closures) + "\n")
    return folder


def _line(**changes):
    candidate = {"reference_id": 0, "reference": "0.jpg", "similarity": 0.5, "status": "ACCEPTED", "num_inliers": None}
    record = {"query_id": 1, "query": "1.jpg", "stamp_ns": 7, "status": "ACCEPTED", "candidates": [candidate]}
    return json.dumps(record | changes)


def test_a_run_folder_is_read(tmp_path):
    closure = {"query_id": 1, "reference_id": 0, "query": "1.jpg", "reference": "0.jpg", "similarity": 0.5}
    lines = [_line(), _line(query="2.jpg", status="NOT_A_KEYFRAME", candidates=[])]
    folder = _write_run(tmp_path / "run", lines, [json.dumps(closure)])
    (folder / "config.yaml").write_text("exclusion:\n  time_s: 12.5\n")
    run = read_run(folder)
    assert run.exclusion_s == 12.5
    assert run.keyframes == (
        RunKeyframe("1.jpg", 7, "ACCEPTED", (ScoredReference("0.jpg", "ACCEPTED", {"similarity": 0.5}),)),
    )
    assert run.closures == (RunClosure("1.jpg", "0.jpg", 0.5, None),)


def test_a_line_cut_off_by_a_kill_is_left_out_with_a_warning(tmp_path, caplog):
    folder = _write_run(tmp_path / "run", [_line(), _line()[:40]])
    with caplog.at_level(logging.WARNING):
        assert len(read_run(folder).keyframes) == 1
    assert "line 2 is cut off" in caplog.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([_line()[:40], _line()], "line 1 is no JSON"),
        (["[1, 2]"], "line 1 holds a list; expected an object"),
        ([_line(query=None)], "line 1: query is None, which progeo-run does not write"),
        ([_line(stamp_ns="now")], "stamp_ns is 'now'"),
        ([_line(candidates=None)], "candidates is None"),
        ([_line(candidates=[3])], "a candidate is a int"),
        ([_line(candidates=[{"reference": "0.jpg", "status": "ACCEPTED"}])], "similarity is None"),
        ([_line(candidates=[{"reference": "0.jpg", "status": "ACCEPTED", "similarity": float("nan")}])], "is nan"),
        ([_line(status="NOT_A_KEYFRAME")], "holds no keyframe"),
        ([""], "holds no keyframe"),
    ],
)
def test_lines_that_no_run_writes_are_refused(tmp_path, lines, message):
    with pytest.raises(SourceError, match=message):
        read_run(_write_run(tmp_path / "run", lines))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"holds no candidates\.jsonl; give the --out folder"):
        read_run(tmp_path)


def test_a_closure_of_an_unknown_keyframe_is_left_out_with_a_warning(tmp_path, caplog):
    run = _run(tmp_path, {3: []}, [("3.jpg", "0.jpg"), ("9.jpg", "0.jpg")])
    with caplog.at_level(logging.WARNING):
        result = judge_loops(run, _matches(tmp_path, [("3.jpg", "0.jpg")]), resamples=5)
    assert (result.num_closures, result.false_closures) == (1, ())
    assert "closure of 9.jpg is left out" in caplog.text
