"""The same picture over and over: frozen when the robot moves, or for too long; never with a sensor's noise."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.config import KeyframeConfig, RecognisableConfig
from progeo_edge.consistency import FrozenCamera
from progeo_edge.types import Frame, Transform
from tests.consistency.drives import at

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (240, 320, 3)).astype(np.uint8)


def watch(**settings: float) -> FrozenCamera:
    return FrozenCamera(RecognisableConfig(**settings), KeyframeConfig())


def frame(second: float, image: np.ndarray = PICTURE, pose: Transform | None = None) -> Frame:
    return Frame(round(second * 1e9), image, T_odom_base=pose)


def noisy(std: float) -> np.ndarray:
    return np.clip(PICTURE + std * RANDOM.standard_normal(PICTURE.shape), 0, 255).astype(np.uint8)


def test_the_same_picture_while_the_robot_drives_or_turns_is_frozen():
    camera = watch()
    assert not camera.is_frozen(frame(0, pose=at(0)))
    assert not camera.is_frozen(frame(1, pose=at(0.4)))
    assert camera.is_frozen(frame(2, pose=at(0.6)))
    assert camera.is_frozen(frame(3, pose=at(0, yaw_deg=16)))


def test_a_robot_that_stands_may_see_the_same_picture_for_ever():
    camera = watch()
    assert not any(camera.is_frozen(frame(second, pose=at(0.02))) for second in range(3600))


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_a_live_sensor_has_noise(std):
    camera = watch()
    assert not any(camera.is_frozen(frame(i, noisy(std), at(float(i)))) for i in range(20))


def test_a_picture_coded_again_is_still_the_same():
    camera, coded = watch(), PICTURE.copy()
    coded[::7, ::5] += 1
    assert not camera.is_frozen(frame(0, pose=at(0)))
    assert camera.is_frozen(frame(1, coded, at(3)))


def test_without_odometry_it_takes_time():
    camera = watch()
    assert [camera.is_frozen(frame(second)) for second in (0, 1, 4, 6, 7)] == [False, False, False, True, True]
    assert not camera.is_frozen(frame(8, noisy(2.0)))
    assert not camera.is_frozen(frame(9))


def test_it_ends_when_the_picture_changes_and_can_be_switched_off():
    camera = watch()
    assert not camera.is_frozen(frame(0, pose=at(0)))
    assert camera.is_frozen(frame(1, pose=at(2)))
    assert not camera.is_frozen(frame(2, noisy(2.0), at(4)))
    off = watch(frozen_difference=0)
    assert not any(off.is_frozen(frame(i, pose=at(float(i)))) for i in range(5))


def test_a_picture_of_another_size_is_another_one():
    camera = watch()
    assert not camera.is_frozen(frame(0, pose=at(0)))
    assert not camera.is_frozen(frame(1, PICTURE[:100], at(5)))
