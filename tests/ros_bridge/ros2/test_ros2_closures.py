"""A real publisher process, our node, a real subscriber: images in, closures out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from progeo_edge.geometry import invert, rotation_angle, transform_from_quaternion
from progeo_edge.map_store import MapStore
from tests.ros_bridge.ros2 import street_player

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, environment, running, wait_until  # noqa: E402


def play(street, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, street_player.__file__, str(street), *arguments]
    return subprocess.Popen(command, env=environment())


@pytest.fixture(scope="module")
def drive(client, street, tmp_path_factory):
    """Two passes, and everything that was said about them."""
    tmp_path = tmp_path_factory.mktemp("drive")
    heard = {
        "closures": client.listen("loop_closures", "progeo_msgs/msg/LoopClosure", latched=True),
        "candidates": client.listen("loop_candidates", "progeo_msgs/msg/LoopCandidates"),
        "keyframes": client.listen("keyframes", "progeo_msgs/msg/Keyframe"),
        "descriptors": client.listen("global_descriptor", "progeo_msgs/msg/GlobalDescriptor"),
        "match_image": client.listen("match_image", "sensor_msgs/msg/Image"),
        "loop_markers": client.listen("loop_markers", "visualization_msgs/msg/MarkerArray", latched=True),
        "diagnostics": client.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    }
    adapters = "['recorder', 'stamped_pairs', 'rtabmap_links']"
    with running(tmp_path, {**SHORT_STREET, "adapters": adapters, "recorder.every_s": 1.0, "autostart": True}) as node:
        player = play(street, "--gap-s", "2", "--step-s", "0.4")
        assert player.wait(60) == 0
        wait_until(lambda: len(heard["closures"]) >= 4, 10, "4 closures")
        yield node, heard, tmp_path / "map.progeo"
        assert node.interrupt() == 0
        assert "Traceback" not in node.output


def pose_of(message) -> np.ndarray:
    p, q = message.position, message.orientation
    return transform_from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def test_closures_arrive_in_metres_with_image_stamps_and_base_frames(drive):
    """The odometry of the rendered street is exact, so it says what the closures have to say."""
    _, heard, _ = drive
    keyframes = {m.id: m for m in heard["keyframes"]}
    for closure in heard["closures"]:
        query, reference = keyframes[closure.query_id], keyframes[closure.reference_id]
        assert closure.header.frame_id == "base_link"
        assert closure.header.stamp == query.header.stamp
        assert closure.reference_stamp == reference.header.stamp
        verification = closure.verification
        assert verification.pose_kind == verification.POSE_METRIC
        T_true = invert(pose_of(reference.pose)) @ pose_of(query.pose)
        T_error = invert(T_true) @ pose_of(verification.t_reference_query.pose)
        assert np.linalg.norm(T_error[:3, 3]) < 0.2
        assert np.degrees(rotation_angle(T_error[:3, :3])) < 2.0
        assert np.linalg.eigvalsh(verification.t_reference_query.covariance.reshape(6, 6)).min() > 0


def test_every_image_gets_its_reasons(drive):
    _, heard, _ = drive
    assert len(heard["candidates"]) >= 10
    candidates = [candidate for m in heard["candidates"] for candidate in m.candidates]
    assert any(candidate.status.value == candidate.status.ACCEPTED for candidate in candidates)
    assert any(candidate.status.value != candidate.status.ACCEPTED for candidate in candidates)
    assert all(m.stages[-1] == "total" and len(m.stages) == len(m.stages_ms) for m in heard["candidates"])


def test_what_was_published_is_in_the_map(drive):
    _, heard, map_path = drive
    with MapStore.open(map_path, read_only=True) as store:
        ids = {info.id for info in store.infos()}
        assert {m.id for m in heard["keyframes"]} == ids
        assert {(m.query_id, m.reference_id) for m in heard["closures"]} == {
            (c.query_id, c.reference_id) for c in store.closures()
        }
        for message in heard["descriptors"]:
            stored = store.keyframe(message.keyframe_id).descriptor
            assert np.frombuffer(message.data, "<f4") @ stored > 0.999


def test_late_joiners_get_the_closures_and_markers(client, drive):
    _, heard, _ = drive
    late = client.listen("loop_closures", "progeo_msgs/msg/LoopClosure", latched=True)
    lines = client.listen("loop_markers", "visualization_msgs/msg/MarkerArray", latched=True, depth=1)
    wait_until(lambda: len(late) == len(heard["closures"]), 10, "all closures for a late joiner")
    wait_until(lambda: len(lines) == 1, 10, "markers for a late joiner")
    assert len(lines[0].markers[0].points) == 2 * len(late)


def test_the_match_image_shows_both_images(drive):
    _, heard, _ = drive
    assert heard["match_image"]
    assert heard["match_image"][0].height == 480


def test_diagnostics_come_once_a_second_and_are_content_after_the_drive(drive):
    _, heard, _ = drive
    values = {pair.key: pair.value for pair in heard["diagnostics"][-1].status[0].values}
    assert values["state"] == "active"
    assert int(values["keyframes of this run"]) == len(heard["keyframes"])
    assert int(values["loop closures"]) == len(heard["closures"])
    seconds = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in heard["diagnostics"]]
    assert np.median(np.diff(seconds)) == pytest.approx(1.0, abs=0.2)


def test_adapters_are_served_and_one_without_its_messages_is_left_out(drive):
    node, heard, map_path = drive
    assert "adapter rtabmap_links is left out: rtabmap_msgs/" in node.output
    folder = map_path.parent / "map.graph"
    wait_until(lambda: {path.name for path in folder.iterdir()} >= {"graph.g2o", "closures.csv"}, 15, "its files")
    wait_until(lambda: "recorder" in counted(heard["diagnostics"][-1]), 5, "its counts in diagnostics")


def counted(message) -> set[str]:
    """First words of the keys in diagnostics: adapters have their name there."""
    return {pair.key.split(" ")[0] for pair in message.status[0].values}
