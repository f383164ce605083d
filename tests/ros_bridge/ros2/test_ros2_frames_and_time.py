"""What the node does to tf, what clock it goes by, and the profiles of its topics."""

from __future__ import annotations

import threading
import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from rclpy.qos import ReliabilityPolicy  # noqa: E402

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402

SECOND = 10**9


@pytest.fixture
def player(client, street):
    player = StreetPlayer(client.node, street)
    yield player
    player.destroy()


def transforms(heard) -> list[tuple[str, str]]:
    return [(t.header.frame_id, t.child_frame_id) for message in heard for t in message.transforms]


def test_tf_is_published_only_when_asked_for_with_a_read_only_map(client, player, tmp_path):
    """The street is driven twice with the same odometry, so the two odometry frames are one."""
    heard = client.listen("/tf", "tf2_msgs/msg/TFMessage")
    keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
    with running(tmp_path, {**SHORT_STREET, "autostart": True, "frames.publish_tf": True}) as node:
        player.wait_for_listener()
        player.play(step_s=0.3)
        wait_until(lambda: len(keyframes) >= 6, 10, "6 keyframes")
        assert node.interrupt() == 0
    assert heard == [], "a map that grows has no authority over map -> odom"
    poses = client.listen("relocalization_pose", "geometry_msgs/msg/PoseWithCovarianceStamped")
    read_only = {**SHORT_STREET, "autostart": True, "map.read_only": True}
    with running(tmp_path, read_only) as node:
        player.wait_for_listener()
        player.play(step_s=0.3)
        wait_until(lambda: poses, 10, "a pose")
        assert node.interrupt() == 0
    assert heard == [], "off by default"
    with running(tmp_path, {**read_only, "frames.publish_tf": True}):
        player.wait_for_listener()
        player.play(step_s=0.3)
        wait_until(lambda: heard, 10, "map -> odom on /tf")
    assert set(transforms(heard)) == {("map", "odom")}
    transform = heard[-1].transforms[0].transform
    assert max(abs(getattr(transform.translation, axis)) for axis in "xyz") < 0.2
    assert transform.rotation.w > 0.999


def test_simulated_time_comes_from_the_clock_topic(client, player, tmp_path):
    diagnostics = client.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
    clock = client.node.create_publisher(client.types.find("rosgraph_msgs/msg/Clock"), "/clock", 10)
    start, done = time.monotonic_ns(), threading.Event()

    def now_ns() -> int:
        return 1000 * SECOND + time.monotonic_ns() - start

    def tick() -> None:
        while not done.wait(0.05):
            clock.publish(client.types.make("rosgraph_msgs/msg/Clock", clock=client.types.time(now_ns())))

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        with running(tmp_path, {**SHORT_STREET, "autostart": True, "use_sim_time": True}):
            player.wait_for_listener()
            for i in range(6):
                player.send(i, now_ns())
                time.sleep(0.3)
            wait_until(lambda: keyframes, 10, "a keyframe")
            time.sleep(1.5)
    finally:
        done.set()
        ticking.join()
        client.node.destroy_publisher(clock)
    assert all(1000 <= message.header.stamp.sec < 1200 for message in keyframes), "stamps are those of the images"
    last = diagnostics[-1]
    assert 1000 <= last.header.stamp.sec < 1200
    values = {pair.key: pair.value for pair in last.status[0].values}
    assert abs(float(values["clock skew of images (s)"])) < 1
    assert "/clock brings no time" not in last.status[0].message


def test_profiles_are_those_of_the_overrides(client, player, tmp_path):
    first = client.listen("loop_closures", "progeo_msgs/msg/LoopClosure", latched=True)
    file = tmp_path / "settings.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    qos_overrides:\n"
        "      /loop_closures:\n        publisher:\n          depth: 2\n"
        "      /image:\n        subscription:\n          reliability: reliable\n"
        "      /loop_closure:\n        publisher:\n          depth: 2\n"
    )
    player_reliable = client.node.create_publisher(client.types.find("sensor_msgs/msg/Image"), "image", 10)
    player.image, best_effort = player_reliable, player.image
    with running(tmp_path, {**SHORT_STREET, "autostart": True}, "--params-file", str(file)) as node:
        player.wait_for_listener()
        (subscription,) = [
            info for info in client.node.get_subscriptions_info_by_topic("/image") if info.node_name == "progeo"
        ]
        assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        player.play(step_s=0.4, gap_s=2.0)
        wait_until(lambda: len(first) >= 4, 10, "4 closures")
        time.sleep(1.0)
        late = client.listen("loop_closures", "progeo_msgs/msg/LoopClosure", latched=True)
        wait_until(lambda: late, 10, "closures for a late joiner")
        time.sleep(1.0)
        assert [m.query_id for m in late] == [m.query_id for m in first[-2:]], "the last two, not the last hundred"
        assert "qos_overrides./loop_closure.publisher.depth has no effect so far" in node.output
        assert "qos_overrides./loop_closures.publisher.depth has no effect" not in node.output
    client.node.destroy_publisher(best_effort)
