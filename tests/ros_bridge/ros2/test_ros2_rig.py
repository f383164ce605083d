"""Several cameras: topics below their names, and a moment of all of them."""

from __future__ import annotations

import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402


def test_the_images_of_a_rig_come_from_topics_below_the_names_of_its_cameras(client, street, tmp_path):
    players = [StreetPlayer(client.node, street, prefix=f"{name}/") for name in ("front", "rear")]
    keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
    closures = client.listen("loop_closures", "progeo_msgs/msg/LoopClosure")
    with running(tmp_path, {**SHORT_STREET, "autostart": True, "input.cameras": "[front, rear]"}):
        for player in players:
            player.wait_for_listener()
        for i in range(len(players[0].images)):
            stamp_ns = players[0].now_ns()
            for player in players:
                player.send(i, stamp_ns)
            time.sleep(0.4)
        wait_until(lambda: len(keyframes) >= 8, 20, "8 keyframes")
        wait_until(lambda: closures, 20, "a closure")
    stamps = [(keyframe.header.stamp.sec, keyframe.header.stamp.nanosec) for keyframe in keyframes]
    assert {keyframe.camera for keyframe in keyframes} == {"front", "rear"}
    assert stamps[0] == stamps[1], "a moment has an image of each camera"
    assert {closure.query_camera for closure in closures} <= {"front", "rear"}
    for player in players:
        player.destroy()
