"""Messages of many topics in any order, good and bad, to frames."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from progeo_edge.geometry import Camera, invert
from progeo_edge.sources.images import FrameError
from progeo_ros.assembled import Pending
from progeo_ros.camera_setup import T_BASE_FORWARD_CAMERA
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import MAX_WAIT_NS, MAX_WAITING, FrameAssembler
from tests.ros_bridge.messages import (
    IMAGE,
    SECOND,
    TYPES,
    camera_info,
    compressed,
    depth,
    header,
    image,
    odometry,
    same_pose,
    transforms,
    turned,
)

MS = 1_000_000
TENTH = SECOND // 10
T0 = 100 * SECOND
T_BASE_CAM = turned(0.3, 0.1) @ T_BASE_FORWARD_CAMERA
FILE_CAMERA = Camera("pinhole", 64, 48, np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]))


class Bench:
    """An assembler with short ways to feed it; images arrive 20 ms after their stamp."""

    def __init__(
        self, *, camera: Camera | None = None, ready: bool = True, keep_all: bool = False, **settings: Any
    ) -> None:
        sections: dict[str, dict[str, Any]] = {"input": {"odometry": "none", "max_rate_hz": 1000.0}}
        for name, value in settings.items():
            section, _, key = name.partition("__")
            sections.setdefault(section, {})[key] = value
        self.assembler = FrameAssembler(NodeConfig.model_validate(sections), camera, keep_all=keep_all)
        if ready:
            self.assembler.on_camera_info(camera_info())
            self.tf(("base_link", "cam", T_BASE_CAM))

    def tf(self, *links: Any, stamp_ns: int = 0, is_static: bool = True) -> None:
        self.assembler.on_transforms(transforms(stamp_ns, *links), is_static=is_static)

    def image(self, stamp_ns: int, message: Any = None, *, delay_ns: int = 20 * MS) -> None:
        self.assembler.on_image(image(stamp_ns) if message is None else message, stamp_ns + delay_ns)

    def drive(self, *stamps_ns: int, **frames: str) -> None:
        for stamp_ns in stamps_ns:
            self.assembler.on_odometry(odometry(stamp_ns, at(stamp_ns), **frames))

    def pop(self, now_ns: int | None = None) -> Pending:
        pending = self.assembler.pop(now_ns)
        assert pending is not None, self.assembler.waiting_for
        return pending

    @property
    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.assembler.counts.as_dict().items() if count}


def at(stamp_ns):
    return turned((stamp_ns - T0) / SECOND, yaw=0.2 * (stamp_ns - T0) / SECOND)


# -- images ----------------------------------------------------------------------------------------------------------


def test_the_newest_image_is_taken_and_older_ones_are_dropped():
    bench = Bench()
    for k in range(3):
        bench.image(T0 + k * TENTH)
    assert bench.pop().stamp_ns == T0 + 2 * TENTH
    assert bench.assembler.pop() is None
    assert bench.counts == {"received": 3, "dropped_by_newer": 2}


def test_dropped_images_are_never_decoded(monkeypatch):
    bench = Bench()
    decoded = []

    def count(message):
        decoded.append(message)
        return IMAGE

    monkeypatch.setattr("progeo_ros.decoding.image_of", count)
    for k in range(5):
        bench.image(T0 + k * TENTH)
    pending = bench.pop()
    assert decoded == []
    bench.assembler.decode(pending)
    assert len(decoded) == 1


def test_the_rate_is_limited_before_anything_else():
    bench = Bench(input__max_rate_hz=10.0)
    used = 0
    for k in range(90):
        bench.image(T0 + k * SECOND // 30)
        used += bench.assembler.pop() is not None
    assert used == 30 and bench.counts == {"received": 90, "dropped_by_rate": 60}


def test_decoded_frames_have_all_that_is_known():
    bench = Bench(input__odometry="topic")
    bench.drive(T0 - TENTH, T0 + TENTH)
    bench.image(T0)
    assembled = bench.assembler.decode(bench.pop())
    np.testing.assert_array_equal(assembled.frame.image, IMAGE)
    same_pose(assembled.frame.T_odom_base, np.eye(4), atol=1e-9)
    assert assembled.frame.stamp_ns == T0 and assembled.arrival_ns == T0 + 20 * MS
    assert (assembled.camera_frame, assembled.base_frame, assembled.odom_frame) == ("cam", "base_link", "odom")
    assert isinstance(assembled.camera, Camera) and assembled.frame.depth_m is None and assembled.frame.right is None
    same_pose(assembled.camera.T_base_camera, T_BASE_CAM, atol=1e-12)


def test_compressed_images_are_images():
    bench = Bench()
    data = cv2.imencode(".png", IMAGE)[1].tobytes()
    bench.image(T0, compressed(T0, data, "bgr8; png compressed bgr8"))
    np.testing.assert_array_equal(bench.assembler.decode(bench.pop()).frame.image, IMAGE)


def zero_size():
    message = image(T0)
    message.height = 0
    return message


def truncated():
    message = image(T0)
    message.data = message.data[:-1]
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [(zero_size(), "64x0"), (truncated(), "truncated"), (compressed(T0, b"\xff\xd8\xff"), "truncated")],
)
def test_a_broken_image_is_counted_and_the_next_is_used(message, reason):
    bench = Bench()
    bench.image(T0, message)
    with pytest.raises(FrameError, match=reason):
        bench.assembler.decode(bench.pop())
    assert bench.counts["broken"] == 1 and reason in bench.assembler.last_problem
    bench.image(T0 + TENTH)
    assert bench.assembler.decode(bench.pop()).frame.stamp_ns == T0 + TENTH


def test_an_image_without_stamp_is_refused_with_the_reason():
    bench = Bench()
    bench.assembler.on_image(image(0), T0)
    assert bench.assembler.pop() is None
    assert bench.counts == {"received": 1, "broken": 1} and "no stamp" in bench.assembler.last_problem


def test_late_and_repeated_images_are_left_out():
    bench = Bench()
    for stamp_ns in (T0, T0 - TENTH, T0, T0 + TENTH):
        bench.image(stamp_ns)
    assert bench.pop().stamp_ns == T0 + TENTH
    assert bench.counts == {"received": 4, "dropped_late": 2, "dropped_by_newer": 1}


def test_waiting_images_are_bounded():
    bench = Bench(ready=False)
    for k in range(100):
        bench.image(T0 + k * MS)
    assert bench.counts["dropped_by_newer"] == 100 - MAX_WAITING


# -- calibration -------------------------------------------------------------------------------------------------------


def test_without_camera_info_images_wait_and_then_go_without_a_camera():
    bench = Bench(ready=False, camera__wait_s=2.0)
    bench.tf(("base_link", "cam", T_BASE_CAM))
    assert bench.assembler.waiting_for == "images"
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "camera_info"
    bench.image(T0 + 2 * SECOND - 2 * MS)
    assert bench.assembler.pop() is None
    bench.image(T0 + 2 * SECOND)
    pending = bench.pop()
    assert pending.stamp_ns == T0 + 2 * SECOND and pending.camera is None and bench.assembler.waiting_for == ""
    bench.assembler.on_camera_info(camera_info())
    bench.image(T0 + 3 * SECOND)
    assert bench.pop().camera is not None and bench.assembler.has_camera


def test_the_callers_clock_ends_the_wait_when_no_image_comes_any_more():
    bench = Bench(ready=False, camera__wait_s=2.0)
    bench.image(T0)
    assert bench.assembler.pop(T0 + 1 * SECOND) is None
    assert bench.pop(T0 + 3 * SECOND).stamp_ns == T0


def test_a_camera_file_needs_no_camera_info():
    bench = Bench(ready=False, camera=FILE_CAMERA)
    bench.tf(("base_link", "cam", T_BASE_CAM))
    bench.image(T0)
    camera = bench.pop().camera
    assert camera is not None and camera.K[0, 0] == 50.0
    same_pose(camera.T_base_camera, T_BASE_CAM, atol=1e-12)


def test_uncalibrated_camera_info_is_said_until_a_good_one_comes():
    bench = Bench(ready=False)
    bench.assembler.on_camera_info(camera_info(fx=0.0))
    (problem,) = bench.assembler.problems
    assert "fx 0" in problem and "calibrate the camera" in problem and not bench.assembler.has_camera
    bench.assembler.on_camera_info(camera_info())
    assert bench.assembler.problems == [] and bench.assembler.has_camera


def test_repeated_camera_info_is_not_converted_again(caplog):
    bench = Bench(ready=False)
    for _ in range(30):
        bench.assembler.on_camera_info(camera_info(fx=0.0))
    assert len(caplog.records) == 1


def test_a_changed_calibration_is_reported_and_used():
    bench = Bench()
    assert bench.assembler.take_events() == []
    bench.assembler.on_camera_info(camera_info(fx=70.0))
    bench.image(T0)
    camera = bench.pop().camera
    assert camera is not None and camera.K[0, 0] == 70.0
    (event,) = bench.assembler.take_events()
    assert "camera_info changed" in event and bench.assembler.take_events() == []


def test_a_changed_resolution_keeps_the_camera_and_another_aspect_is_refused():
    bench = Bench()
    bench.image(T0, image(T0, np.zeros((96, 128, 3), np.uint8)))
    assembled = bench.assembler.decode(bench.pop())
    assert isinstance(assembled.camera, Camera) and assembled.camera.for_image_size(128, 96).K[0, 0] == 100.0
    bench.image(T0 + TENTH, image(T0 + TENTH, np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(FrameError, match="64x64 but the camera is calibrated for 64x48"):
        bench.assembler.decode(bench.pop())
    assert bench.counts["broken"] == 1


# -- mounting ----------------------------------------------------------------------------------------------------------


def test_images_wait_for_the_mounting():
    bench = Bench(ready=False)
    bench.assembler.on_camera_info(camera_info())
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "tf from base_link to cam"
    bench.tf(("base_link", "mast", turned(0.3, 0.1)), ("mast", "cam", T_BASE_FORWARD_CAMERA))
    camera = bench.pop().camera
    assert camera is not None
    same_pose(camera.T_base_camera, T_BASE_CAM, atol=1e-12)


def test_without_mounting_poses_are_of_the_optical_frame_and_the_odometry_follows_a_forward_camera():
    bench = Bench(ready=False, camera__wait_s=0.0, input__odometry="topic")
    bench.assembler.on_camera_info(camera_info())
    bench.drive(T0 - TENTH, T0 + TENTH)
    bench.image(T0)
    pending = bench.pop()
    assert pending.base_frame == pending.camera_frame == "cam"
    assert pending.camera is not None
    np.testing.assert_array_equal(pending.camera.T_base_camera, np.eye(4))
    same_pose(pending.T_odom_base, at(T0) @ T_BASE_FORWARD_CAMERA, atol=1e-9)
    (problem,) = bench.assembler.problems
    assert "no transform from 'base_link'" in problem and "frames.base" in problem


def test_a_mounting_that_comes_later_begins_a_new_generation():
    bench = Bench(ready=False, camera__wait_s=0.0)
    bench.image(T0)
    first = bench.pop()
    bench.tf(("base_link", "cam", T_BASE_CAM))
    bench.image(T0 + TENTH)
    second = bench.pop()
    assert (first.base_frame, second.base_frame) == ("cam", "base_link")
    assert second.generation == first.generation + 1 and bench.assembler.problems == []
    assert "base_link" in bench.assembler.take_events()[0]


def test_images_of_the_base_frame_itself_need_no_tf():
    bench = Bench(ready=False, frames__base="cam")
    bench.assembler.on_camera_info(camera_info())
    bench.image(T0)
    assert bench.pop().base_frame == "cam" and bench.assembler.problems == []


def test_the_mounting_of_the_camera_file_counts_more_than_tf():
    camera = Camera("pinhole", 64, 48, FILE_CAMERA.K, T_base_camera=turned(0.9))
    bench = Bench(camera=camera)
    bench.image(T0)
    pending = bench.pop()
    assert pending.camera is not None and pending.base_frame == "base_link"
    np.testing.assert_array_equal(pending.camera.T_base_camera, turned(0.9))


def test_a_transform_that_is_none_is_said_and_left_out():
    bench = Bench(ready=False)
    bench.assembler.on_camera_info(camera_info())
    message = transforms(0, ("base_link", "cam", T_BASE_CAM))
    message.transforms[0].transform.translation.x = float("nan")
    bench.assembler.on_transforms(message, is_static=True)
    bench.image(T0)
    assert bench.assembler.pop() is None
    assert "tf from base_link to cam is left out: position (nan" in bench.assembler.problems[0]
    bench.tf(("base_link", "cam", T_BASE_CAM))
    assert bench.pop().base_frame == "base_link" and bench.assembler.problems == []


def test_another_camera_on_the_same_base_begins_no_generation():
    bench = Bench()
    bench.tf(("base_link", "rear", turned(-0.3)))
    bench.image(T0)
    first = bench.pop()
    bench.image(T0 + TENTH, image(T0 + TENTH, frame_id="rear"))
    second = bench.pop()
    assert (second.camera_frame, second.base_frame) == ("rear", "base_link")
    assert first.generation == second.generation == 0
    assert second.camera is not None
    same_pose(second.camera.T_base_camera, turned(-0.3))


def test_an_image_without_frame_id_takes_that_of_camera_info():
    bench = Bench()
    bench.image(T0, image(T0, frame_id=""))
    pending = bench.pop()
    assert (pending.camera_frame, pending.base_frame) == ("cam", "base_link")


def pan(bench, stamp_ns, yaw):
    bench.tf(("base_link", "cam", turned(0.3, yaw=yaw)), stamp_ns=stamp_ns, is_static=False)


def test_a_mounting_sent_on_tf_that_stands_still_is_fixed():
    bench = Bench(ready=False)
    bench.assembler.on_camera_info(camera_info())
    frames = []
    for k in range(20):
        pan(bench, T0 + k * TENTH, yaw=1e-4 * (k % 2))
        if k % 2:
            bench.image(T0 + k * TENTH - TENTH // 2)
            frames.append(bench.pop())
    assert {f.base_frame for f in frames} == {"base_link"} and {f.generation for f in frames} == {0}
    assert all(f.camera is not None for f in frames)
    first, last = frames[0].camera, frames[-1].camera
    assert first is not None and last is not None
    np.testing.assert_array_equal(first.T_base_camera, last.T_base_camera)


def test_a_mounting_that_moves_makes_the_optical_frame_the_base():
    bench = Bench(ready=False, input__odometry="topic")
    bench.assembler.on_camera_info(camera_info())
    bench.drive(*(T0 + k * TENTH for k in range(-1, 12)))
    for k in range(11):
        pan(bench, T0 + k * TENTH, yaw=0.05 * k)
    bench.image(T0 + 2 * TENTH)
    first = bench.pop()
    same_pose(first.T_odom_base, at(T0 + 2 * TENTH), atol=1e-9)
    bench.image(T0 + 5 * TENTH + TENTH // 2)
    second = bench.pop()
    assert (first.base_frame, second.base_frame) == ("base_link", "cam") and second.generation == 1
    assert second.camera is not None
    np.testing.assert_array_equal(second.camera.T_base_camera, np.eye(4))
    expected = at(second.stamp_ns) @ turned(0.3, yaw=0.05 * 5.5)
    same_pose(second.T_odom_base, expected, atol=1e-9)
    bench.image(T0 + 8 * TENTH)
    third = bench.pop()
    assert (third.base_frame, third.generation) == ("cam", 1)
    assert any("moves on the robot" in problem for problem in bench.assembler.problems)


# -- odometry ----------------------------------------------------------------------------------------------------------


def test_odometry_is_interpolated_to_the_image():
    bench = Bench(input__odometry="topic")
    bench.drive(T0, T0 + TENTH)
    bench.image(T0 + TENTH // 3)
    same_pose(bench.pop().T_odom_base, at(T0 + TENTH // 3), atol=1e-9)


def test_an_image_waits_for_odometry_that_is_behind():
    bench = Bench(input__odometry="topic")
    bench.drive(T0 - TENTH)
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "odom"
    bench.drive(T0 + 1)
    same_pose(bench.pop().T_odom_base, at(T0), atol=1e-7)


def test_an_image_does_not_wait_for_ever_when_odometry_stops():
    bench = Bench(input__odometry="topic")
    bench.drive(T0 - TENTH)
    bench.image(T0)
    arrival_ns = T0 + 20 * MS
    assert bench.assembler.pop(arrival_ns + MAX_WAIT_NS - 1) is None
    assert bench.pop(arrival_ns + MAX_WAIT_NS).T_odom_base is None
    assert bench.counts["without_odometry"] == 1


def test_a_newer_image_with_odometry_goes_before_an_older_one_without():
    bench = Bench(input__odometry="topic")
    bench.drive(T0, T0 + TENTH)
    bench.image(T0 + TENTH // 2)
    bench.image(T0 + 2 * TENTH)
    assert bench.pop().stamp_ns == T0 + TENTH // 2
    bench.drive(T0 + 3 * TENTH)
    assert bench.pop().stamp_ns == T0 + 2 * TENTH and "dropped_by_newer" not in bench.counts


@pytest.mark.parametrize("bad", ["nan", "zero quaternion"])
def test_bad_odometry_is_counted_and_said_and_never_used(bad):
    bench = Bench(input__odometry="topic")
    bench.drive(T0)
    message = odometry(T0 + TENTH, turned(500.0))
    if bad == "nan":
        message.pose.pose.position.x = float("nan")
    else:
        message.pose.pose.orientation = TYPES.make("geometry_msgs/msg/Quaternion", w=0.0)
    bench.assembler.on_odometry(message)
    assert bench.counts == {"odometry_invalid": 1} and "is no pose" in bench.assembler.problems[0]
    bench.drive(T0 + 2 * TENTH)
    bench.image(T0 + TENTH)
    same_pose(bench.pop().T_odom_base, at(T0 + TENTH), atol=1e-9)
    assert bench.assembler.problems == []


def test_odometry_that_is_only_nan_leaves_images_without():
    bench = Bench(input__odometry="topic", camera__wait_s=1.0)
    for k in range(20):
        message = odometry(T0 + k * TENTH, turned())
        message.pose.pose.orientation.w = float("nan")
        bench.assembler.on_odometry(message)
        bench.image(T0 + k * TENTH)
    pending = bench.pop()
    assert pending.T_odom_base is None and bench.counts["odometry_invalid"] == 20


def test_odometry_of_another_frame_is_moved_by_tf_or_left_out():
    bench = Bench(input__odometry="topic")
    bench.drive(T0 - TENTH, T0 + TENTH, child="imu")
    bench.image(T0)
    assert bench.pop().T_odom_base is None
    (problem,) = bench.assembler.problems
    assert "pose of 'imu'" in problem and "set frames.base to 'imu'" in problem
    bench.tf(("base_link", "imu", turned(0.0, 0.2)))
    bench.drive(T0 + 2 * TENTH, child="imu")
    bench.image(T0 + TENTH)
    expected = at(T0 + TENTH) @ invert(turned(0.0, 0.2))
    same_pose(bench.pop().T_odom_base, expected, atol=1e-9)
    assert bench.assembler.problems == []


def test_odometry_by_tf():
    bench = Bench(input__odometry="tf")
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "tf from odom to base_link"
    for stamp_ns in (T0 - TENTH, T0 + TENTH):
        bench.tf(("odom", "footprint", at(stamp_ns)), stamp_ns=stamp_ns, is_static=False)
    bench.tf(("footprint", "base_link", turned(0.0, 0.5)))
    pending = bench.pop()
    same_pose(pending.T_odom_base, at(T0) @ turned(0.0, 0.5), atol=1e-9)
    assert pending.odom_frame == "odom"


def test_without_odometry_nothing_is_waited_for():
    bench = Bench(input__odometry="none")
    bench.drive(T0 - TENTH, T0 + TENTH)
    bench.image(T0)
    assert bench.pop().T_odom_base is None and "without_odometry" not in bench.counts


# -- depth and right image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset_ms", "is_paired"), [(-20, True), (-21, False), (0, True), (20, True), (21, False)])
def test_depth_is_paired_within_the_offset(offset_ms, is_paired):
    bench = Bench(input__depth=True, input__max_offset_ms=20.0)
    bench.assembler.on_depth(depth(T0 + offset_ms * MS, 3.0))
    bench.assembler.on_depth(depth(T0 + SECOND, 9.0))
    bench.image(T0)
    found = bench.assembler.decode(bench.pop()).frame.depth_m
    assert (found is not None) == is_paired
    assert found is None or found[0, 0] == 3.0
    assert bench.counts.get("without_depth", 0) == (not is_paired)


def test_the_nearest_depth_is_taken():
    bench = Bench(input__depth=True)
    for offset_ms, metres in ((-15, 1.0), (-4, 2.0), (8, 3.0)):
        bench.assembler.on_depth(depth(T0 + offset_ms * MS, metres))
    bench.image(T0)
    found = bench.assembler.decode(bench.pop()).frame.depth_m
    assert found is not None and found[0, 0] == 2.0


def test_an_image_waits_for_depth_but_not_for_ever():
    bench = Bench(input__depth=True)
    bench.assembler.on_depth(depth(T0 - TENTH))
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "depth"
    bench.assembler.on_depth(depth(T0 + 2 * MS))
    assert bench.pop().depth is not None
    bench.image(T0 + TENTH)
    assert bench.pop(T0 + TENTH + 20 * MS + MAX_WAIT_NS).depth is None


def test_depth_of_another_size_or_encoding_is_left_out_with_the_reason():
    bench = Bench(input__depth=True)
    bench.assembler.on_depth(depth(T0, size=(32, 24)))
    bench.image(T0)
    assert bench.assembler.decode(bench.pop()).frame.depth_m is None
    assert "depth is 32x24 px, the image 64x48" in bench.assembler.problems[0]
    bench.assembler.on_depth(image(T0 + TENTH))
    bench.image(T0 + TENTH)
    assert bench.assembler.decode(bench.pop()).frame.depth_m is None
    assert "encoding 'bgr8'" in bench.assembler.problems[0] and bench.counts["without_depth"] == 2
    bench.assembler.on_depth(depth(T0 + 2 * TENTH))
    bench.image(T0 + 2 * TENTH)
    assert bench.assembler.decode(bench.pop()).frame.depth_m is not None and bench.assembler.problems == []


def test_a_right_image_comes_with_its_baseline():
    bench = Bench(input__right=True)
    bench.assembler.on_right(image(T0, IMAGE[:, ::-1].copy()))
    bench.image(T0)
    assert bench.assembler.pop() is None and bench.assembler.waiting_for == "right/camera_info"
    bench.assembler.on_right_camera_info(camera_info(baseline=0.0))
    assert "states no baseline" in bench.assembler.problems[0]
    bench.assembler.on_right_camera_info(camera_info(baseline=0.12))
    assembled = bench.assembler.decode(bench.pop())
    assert isinstance(assembled.camera, Camera) and assembled.camera.baseline_m == pytest.approx(0.12)
    np.testing.assert_array_equal(assembled.frame.right, IMAGE[:, ::-1])
    assert bench.assembler.problems == []


# -- time that jumps back ----------------------------------------------------------------------------------------------


def test_a_bag_started_anew_begins_a_new_generation_and_forgets():
    bench = Bench(input__odometry="topic", input__depth=True)
    bench.drive(*(T0 + k * TENTH for k in range(5)))
    bench.assembler.on_depth(depth(T0 + 3 * TENTH))
    bench.image(T0 + 3 * TENTH)
    assert bench.pop().generation == 0
    bench.image(T0 + 9 * TENTH)  # waits for odometry, and must not come out of the former time
    again = T0 - 50 * SECOND
    arrival_ns = T0 + 12 * TENTH
    bench.image(again, delay_ns=arrival_ns - again)
    (event,) = bench.assembler.take_events()
    assert "stamps went back by 50.9 s" in event
    assert bench.assembler.pop(arrival_ns + MAX_WAIT_NS - 1) is None
    bench.drive(again - TENTH, again + TENTH)
    bench.assembler.on_depth(depth(again))
    pending = bench.pop()
    assert (pending.stamp_ns, pending.generation) == (again, 1)
    same_pose(pending.T_odom_base, at(again), atol=1e-9)
    assert bench.counts["restarts"] == 1


def test_images_of_the_former_time_never_come_out():
    bench = Bench(input__odometry="topic", input__external_keyframes=True)
    bench.drive(T0)
    for stamp_ns in (T0 + TENTH, T0 - 50 * SECOND):
        bench.assembler.on_keyframe_trigger(header(stamp_ns))
        bench.image(stamp_ns)
    bench.drive(T0 - 51 * SECOND, T0 - 50 * SECOND)
    assert bench.pop(T0 + 60 * SECOND).stamp_ns == T0 - 50 * SECOND
    assert bench.assembler.pop() is None and bench.counts["dropped_by_newer"] == 1


def test_after_a_restart_odometry_is_waited_for_as_at_the_start():
    bench = Bench(input__odometry="topic")
    bench.drive(T0, T0 + TENTH)
    bench.image(T0)
    bench.pop(T0 + 60 * SECOND)
    again = T0 - 50 * SECOND
    bench.image(again, delay_ns=111 * SECOND)
    assert bench.assembler.pop(T0 + 62 * SECOND) is None and bench.assembler.waiting_for == "odom"
    bench.drive(again - TENTH, again + TENTH)
    same_pose(bench.pop().T_odom_base, at(again))


def test_odometry_of_the_new_run_that_came_before_its_first_image_is_kept():
    bench = Bench(input__odometry="topic")
    bench.drive(T0, T0 + TENTH)
    bench.image(T0)
    bench.pop()
    again = T0 - 50 * SECOND
    bench.drive(again - TENTH, again + TENTH)
    bench.image(again)
    assert bench.pop().T_odom_base is not None


def test_the_rate_starts_anew_too():
    bench = Bench(input__max_rate_hz=1.0)
    bench.image(T0)
    bench.pop()
    bench.image(T0 - 50 * SECOND)
    assert bench.pop().stamp_ns == T0 - 50 * SECOND


def test_static_transforms_survive():
    bench = Bench()
    bench.image(T0)
    bench.pop()
    bench.image(T0 - 50 * SECOND)
    assert bench.pop().base_frame == "base_link"


# -- keyframes of the SLAM ---------------------------------------------------------------------------------------------


def test_only_images_that_the_slam_names_are_used_in_any_order():
    bench = Bench(input__external_keyframes=True, input__max_rate_hz=1.0)
    bench.assembler.on_keyframe_trigger(header(T0 + TENTH))
    for k in range(4):
        bench.image(T0 + k * TENTH)
    bench.assembler.on_keyframe_trigger(header(T0 + 3 * TENTH))
    assert bench.pop().stamp_ns == T0 + TENTH
    assert bench.pop().stamp_ns == T0 + 3 * TENTH
    assert bench.assembler.pop() is None and "dropped_by_newer" not in bench.counts


def test_a_trigger_names_one_image_within_a_millisecond():
    bench = Bench(input__external_keyframes=True)
    bench.image(T0)
    bench.assembler.on_keyframe_trigger(header(T0 + 2 * MS))
    assert bench.assembler.pop() is None
    bench.assembler.on_keyframe_trigger(header(T0 + 400))
    assert bench.pop().stamp_ns == T0
    bench.assembler.on_keyframe_trigger(header(T0))
    assert bench.assembler.pop() is None


def test_images_nobody_asks_for_and_triggers_without_image_are_counted():
    bench = Bench(input__external_keyframes=True)
    bench.assembler.on_keyframe_trigger(header(T0 - TENTH))
    for k in range(60):
        bench.image(T0 + k * TENTH)
    assert bench.counts == {"received": 60, "not_asked_for": 30, "triggers_unmatched": 1}


def test_triggers_of_the_former_time_are_forgotten_and_those_of_the_new_one_kept():
    bench = Bench(input__external_keyframes=True)
    bench.image(T0)
    again = T0 - 50 * SECOND
    bench.assembler.on_keyframe_trigger(header(T0 + TENTH))
    bench.assembler.on_keyframe_trigger(header(again + TENTH))
    bench.image(again)
    bench.assembler.on_keyframe_trigger(header(T0))
    assert bench.assembler.pop() is None
    bench.image(again + TENTH)
    assert bench.pop().stamp_ns == again + TENTH


# -- recordings ------------------------------------------------------------------------------------------------------


def test_of_a_recording_every_image_is_given_in_its_order():
    bench = Bench(keep_all=True, input__odometry="topic")
    bench.drive(T0)
    stamps_ns = [T0 + (i + 1) * SECOND // 100 for i in range(2 * MAX_WAITING)]
    for stamp_ns in stamps_ns:
        bench.image(stamp_ns)
    assert bench.assembler.pop() is None, "all wait for odometry"
    bench.drive(stamps_ns[-1])
    assert [bench.pop().stamp_ns for _ in stamps_ns] == stamps_ns
    assert bench.assembler.pop() is None
    assert "dropped_by_newer" not in bench.counts


def test_of_a_recording_no_image_overtakes_one_that_waits():
    bench = Bench(keep_all=True, input__depth=True)
    bench.assembler.on_depth(depth(T0))
    bench.image(T0)
    assert bench.pop().stamp_ns == T0
    bench.image(T0 + TENTH)
    bench.image(T0 + 2 * TENTH)
    assert bench.assembler.pop() is None, "its depth may still come"
    later = bench.assembler.pop(T0 + 2 * TENTH + MAX_WAIT_NS)
    assert later is not None and later.stamp_ns == T0 + TENTH
