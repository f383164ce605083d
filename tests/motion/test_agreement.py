"""k-of-n agreement along the place graph."""

from __future__ import annotations

import pytest

from progeo_edge.config import MotionConfig
from progeo_edge.motion.agreement import Agreement
from progeo_edge.motion.place_graph import PlaceGraph


def check_on_line(num_keyframes: int = 100, **settings) -> Agreement:
    graph = PlaceGraph()
    for keyframe_id in range(num_keyframes):
        graph.add_keyframe(keyframe_id, session=0)
    return Agreement(MotionConfig(**settings), graph)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_drive_along_known_places_passes_forwards_and_backwards(direction):
    check = check_on_line()
    for step in range(4):
        check.remember([50 + direction * step])
    assert check.agreement(50 + direction * 4) == 5
    assert check.passes(50 + direction * 4)


def test_jumping_candidates_do_not_pass():
    check = check_on_line()
    for candidate in (10, 80, 30, 60):
        check.remember([candidate])
    assert check.agreement(95) == 1
    assert not check.passes(95)


def test_a_first_sighting_does_not_pass():
    assert not check_on_line().passes(5)


def test_one_miss_is_forgiven():
    check = check_on_line(window=4, required=3)
    for candidates in ([20], [], [22]):
        check.remember(candidates)
    assert check.passes(23)


def test_an_older_keyframe_may_be_farther():
    check = check_on_line(max_step=3)
    check.remember([20])
    check.remember([])
    assert check.agreement(26) == 2
    assert check.agreement(27) == 1


def test_only_the_best_candidates_of_the_past_count():
    check = check_on_line(history_top_k=2)
    check.remember([90, 80, 50])
    assert check.agreement(50) == 1


def test_laps_agree_through_closures():
    graph = PlaceGraph()
    for keyframe_id in range(60):
        graph.add_keyframe(keyframe_id, session=0)
    graph.add_closure(45, 15)
    check = Agreement(MotionConfig(max_step=2), graph)
    check.remember([14])
    assert check.agreement(45) == 2


def test_the_window_forgets():
    check = check_on_line(window=3)
    check.remember([50])
    for _ in range(2):
        check.remember([])
    assert check.agreement(50) == 1
