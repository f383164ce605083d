"""Which frames become keyframes."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import KeyframeConfig
from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.keyframe_gate import KeyframeGate
from progeo_edge.types import Frame

IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)


def frame(time_s: float, x_m: float | None = None, yaw_deg: float = 0.0) -> Frame:
    pose = None if x_m is None else make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x_m, 0, 0])
    return Frame(round(time_s * 1e9), IMAGE, T_odom_base=pose)


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, dtype=np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def gate_at(first: Frame, **settings) -> KeyframeGate:
    gate = KeyframeGate(KeyframeConfig(**settings))
    assert gate.has_moved(first)
    gate.keep(first, unit(1, 0))
    return gate


def test_with_odometry_distance_decides():
    gate = gate_at(frame(0, 0.0))
    assert not gate.has_moved(frame(1, 0.49))
    assert gate.has_moved(frame(1, 0.5))


def test_with_odometry_rotation_decides():
    gate = gate_at(frame(0, 0.0))
    assert not gate.has_moved(frame(1, 0.0, yaw_deg=14.9))
    assert gate.has_moved(frame(1, 0.0, yaw_deg=15.1))


def test_a_parked_robot_gives_no_keyframes():
    gate = gate_at(frame(0, 0.0))
    assert not any(gate.has_moved(frame(t, 0.001)) for t in range(1, 3600))


def test_a_creeping_robot_gives_one_after_a_while():
    gate = gate_at(frame(0, 0.0))
    assert not gate.has_moved(frame(1.9, 0.1))
    assert gate.has_moved(frame(2.0, 0.1))


def test_a_creeping_robot_must_see_something_else_so_that_trembling_odometry_is_no_motion():
    gate = gate_at(frame(0, 0.0))
    assert gate.view_has_changed(frame(2.0, 0.1), unit(1, 1))
    assert not gate.view_has_changed(frame(2.0, 0.1), unit(1, 0.01))
    assert gate.view_has_changed(frame(2.0, 0.5), unit(1, 0.01))
    assert gate.view_has_changed(frame(2.0, 0.0, yaw_deg=16), unit(1, 0.01))


def test_without_odometry_time_and_view_decide():
    gate = gate_at(frame(0))
    assert not gate.has_moved(frame(0.9))
    assert gate.has_moved(frame(1.0))
    assert gate.view_has_changed(frame(1.0), unit(1, 1))
    assert not gate.view_has_changed(frame(1.0), unit(1, 0.01))


def test_with_odometry_the_view_is_not_asked():
    assert gate_at(frame(0, 0.0)).view_has_changed(frame(1, 1.0), unit(1, 0))


def test_odometry_that_stops_falls_back_to_time():
    gate = gate_at(frame(0, 0.0))
    assert not gate.has_moved(frame(0.5))
    assert gate.has_moved(frame(1.0))


def test_every_frame_keeps_every_frame():
    gate = gate_at(frame(0), every_frame=True)
    assert gate.has_moved(frame(0.0))
    assert gate.view_has_changed(frame(0.0), unit(1, 0))
