"""Which votes mean one place, by how much each verification knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.config import Config
from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.map_store import MapStore
from progeo_edge.relocalisation.votes import Agreement, View, Vote
from progeo_edge.types import PoseKind, Transform
from tests.relocalisation.straight_map import I4, at, infos, passed

FORWARD, ASIDE = at(1.0), at(0.0, 1.0)


def agreement(**options: Any) -> Agreement:
    store = SimpleNamespace(infos=lambda: infos(**options), closures=lambda: [])
    return Agreement(cast(MapStore, store), Config())


def vote(
    reference_id: int, T: Transform = I4, kind: PoseKind = PoseKind.METRIC, *, index: int = 0, x_m: float = 0.0
) -> Vote:
    return Vote(View(index, index * 10**9, at(x_m), ()), passed(reference_id, T, kind=kind))


@pytest.mark.parametrize(
    ("a", "b", "agrees"),
    [
        (vote(10, at(0.4)), vote(13, at(-2.4)), True),
        (vote(10, at(0.4)), vote(13, at(-0.4)), False),
        # Without parallax the base is at both references, which are 4 m apart.
        (vote(10, kind=PoseKind.ROTATION_ONLY), vote(14, kind=PoseKind.ROTATION_ONLY), False),
        (vote(10, kind=PoseKind.ROTATION_ONLY), vote(12, kind=PoseKind.ROTATION_ONLY), True),
        # Two rays that meet, that run side by side, and that part.
        (vote(10, FORWARD, PoseKind.UP_TO_SCALE), vote(14, at(-1.0), PoseKind.UP_TO_SCALE), True),
        (vote(10, ASIDE, PoseKind.UP_TO_SCALE), vote(14, ASIDE, PoseKind.UP_TO_SCALE), False),
        (vote(10, at(-1.0), PoseKind.UP_TO_SCALE), vote(12, FORWARD, PoseKind.UP_TO_SCALE), False),
        (vote(10, FORWARD, PoseKind.UP_TO_SCALE), vote(10, at(1.8)), True),
        (vote(10, kind=PoseKind.NONE), vote(14, kind=PoseKind.NONE), True),
        (vote(10, kind=PoseKind.NONE), vote(17, kind=PoseKind.NONE), False),
    ],
)
def test_positions_must_meet_as_far_as_they_are_known(a, b, agrees):
    agree = agreement()
    assert agree(a, b) is agrees
    assert agree(b, a) is agrees


def test_motion_between_the_views_is_followed():
    agree = agreement()
    assert agree(vote(10), vote(15, index=1, x_m=5.0))
    assert not agree(vote(10), vote(15, index=1, x_m=0.0))
    assert not agree(vote(10), vote(10, index=1, x_m=5.0))


def test_turned_poses_do_not_agree():
    turned = make_transform(rotation_exp([0, 0, 0.4]), np.zeros(3))
    assert not agreement()(vote(10), vote(10, turned))
    assert agreement()(vote(10), vote(10, turned, PoseKind.NONE))


@given(st.integers(0, 39), st.integers(0, 39))
def test_without_odometry_of_the_map_steps_along_the_place_graph_decide(a, b):
    near = Config().gate.nms_radius_keyframes + Config().motion.max_step
    assert agreement(T_odom_map=None)(vote(a), vote(b)) is (a == b or abs(a - b) <= near)


def test_references_that_nothing_joins_never_agree():
    store = SimpleNamespace(infos=lambda: [*infos(), *infos(session=1, first=100)], closures=lambda: [])
    assert not Agreement(cast(MapStore, store), Config())(vote(10), vote(110))


def test_a_reference_that_came_later_is_looked_up():
    keyframes = infos()[:20]
    agree = Agreement(cast(MapStore, SimpleNamespace(infos=lambda: keyframes, closures=lambda: [])), Config())
    keyframes += infos()[20:]
    assert agree(vote(30), vote(31, at(-1.0)))
