"""Poses over time, and the tree of frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.geometry import invert
from progeo_edge.sources.poses import PoseTrack
from progeo_edge.types import Transform
from progeo_ros.conversions.incoming import transforms_of
from progeo_ros.transforms import KEEP_NS, PoseHistory, TransformTree
from tests.ros_bridge.messages import SECOND, pose, same_pose, transforms, turned

TENTH = SECOND // 10


def empty() -> PoseHistory[Transform]:
    return PoseHistory(lambda T: T)


def history(*stamps_ns):
    """Driving along x at 1 m/s, turning by 0.2 rad/s."""
    result = empty()
    for stamp_ns in stamps_ns:
        result.add(stamp_ns, at(stamp_ns))
    return result


def at(stamp_ns):
    return turned(stamp_ns / SECOND, yaw=0.2 * stamp_ns / SECOND)


def test_between_two_poses_it_is_interpolated():
    found = history(5 * SECOND, 5 * SECOND + 2 * TENTH).at(5 * SECOND + TENTH // 2)
    same_pose(found, at(5 * SECOND + TENTH // 2), atol=1e-9)


def test_outside_and_in_gaps_there_is_none():
    poses = history(SECOND, SECOND + TENTH, SECOND + 9 * TENTH)
    assert poses.at(SECOND - 1) is None and poses.at(SECOND + 9 * TENTH + 1) is None
    assert poses.at(SECOND + 2 * TENTH) is None
    assert poses.at(SECOND + 9 * TENTH) is not None
    assert empty().at(0) is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 90))
def test_any_order_gives_what_the_sources_give(steps, when):
    stamps_ns = [step * TENTH for step in steps]
    rows = []
    for stamp_ns in stamps_ns:
        p = pose(at(stamp_ns))
        rows.append([p.position.x, 0, 0, p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w])
    expected = PoseTrack(stamps_ns, rows, "test").at(when * TENTH // 10)
    found = history(*stamps_ns).at(when * TENTH // 10)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        same_pose(found, expected, atol=1e-9)


def test_memory_is_bounded_and_the_recent_past_is_kept():
    poses = empty()
    for k in range(10_000):
        poses.add(k * TENTH, at(k * TENTH))
        assert len(poses) <= 2 * KEEP_NS // TENTH + 3
    assert poses.at(9_999 * TENTH - KEEP_NS + TENTH) is not None


def test_stamps_that_jump_back_forget_what_was():
    poses = history(90 * SECOND, 90 * SECOND + TENTH)
    poses.add(3 * SECOND, turned(7.0))
    assert len(poses) == 1 and not poses.reaches(4 * SECOND)
    late = history(2 * SECOND, 2 * SECOND + 2 * TENTH, 2 * SECOND + TENTH)
    assert len(late) == 3


def test_time_that_was_set_back_forgets_the_future():
    poses = history(3 * SECOND, 90 * SECOND, 90 * SECOND + TENTH)
    poses.forget_after(3 * SECOND)
    assert len(poses) == 1 and poses.at(3 * SECOND) is not None


# -- the tree --------------------------------------------------------------------------------------------------------


def tree(*static, moving=()):
    result = TransformTree()
    result.add(transforms_of(transforms(0, *static)), is_static=True)
    for stamp_ns, *link in moving:
        result.add(transforms_of(transforms(stamp_ns, tuple(link))), is_static=False)
    return result


def test_static_chains_are_walked_up_and_down():
    T_base_mast, T_mast_cam, T_base_arm = turned(1.0, yaw=0.3), turned(0.2, 0.1, pitch=0.4), turned(-2.0)
    frames = tree(("base", "mast", T_base_mast), ("mast", "cam", T_mast_cam), ("base", "arm", T_base_arm))
    same_pose(frames.at("base", "cam", 0), T_base_mast @ T_mast_cam, atol=1e-12)
    same_pose(frames.at("cam", "base", 0), invert(T_base_mast @ T_mast_cam), atol=1e-12)
    same_pose(frames.at("arm", "cam", 0), invert(T_base_arm) @ T_base_mast @ T_mast_cam, atol=1e-12)
    same_pose(frames.at("cam", "cam", 0), np.eye(4))
    assert frames.at("base", "moon", 0) is None and not frames.is_connected("base", "moon")


def test_moving_parts_are_taken_at_the_stamp():
    T_base_mast, T_pan_cam = turned(0.0, 0.5), turned(0.1)
    moving = [(stamp, "mast", "pan", at(stamp)) for stamp in (SECOND, SECOND + 2 * TENTH)]
    frames = tree(("base", "mast", T_base_mast), ("pan", "cam", T_pan_cam), moving=moving)
    stamp_ns = SECOND + TENTH
    same_pose(frames.at("base", "cam", stamp_ns), T_base_mast @ at(stamp_ns) @ T_pan_cam, atol=1e-9)
    assert frames.at("base", "cam", 5 * SECOND) is None
    assert frames.reaches("base", "cam", stamp_ns) and not frames.reaches("base", "cam", 5 * SECOND)
    assert frames.reaches("base", "mast", 5 * SECOND)


def test_what_moves_above_both_frames_does_not_matter():
    frames = tree(("base", "cam", turned(0.4)), moving=[(SECOND, "odom", "base", turned(9.0))])
    same_pose(frames.at("base", "cam", 77 * SECOND), turned(0.4))


def test_a_frame_that_gets_another_parent_leaves_the_former():
    frames = tree(("a", "cam", turned(1.0)))
    frames.add(transforms_of(transforms(0, ("b", "cam", turned(2.0)))), is_static=True)
    assert not frames.is_connected("a", "cam")
    same_pose(frames.at("b", "cam", 0), turned(2.0))


def test_loops_end():
    frames = tree(("a", "b", turned(1.0)), ("b", "c", turned(1.0)), ("c", "a", turned(1.0)))
    assert frames.at("a", "x", 0) is None


def test_static_transforms_are_not_replaced_by_moving_ones():
    frames = tree(("base", "cam", turned(1.0)), moving=[(SECOND, "base", "cam", turned(2.0))])
    same_pose(frames.at("base", "cam", SECOND), turned(1.0))
    assert frames.reaches("base", "cam", 50 * SECOND)


@pytest.mark.parametrize("a, b", [("base", "cam"), ("cam", "base")])
def test_the_tree_forgets_the_future_too(a, b):
    frames = tree(moving=[(3 * SECOND, "base", "cam", turned(1.0)), (90 * SECOND, "base", "cam", turned(2.0))])
    frames.forget_after(3 * SECOND)
    assert not frames.reaches(a, b, 50 * SECOND) and frames.at(a, b, 3 * SECOND) is not None
