"""Relative poses between keyframes along the place graph."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.geometry import invert, make_transform, rotation_exp
from progeo_edge.relocalisation.place_poses import MAX_STEPS, PlacePoses
from progeo_edge.types import LoopClosure, PoseKind
from tests.relocalisation.straight_map import NUM_KEYFRAMES, at, infos, passed

ids = st.integers(0, NUM_KEYFRAMES - 1)


def closure(query_id: int, reference_id: int, T: np.ndarray, kind: PoseKind = PoseKind.METRIC) -> LoopClosure:
    return LoopClosure(query_id, reference_id, 0.8, None, passed(reference_id, T, kind=kind).verification)


@given(ids, ids)
def test_along_a_session_the_odometry_is_chained(a, b):
    T_odom_map = make_transform(rotation_exp([0, 0, 1.0]), [3.0, 4.0, 0.0])
    relation = PlacePoses(infos(T_odom_map), ()).relation(a, b)
    assert relation is not None and relation.T_a_b is not None
    assert np.allclose(relation.T_a_b, at(b - a))
    assert relation.num_steps == abs(a - b)
    assert np.isclose(relation.path_m, abs(a - b))


def test_a_closure_joins_two_sessions():
    poses = PlacePoses([*infos(), *infos(at(500.0), 1, 100)], [closure(110, 10, at(0.0, 0.5))])
    relation = poses.relation(8, 113)
    assert relation is not None and relation.T_a_b is not None
    assert np.allclose(relation.T_a_b, at(5.0, 0.5))
    assert (relation.num_steps, relation.path_m) == (6, 5.0)
    back = poses.relation(113, 8)
    assert back is not None and back.T_a_b is not None
    assert np.allclose(back.T_a_b, invert(relation.T_a_b))


def test_a_longer_way_with_a_pose_is_preferred_to_a_short_one_without():
    relation = PlacePoses(infos(), [closure(10, 2, np.eye(4), PoseKind.ROTATION_ONLY)]).relation(2, 10)
    assert relation is not None and relation.T_a_b is not None
    assert relation.num_steps == 8
    assert np.allclose(relation.T_a_b, at(8.0))


def test_without_odometry_there_are_steps_but_no_pose():
    relation = PlacePoses(infos(None), ()).relation(2, 5)
    assert relation is not None
    assert (relation.num_steps, relation.T_a_b) == (3, None)


def test_sessions_without_closure_and_distant_keyframes_are_unrelated():
    poses = PlacePoses([*infos(), *infos(at(0.0), 1, 100), *infos(at(0.0), 1, 200)], ())
    assert poses.relation(0, 100) is None
    assert poses.relation(100, 100 + NUM_KEYFRAMES - 1) is not None
    last = 200 + NUM_KEYFRAMES - 1
    assert MAX_STEPS < 2 * NUM_KEYFRAMES - 1
    assert poses.relation(100, last) is None
    assert 5 in poses and 99 not in poses
