"""Neighbours in time and through closures."""

from __future__ import annotations

from progeo_edge.place_graph import PlaceGraph


def two_laps() -> PlaceGraph:
    """Keyframes 0..9 are lap one, 10..19 lap two; 15 closed with 5."""
    graph = PlaceGraph()
    for keyframe_id in range(20):
        graph.add_keyframe(keyframe_id, session=0)
    graph.add_closure(15, 5)
    return graph


def test_time_neighbours_are_counted_in_steps():
    assert two_laps().within(2, 2) == {2: 0, 1: 1, 3: 1, 0: 2, 4: 2}


def test_a_closure_is_one_step():
    near = two_laps().within(4, 2)
    assert near[15] == 2
    assert 14 not in near


def test_the_shorter_way_counts():
    assert two_laps().within(6, 20)[16] == 3


def test_sessions_are_not_tied_by_consecutive_ids():
    graph = PlaceGraph()
    graph.add_keyframe(0, session=0)
    graph.add_keyframe(1, session=1)
    assert graph.within(0, 5) == {0: 0}


def test_an_unknown_keyframe_is_alone():
    assert PlaceGraph().within(7, 3) == {7: 0}


def test_images_of_one_moment_see_one_place():
    graph = PlaceGraph()
    for keyframe_id in range(6):  # three moments of two images
        graph.add_keyframe(keyframe_id, session=0, joins=keyframe_id % 2 == 1)
    assert graph.within(1, 1) == {0: 0, 1: 0, 2: 1, 3: 1}
    assert graph.within(2, 1) == {0: 1, 1: 1, 2: 0, 3: 0, 4: 1, 5: 1}


def test_a_closure_with_any_image_of_a_moment_is_one_with_all():
    graph = PlaceGraph()
    for keyframe_id in range(4):
        graph.add_keyframe(keyframe_id, session=0, joins=keyframe_id % 2 == 1)
    for keyframe_id in (4, 5):
        graph.add_keyframe(keyframe_id, session=1, joins=keyframe_id == 5)
    graph.add_closure(5, 1)
    assert graph.within(4, 1) == {4: 0, 5: 0, 0: 1, 1: 1}
