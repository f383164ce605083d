from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.config import ExclusionConfig
from progeo_edge.errors import InputError
from progeo_edge.exclusion import RecentKeyframes
from progeo_edge.types import Descriptor

S = 1_000_000_000
WINDOW = ExclusionConfig(time_s=30, distance_m=10, keyframes=5)


def descriptor_of(keyframe_id: int) -> Descriptor:
    return np.full(4, keyframe_id, dtype=np.float32)


def pushed(stamps_s: list[float], paths_m: list[float] | None = None) -> RecentKeyframes:
    recent = RecentKeyframes(WINDOW)
    for number, stamp_s in enumerate(stamps_s):
        recent.push(number, descriptor_of(number), int(stamp_s * S), None if paths_m is None else paths_m[number])
    return recent


def ids_of(released: list[tuple[int, Descriptor]]) -> list[int]:
    for keyframe_id, descriptor in released:
        np.testing.assert_array_equal(descriptor, descriptor_of(keyframe_id))
    return [keyframe_id for keyframe_id, _ in released]


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 20 * S), st.floats(0, 6)), min_size=1, max_size=40),
    with_odometry=st.booleans(),
)
def test_release_is_what_the_window_says(steps: list[tuple[int, float]], with_odometry: bool) -> None:
    recent = RecentKeyframes(WINDOW)
    stamps, paths = np.cumsum([s for s, _ in steps]).tolist(), np.cumsum([p for _, p in steps]).tolist()
    out: list[int] = []
    for number, (stamp, path) in enumerate(zip(stamps, paths, strict=True)):
        out += ids_of(recent.release(stamp, path if with_odometry else None))
        for earlier in range(number):
            back = path - paths[earlier] >= 10 - 1e-6 if with_odometry else number - 1 - earlier >= 5
            if earlier in out:
                assert stamp - stamps[earlier] >= 30 * S
                assert back
            else:
                surely_back = path - paths[earlier] >= 10 + 1e-6 if with_odometry else back
                assert stamp - stamps[earlier] < 30 * S or not surely_back
        recent.push(number, descriptor_of(number), stamp, path if with_odometry else None)
    assert out == sorted(out)
    assert out + ids_of(list(recent)) == list(range(len(steps)))


def test_a_robot_that_stands_still_releases_nothing() -> None:
    recent = pushed([0, 60, 120, 180], [5.0, 5.0, 5.0, 5.0])
    assert recent.release(3600 * S, 5.0) == []
    assert recent.release(3600 * S, 14.9) == []
    assert ids_of(recent.release(3600 * S, 15.0)) == [0, 1, 2, 3]


def test_a_fast_robot_waits_for_the_time() -> None:
    recent = pushed([0, 1, 2], [0, 30, 60])
    assert recent.release(29 * S, 900.0) == []
    assert ids_of(recent.release(31 * S, 960.0)) == [0, 1]


def test_without_odometry_keyframes_count() -> None:
    recent = pushed([0, 1, 2, 3, 4])
    assert recent.release(100 * S, None) == []
    recent.push(5, descriptor_of(5), 101 * S, None)
    assert ids_of(recent.release(101 * S, None)) == [0]
    assert len(recent) == 5


def test_odometry_that_fails_falls_back_to_counting_keyframes() -> None:
    recent = pushed([0, 1], [0, 1])
    for number in range(2, 8):
        recent.push(number, descriptor_of(number), 40 * S, None)
    assert ids_of(recent.release(50 * S, None)) == [0, 1]
    # With a pose again, those that have one are measured by it; those without by their number.
    assert ids_of(recent.release(100 * S, 2.0)) == [2]


def test_a_clock_set_back_neither_releases_everything_nor_waits_for_hours() -> None:
    recent = pushed([10_000 + i for i in range(10)], [20.0 * i for i in range(10)])
    assert recent.release(5 * S, 200.0) == []
    # 9 s had passed before the clock was set to 5 s; 21 s later the first has its 30.
    assert recent.release(25 * S, 220.0) == []
    assert ids_of(recent.release(26 * S, 240.0)) == [0]
    assert ids_of(recent.release(35 * S, 260.0)) == list(range(1, 10))


def test_a_recording_played_in_a_loop_goes_on_releasing() -> None:
    recent = RecentKeyframes(WINDOW)
    released = []
    for number in range(200):
        stamp_ns = (number % 20) * S
        released += ids_of(recent.release(stamp_ns, None))
        recent.push(number, descriptor_of(number), stamp_ns, None)
    assert len(released) > 150


def test_stamps_out_of_order_do_not_make_time_run_faster() -> None:
    recent = RecentKeyframes(WINDOW)
    recent.push(0, descriptor_of(0), 0, 0.0)
    for step in range(1, 40):
        for stamp_ns in (step * S // 2, step * S // 2 - 300_000_000):
            assert recent.release(stamp_ns, 100.0) == []
    assert ids_of(recent.release(30 * S, 100.0)) == [0]


def test_odometry_that_starts_anew_is_counted_on() -> None:
    recent = pushed([0, 1], [500.0, 501.0])
    assert recent.release(60 * S, 0.0) == []
    assert recent.release(60 * S, 8.5) == []
    assert ids_of(recent.release(60 * S, 9.5)) == [0]


def test_a_path_that_trembles_does_not_grow() -> None:
    recent = pushed([0], [100.0])
    for step in range(200):
        assert recent.release((31 + step) * S, 100.0 + 0.4 * (step % 2)) == []


@pytest.mark.parametrize("path_m", [float("nan"), float("inf"), -1.0])
def test_a_path_that_is_no_length_is_refused_and_nothing_is_lost(path_m: float) -> None:
    recent = pushed([0, 1], [0, 1])
    with pytest.raises(InputError, match="path length"):
        recent.release(100 * S, path_m)
    with pytest.raises(InputError, match="path length"):
        recent.push(2, descriptor_of(2), 100 * S, path_m)
    assert ids_of(list(recent)) == [0, 1]
    assert recent.release(29 * S, 50.0) == []


def test_drain_hands_out_all_that_wait() -> None:
    recent = pushed([0, 1, 2])
    assert ids_of(recent.drain()) == [0, 1, 2]
    assert len(recent) == 0
    assert recent.drain() == []


def test_an_empty_window_releases_at_once() -> None:
    recent = RecentKeyframes(ExclusionConfig(time_s=0, distance_m=0, keyframes=0))
    recent.push(0, descriptor_of(0), 5, 0.0)
    assert ids_of(recent.release(5, 0.0)) == [0]


def test_images_of_one_moment_count_as_one_and_are_not_each_others_past() -> None:
    recent = RecentKeyframes(ExclusionConfig(time_s=0, distance_m=0, keyframes=1))
    for number in range(6):  # three moments of two images
        recent.push(number, descriptor_of(number), (number // 2) * S, None, joins=number % 2 == 1)
    assert ids_of(recent.release(2 * S, None, joins=True)) == [0, 1]
    assert ids_of(recent.release(3 * S, None)) == [2, 3]
    assert [keyframe_id for keyframe_id, _ in recent] == [4, 5]


@pytest.mark.parametrize("path_m", [None, 5.0])
def test_a_query_never_gets_an_image_of_its_own_moment(path_m: float | None) -> None:
    recent = RecentKeyframes(ExclusionConfig(time_s=0, distance_m=0, keyframes=0))
    recent.push(0, descriptor_of(0), 0, path_m)
    assert ids_of(recent.release(0, path_m, joins=True)) == []
    assert ids_of(recent.release(S, path_m)) == [0]
