"""Alignment of the last keyframes with the way past a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge.config import MotionConfig
from progeo_edge.motion.place_graph import PlaceGraph
from progeo_edge.motion.sequence_matching import SequenceMatcher, best_alignment
from progeo_edge.types import Keyframe
from tests.motion.known_ways import drive, known_way, noisy, places

NUM_PLACES = 120


def scores(
    known: NDArray[np.float32], keyframes: Sequence[Keyframe], ids: Sequence[int], first_id: int = 0, **values
) -> dict[int, float]:
    """Of the last keyframe, after the others have been remembered."""
    graph, index = known_way(known, first_id)
    matcher = SequenceMatcher(MotionConfig(**values), graph, index)
    for keyframe in keyframes[:-1]:
        matcher.remember(keyframe)
    return matcher.scores(keyframes[-1], ids)


@pytest.mark.parametrize("rows", [range(40, 50), range(50, 40, -1), range(30, 50, 2), [40, 41, 41, 42, 43, 45, 46, 47]])
def test_the_place_at_the_end_of_a_drive_scores_best_at_any_speed_in_both_directions(rows):
    known = places(NUM_PLACES)
    found = scores(known, drive(noisy(known[list(rows)], 0.5), step_m=None), range(NUM_PLACES), length=8)
    assert max(found, key=lambda id: found[id]) == rows[-1]


def test_a_look_alike_of_one_image_is_seen_through():
    """The last view is nearer to place 90 than to its own place 47; the way before it is not."""
    known = places(NUM_PLACES)
    seen = noisy(known[40:48], 0.3)
    mixed = 0.4 * known[47] + 0.6 * known[90]
    seen[-1] = mixed / np.linalg.norm(mixed)
    single = known @ seen[-1]
    assert single[90] > single[47]
    found = scores(known, drive(seen, step_m=None), [47, 90], length=8)
    assert found[47] > found[90]


def test_a_longer_known_way_raises_the_score():
    known = places(NUM_PLACES)
    keyframes = drive(noisy(known[40:50], 0.5), step_m=None)
    grown = [scores(known, keyframes[:n], [39 + n], length=10)[39 + n] for n in (1, 4, 10)]
    assert grown[0] < grown[1] < grown[2]


def test_other_laps_stand_in_for_a_keyframe_that_saw_little():
    known = places(80)
    known[60:70] = known[20:30]
    known[24:29] = places(5, seed=9)
    keyframes = drive(known[60:70], step_m=None)
    graph, index = known_way(known)
    matcher = SequenceMatcher(MotionConfig(length=8), graph, index)
    for keyframe in keyframes[:-1]:
        matcher.remember(keyframe)
    alone = matcher.scores(keyframes[-1], [29])[29]
    graph.add_closure(68, 28)
    assert matcher.scores(keyframes[-1], [29])[29] > alone


def test_what_is_not_in_the_index_has_no_score():
    known = places(30)
    assert scores(known, drive(known[5:9], step_m=None), [8, 77]).keys() == {8}


def test_an_empty_index_gives_no_score():
    assert scores(places(0), drive(places(3), step_m=None), []) == {}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 1000))
def test_other_ids_change_nothing(first_id, seed):
    known = places(40, seed)
    keyframes = drive(noisy(known[10:18], 0.8, seed), step_m=None, first_id=50_000)
    plain = scores(known, keyframes, range(40))
    renamed = scores(known, keyframes, range(first_id, first_id + 40), first_id)
    assert list(renamed.values()) == list(plain.values())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_a_map_driven_the_other_way_gives_the_same_scores(seed):
    # One image taken twice in another order would draw another background, so the rows of the index keep theirs.
    known = places(40, seed)
    keyframes = drive(noisy(known[10:18], 0.8, seed), step_m=None)
    graph, index = known_way(known)
    mirrored = PlaceGraph()
    for id in range(39, -1, -1):
        mirrored.add_keyframe(id, 0)
    there, back = (SequenceMatcher(MotionConfig(), way, index) for way in (graph, mirrored))
    for keyframe in keyframes[:-1]:
        there.remember(keyframe)
        back.remember(keyframe)
    assert there.scores(keyframes[-1], range(40)) == back.scores(keyframes[-1], range(40))


@given(st.floats(-1, 1), st.integers(2, 10), st.integers(1, 4))
def test_constant_similarity_prefers_no_candidate(similarity, length, max_step):
    num_steps = max_step * (length - 1) + 1
    full = best_alignment(np.full((5, num_steps, length), similarity), max_step, 0.5)
    assert np.allclose(full, length * similarity)


def test_every_step_that_differs_from_one_has_its_price():
    similarities = np.zeros((7, 3))
    similarities[[0, 3, 6], [0, 1, 2]] = 1.0
    assert best_alignment(similarities, 3, 0.25) == pytest.approx(3.0 - 4 * 0.25)
    assert best_alignment(similarities, 2, 0.25) == pytest.approx(1.0)


def test_a_way_that_ends_leaves_the_query_standing():
    similarities = np.array([[1.0, 0.5, 0.5]])
    assert best_alignment(similarities, 3, 0.1) == pytest.approx(2.0 - 0.2)
