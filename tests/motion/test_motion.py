"""The choice of method, and what is remembered of a keyframe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from progeo_edge.config import load_config
from progeo_edge.motion import Motion
from progeo_edge.types import Candidate, Status
from tests.motion.known_ways import at, drive, known_way, noisy, places

KNOWN = places(100)


def motion(*overrides: str) -> Motion:
    graph, index = known_way(KNOWN)
    return Motion(load_config(overrides=overrides), index, graph)


def found(*ids: int, status: Status = Status.NOT_VERIFIED) -> list[Candidate]:
    return [Candidate(id, 0.9, status) for id in ids]


def follow(moved: Motion, rows: range) -> dict[int, float]:
    """Drive past the rows; the scores of the last one, with candidates of its neighbourhood and one of elsewhere."""
    scores: dict[int, float] = {}
    for keyframe, row in zip(drive(noisy(KNOWN[list(rows)], 0.8)), rows, strict=True):
        candidates = found(row, (row + 50) % 100)
        scores = moved.scores(keyframe, candidates)
        if row != rows[-1]:
            moved.remember(keyframe, candidates)
    return scores


@pytest.mark.parametrize("method", ["hmm", "sequence"])
def test_the_place_on_the_way_scores_higher(method):
    scores = follow(motion(f"motion.method={method}"), range(20, 28))
    assert scores[27] > scores[77]


@pytest.mark.parametrize("with_odometry", [True, False])
def test_odometry_of_the_first_keyframe_decides_between_filter_and_alignment(with_odometry):
    keyframes = drive(noisy(KNOWN[20:25], 0.8), step_m=2.0 if with_odometry else None)
    scores = []
    for method in ("auto", "hmm", "sequence"):
        moved = motion(f"motion.method={method}")
        for keyframe in keyframes[:-1]:
            moved.remember(keyframe, ())
        # One keyframe without odometry, or with it, changes nothing any more.
        last = replace(keyframes[-1], T_odom_base=None if with_odometry else at(8.0))
        scores.append(moved.scores(last, found(24, 60)))
    assert scores[0] == scores[1 if with_odometry else 2]
    assert scores[1] != scores[2]


def test_k_of_n_counts():
    assert follow(motion("motion.method=k_of_n"), range(20, 28)) == {27: 5.0, 77: 5.0}


def test_switched_off_there_is_no_score_and_everything_passes():
    none = motion("motion.method=none")
    assert follow(none, range(20, 28)) == {}
    assert none.passes(3)


def test_low_similarities_are_not_scored_and_suppressed_ones_are():
    moved = motion()
    keyframe = drive(KNOWN[5:6])[0]
    candidates = [*found(5), *found(9, status=Status.SUPPRESSED), *found(40, status=Status.LOW_SIMILARITY)]
    assert moved.scores(keyframe, candidates).keys() == {5, 9}


def test_what_the_filter_finds_very_unlikely_is_no_support_however_many_agree():
    moved = motion()
    scores = follow(moved, range(20, 28))
    assert scores[77] < load_config().motion.min_log_odds < scores[27]
    assert moved.passes(27)
    assert not moved.passes(77)
    assert follow(motion("motion.min_log_odds=-1000"), range(20, 28)) == scores


def test_suppressed_candidates_lead_nowhere():
    moved = motion("motion.method=k_of_n")
    keyframe = drive(KNOWN[:1])[0]
    moved.remember(keyframe, found(20, status=Status.SUPPRESSED))
    assert moved.scores(keyframe, found(21)) == {21: 1.0}
