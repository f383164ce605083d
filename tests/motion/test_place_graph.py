"""Neighbours in time and through closures."""

from __future__ import annotations

import numpy as np

from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.motion.place_graph import MAX_CLOSURES, MAX_VISITED, PlaceGraph


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
        graph.add_keyframe(keyframe_id, 0, camera=str(keyframe_id % 2), moment=keyframe_id // 2)
    assert graph.within(1, 1) == {0: 0, 1: 0, 2: 1, 3: 1}
    assert graph.within(2, 1) == {0: 1, 1: 1, 2: 0, 3: 0, 4: 1, 5: 1}


def test_a_closure_with_any_image_of_a_moment_is_one_with_all():
    graph = PlaceGraph()
    for keyframe_id in range(4):
        graph.add_keyframe(keyframe_id, 0, camera=str(keyframe_id % 2), moment=keyframe_id // 2)
    for keyframe_id in (4, 5):
        graph.add_keyframe(keyframe_id, 1, camera=str(keyframe_id % 2), moment=0)
    graph.add_closure(5, 1)
    assert graph.within(4, 1) == {4: 0, 5: 0, 0: 1, 1: 1}


def ids(graph: PlaceGraph, start: int, direction: int, depth: int, width: int = 3) -> list[list[int]]:
    return [[point.id for point in points] for points in graph.way(start, direction, depth, width)]


def test_a_way_leads_back_and_forth_in_time_and_ends_with_the_session():
    assert ids(two_laps(), 2, -1, 5) == [[2], [1], [0]]
    assert ids(two_laps(), 17, 1, 5) == [[17], [18], [19]]


def test_a_way_goes_on_along_the_lap_that_a_closure_ties():
    assert ids(two_laps(), 17, -1, 4) == [[17], [16], [15, 5], [14, 4], [13, 3]]


def test_a_lap_that_faces_the_other_way_is_followed_the_other_way():
    graph = PlaceGraph()
    for keyframe_id in range(20):
        graph.add_keyframe(keyframe_id, session=keyframe_id // 10)
    graph.add_closure(15, 5, make_transform(rotation_exp(np.array([0.0, 0.0, 3.1])), [0.0, 0.0, 0.0]))
    steps = list(graph.way(15, 1, 2, width=3))
    assert [[(p.id, p.direction) for p in points] for points in steps[1:]] == [[(16, 1), (4, -1)], [(17, 1), (3, -1)]]


def test_metres_along_a_way_add_up_until_odometry_is_missing():
    graph = PlaceGraph()
    for keyframe_id, x_m in enumerate([0.0, 1.0, 3.0, None, 5.0]):
        pose = None if x_m is None else make_transform(np.eye(3), [x_m, 0.0, 0.0])
        graph.add_keyframe(keyframe_id, 0, pose)
    forward = [points[0].way_m for points in graph.way(0, 1, 4, width=1)]
    assert forward == [0.0, 1.0, 3.0, None, None]
    assert [points[0].way_m for points in graph.way(2, -1, 2, width=1)] == [0.0, 2.0, 3.0]


def test_a_place_of_a_thousand_laps_costs_as_much_as_one_of_ten():
    graph = PlaceGraph()
    for keyframe_id in range(30_000):
        graph.add_keyframe(keyframe_id, session=0)
        if keyframe_id >= 30:
            graph.add_closure(keyframe_id, keyframe_id % 30)
    assert len(graph.within(15, 12)) <= MAX_VISITED + 2 + MAX_CLOSURES
    assert all(len(points) <= 3 for points in graph.way(15, 1, 20, width=3))


def test_a_closure_with_a_keyframe_that_is_not_in_the_graph_is_left_out():
    graph = two_laps()
    graph.add_closure(4, 99)
    assert 99 not in graph.within(4, 3)
