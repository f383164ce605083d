"""The filter over places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge.config import Config
from progeo_edge.motion.hidden_markov import Belief, PlaceFilter
from progeo_edge.motion.place_graph import PlaceGraph
from progeo_edge.types import Keyframe
from tests.motion.known_ways import SPACING_M, at, drive, known_way, noisy, places

NUM_PLACES = 200


def scores(
    known: NDArray[np.float32],
    keyframes: Sequence[Keyframe],
    ids: Sequence[int],
    *,
    first_id: int = 0,
    config: Config | None = None,
) -> dict[int, float]:
    """Of the last keyframe; those before had the same candidates."""
    filter = PlaceFilter(config or Config(), *known_way(known, first_id))
    for keyframe in keyframes[:-1]:
        filter.scores(keyframe, ids)
        filter.remember(keyframe)
    return filter.scores(keyframes[-1], ids)


@pytest.mark.parametrize("step_m", [SPACING_M, None])
@pytest.mark.parametrize("rows", [range(40, 48), range(48, 40, -1)])
def test_along_a_known_way_the_log_odds_grow_in_both_directions(rows, step_m):
    known = places(NUM_PLACES)
    keyframes = drive(noisy(known[list(rows)], 0.8), step_m=step_m)
    grown = [scores(known, keyframes[:n], range(NUM_PLACES))[rows[n - 1]] for n in (1, 3, 8)]
    assert grown[0] + 2.0 < grown[1] < grown[2] - 1.0


def test_odometry_tells_a_robot_that_creeps_from_one_that_drives_past():
    """The views fit 40, 44, 48; that is likely after 8 m each and not after 2 m each."""
    known = places(NUM_PLACES)
    seen = noisy(known[40:49:4], 0.8)
    fitting, creeping = (scores(known, drive(seen, step_m=4 * step_m), [40, 44, 48]) for step_m in (2.0, 0.5))
    assert fitting[48] > creeping[48] + 2.0


def test_a_look_alike_off_the_way_is_seen_through():
    known = places(NUM_PLACES)
    seen = noisy(known[40:48], 0.5)
    mixed = 0.4 * known[47] + 0.6 * known[90]
    seen[-1] = mixed / np.linalg.norm(mixed)
    found = scores(known, drive(seen), range(NUM_PLACES))
    assert found[47] > found[90]


def test_jumps_from_place_to_place_are_a_new_place():
    known = places(NUM_PLACES)
    rows = [5, 60, 20, 100, 40, 80]
    jumping = scores(known, drive(noisy(known[rows], 0.8)), range(NUM_PLACES))[80]
    driving = scores(known, drive(noisy(known[75:81], 0.8)), range(NUM_PLACES))[80]
    assert jumping < 0 < driving


def test_the_way_goes_on_through_a_closure():
    """The map's second session ends where its first one begins again; only a closure says so."""
    known = places(60)
    keyframes = drive(noisy(known[[25, 26, 27, 28, 29, 51, 52]], 0.5))
    found = []
    for joined in (False, True):
        graph, index = PlaceGraph(), known_way(known)[1]
        for id in range(60):
            graph.add_keyframe(id, id // 30, at(SPACING_M * id))
        if joined:
            graph.add_closure(50, 29)
        filter = PlaceFilter(Config(), graph, index)
        for keyframe in keyframes[:-1]:
            filter.scores(keyframe, range(60))
            filter.remember(keyframe)
        found.append(filter.scores(keyframes[-1], range(60))[52])
    assert found[1] > found[0] + 1.0


def test_a_map_of_a_few_places_is_not_believed_soon():
    known = places(NUM_PLACES)
    keyframes = drive(noisy(known[:3], 0.8))
    assert scores(known[:3], keyframes, range(3))[2] < scores(known, keyframes, range(NUM_PLACES))[2]


def test_scores_do_not_change_the_state():
    known = places(40)
    keyframes = drive(noisy(known[10:14], 1.0))
    filter = PlaceFilter(Config(), *known_way(known))
    once = []
    for keyframe in keyframes:
        once.append(filter.scores(keyframe, range(40)))
        filter.remember(keyframe)
    filter = PlaceFilter(Config(), *known_way(known))
    again = []
    for keyframe in keyframes:
        filter.scores(keyframe, [3])
        again.append(filter.scores(keyframe, range(40)))
        filter.remember(keyframe)
    assert again == once


def test_a_keyframe_without_candidates_moves_the_belief_on():
    known = places(NUM_PLACES)
    keyframes = drive(noisy(known[40:48], 0.8))
    filter = PlaceFilter(Config(), *known_way(known))
    for keyframe in keyframes[:4]:
        filter.scores(keyframe, range(NUM_PLACES))
        filter.remember(keyframe)
    for keyframe in keyframes[4:7]:
        filter.remember(keyframe)
    assert filter.scores(keyframes[7], [47])[47] > 0


def test_an_empty_index_is_a_new_place():
    filter = PlaceFilter(Config(), *known_way(places(0)))
    for keyframe in drive(places(3)):
        assert filter.scores(keyframe, []) == {}
        filter.remember(keyframe)
        assert filter._belief == Belief({}, 1.0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000), st.lists(st.integers(0, 39), min_size=1, max_size=8), st.sampled_from([None, 0.0, 2.0, 50.0])
)
def test_probabilities_sum_to_one(seed, rows, step_m):
    known = places(40, seed)
    filter = PlaceFilter(Config(), *known_way(known))
    for keyframe in drive(noisy(known[rows], 0.8, seed), step_m=step_m):
        filter.scores(keyframe, range(0, 40, 3))
        filter.remember(keyframe)
        belief = filter._belief
        assert sum(belief.places.values()) + belief.new_place == pytest.approx(1.0)
        assert min([belief.new_place, *belief.places.values()]) >= 0.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 5_000), st.integers(0, 1000))
def test_other_ids_change_nothing(first_id, seed):
    known = places(40, seed)
    keyframes = drive(noisy(known[10:16], 0.8, seed), first_id=50_000)
    plain = scores(known, keyframes, range(40))
    renamed = scores(known, keyframes, range(first_id, first_id + 40), first_id=first_id)
    assert list(renamed.values()) == pytest.approx(list(plain.values()))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_a_map_driven_the_other_way_gives_the_same_scores(seed):
    known = places(40, seed)
    keyframes = drive(noisy(known[10:16], 0.8, seed))
    there, index = known_way(known)
    back = PlaceGraph()
    for id in range(39, -1, -1):
        back.add_keyframe(id, 0, at(-id * SPACING_M))
    found = []
    for graph in (there, back):
        filter = PlaceFilter(Config(), graph, index)
        for keyframe in keyframes[:-1]:
            filter.scores(keyframe, range(40))
            filter.remember(keyframe)
        found.append(filter.scores(keyframes[-1], range(40)))
    assert list(found[1].values()) == pytest.approx(list(found[0].values()))


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 6))
def test_constant_similarity_prefers_no_candidate(length):
    alike = np.tile(places(1), (200, 1))
    found = scores(alike, drive(alike[:length]), range(200))
    inner = [found[id] for id in range(60, 140)]
    assert max(inner) - min(inner) < 1e-6
    assert max(inner) < 0
