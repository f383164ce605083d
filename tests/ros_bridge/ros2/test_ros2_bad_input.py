"""Whatever a driver sends, the node stays up and says what is wrong; when the input is good again, it goes on."""

from __future__ import annotations

import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402

SECOND = 10**9


@pytest.fixture
def player(client, street):
    player = StreetPlayer(client.node, street)
    yield player
    player.destroy()


class Watch:
    """What diagnostics say, and the keyframes that come."""

    def __init__(self, client) -> None:
        self.heard = client.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        self.keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")

    def value(self, key: str) -> str:
        if not self.heard:
            return ""
        return next((pair.value for pair in self.heard[-1].status[0].values if pair.key == key), "")

    def says(self, sentence: str, timeout_s: float = 10.0) -> None:
        wait_until(lambda: any(sentence in m.status[0].message for m in self.heard), timeout_s, sentence)


@pytest.fixture
def watch(client):
    return Watch(client)


def still_works(player, watch) -> None:
    """A keyframe arrives after all that."""
    before = len(watch.keyframes)
    player.play(step_s=0.15)
    wait_until(lambda: len(watch.keyframes) > before, 10, "a keyframe")


def test_a_stalled_camera_shows_in_diagnostics(client, player, watch, tmp_path):
    with running(tmp_path, {**SHORT_STREET, "input.stale_s": 1.0, "autostart": True}):
        player.wait_for_listener()
        player.play(step_s=0.15)
        watch.says("active: ")
        watch.says("no image (the last came ")
        assert watch.heard[-1].status[0].level == b"\x01"
        still_works(player, watch)


def test_without_camera_info_images_wait_and_then_go_without_pose(client, player, watch, tmp_path):
    candidates = client.listen("loop_candidates", "progeo_msgs/msg/LoopCandidates")
    with running(tmp_path, {**SHORT_STREET, "camera.wait_s": 1.5, "autostart": True}):
        player.wait_for_listener()
        for i in [0, 1, 2, 3, 4, 5] * 3:
            player.send(i, player.now_ns(), with_camera_info=False)
            time.sleep(0.2)
        watch.says("no camera_info")
        wait_until(lambda: candidates, 10, "an image without camera")
        assert all(c.verification.pose_kind == c.verification.POSE_NONE for m in candidates for c in m.candidates)


def test_broken_images_odometry_and_stamps(client, player, watch, tmp_path):
    with running(tmp_path, {**SHORT_STREET, "autostart": True}) as node:
        player.wait_for_listener()
        player.play(step_s=0.15)
        wait_until(lambda: watch.keyframes, 10, "a keyframe")

        empty = player.image_message(0, player.now_ns())
        empty.height = empty.width = empty.step = 0
        empty.data = type(empty.data)("B")
        truncated = player.image_message(0, player.now_ns())
        truncated.data = truncated.data[:1000]
        strange = player.image_message(0, player.now_ns())
        strange.encoding = "rgb565_banana"
        for message in (empty, truncated, strange):
            stamp_ns = player.now_ns()
            message.header.stamp = player.types.time(stamp_ns)
            player.odom.publish(player.odometry_message(0, stamp_ns))
            player.depth.publish(player.depth_message(0, stamp_ns))
            player.image.publish(message)
            time.sleep(0.5)
        wait_until(lambda: int(watch.value("images broken") or 0) >= 3, 10, "three broken images counted")
        assert "an image is left out" in node.output

        lost = player.odometry_message(0, player.now_ns())
        lost.pose.pose.position.x = float("nan")
        player.odom.publish(lost)
        wait_until(lambda: int(watch.value("images odometry invalid") or 0) >= 1, 10, "NaN odometry counted")
        watch.says("the last message on odom is not usable")

        still_works(player, watch)
        sessions = {message.session for message in watch.keyframes}
        for i in range(6):
            player.send(i, player.now_ns() - 3600 * SECOND)
            time.sleep(0.2)
        wait_until(lambda: {m.session for m in watch.keyframes} - sessions, 10, "a session after the jump")
        wait_until(lambda: "stamps went back by" in node.output, 10, "the jump in the log")
        still_works(player, watch)
        assert "Traceback" not in node.output


def test_a_changing_resolution_is_scaled_and_another_aspect_refused(client, player, watch, tmp_path):
    with running(tmp_path, {**SHORT_STREET, "input.depth": False, "autostart": True}) as node:
        player.wait_for_listener()
        player.play(step_s=0.15)
        wait_until(lambda: watch.keyframes, 10, "a keyframe")
        original = player.images
        player.images = np.ascontiguousarray(original[:, ::2, ::2])
        for i in range(6):
            stamp_ns = player.now_ns()
            player.odom.publish(player.odometry_message(i, stamp_ns))
            player.image.publish(player.image_message(i, stamp_ns))
            time.sleep(0.2)
        before = int(wait_until(lambda: watch.value("images broken"), 5, "diagnostics"))
        player.images = np.ascontiguousarray(original[:, :100])
        for i in range(3):
            stamp_ns = player.now_ns()
            player.odom.publish(player.odometry_message(i, stamp_ns))
            player.image.publish(player.image_message(i, stamp_ns))
            time.sleep(0.3)
        wait_until(lambda: int(watch.value("images broken")) > before or int(watch.value("errors")) > 0, 10, "refusal")
        assert before == 0, "a smaller image of the same shape is fine"
        assert "is calibrated for 320x240" in node.output
        player.images = original
        still_works(player, watch)
        assert "Traceback" not in node.output


def test_simulated_time_without_a_clock_is_said(client, watch, tmp_path):
    with running(tmp_path, {"use_sim_time": True, "autostart": True}):
        watch.says("use_sim_time is set, but /clock brings no time")
