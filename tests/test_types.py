"""What a closure says about the robot's direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.geometry import invert, make_transform, rotation_exp
from progeo_edge.types import LoopClosure, PoseKind, Status, Transform, Verification


def closure(T_reference_query: Transform | None) -> LoopClosure:
    kind = PoseKind.NONE if T_reference_query is None else PoseKind.METRIC
    return LoopClosure(5, 1, 0.9, verification=Verification(Status.ACCEPTED, T_reference_query, pose_kind=kind))


def turned(angle_deg: float, axis: tuple[float, float, float] = (0, 0, 1)) -> Transform:
    return make_transform(rotation_exp(np.radians(angle_deg) * np.array(axis)), [1.0, 2.0, 0.0])


@given(st.floats(-180, 180))
def test_heading_change_is_the_angle_between_the_bases(angle_deg):
    found = closure(turned(angle_deg))
    assert found.heading_change_deg == pytest.approx(abs(angle_deg), abs=1e-4)


@given(st.floats(-180, 180), st.floats(-3, 3), st.floats(-3, 3))
def test_it_does_not_depend_on_which_is_the_reference_or_how_the_base_is_drawn(yaw_deg, roll_deg, pitch_deg):
    """A base that is the camera's optical frame (no mounting given) sees the same angle."""
    T = turned(yaw_deg) @ turned(roll_deg, (1, 0, 0)) @ turned(pitch_deg, (0, 1, 0))
    T_base_optical = make_transform([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.3, 0.0, 1.2])
    expected = closure(T).heading_change_deg
    assert closure(invert(T)).heading_change_deg == pytest.approx(expected, abs=1e-4)
    assert closure(invert(T_base_optical) @ T @ T_base_optical).heading_change_deg == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("angle_deg", "expected"), [(0, False), (90, False), (134, False), (136, True), (180, True)])
def test_reverse_is_nearer_to_opposite_than_to_across(angle_deg, expected):
    assert closure(turned(angle_deg)).is_reverse is expected


def test_without_a_rotation_nothing_is_said():
    for found in (closure(None), LoopClosure(5, 1, 0.9)):
        assert found.heading_change_deg is None
        assert found.is_reverse is None
