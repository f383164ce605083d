"""Transitions of the node: each does what its name says, or fails with a sentence and leaves nothing half-open."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from progeo_edge.map_store import MapStore
from tests.small_world import SPEC

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, environment, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402


def verdicts(heard) -> list[str]:
    return [message.status[0].message for message in heard]


def states(heard) -> list[str]:
    return [next(p.value for p in message.status[0].values if p.key == "state") for message in heard]


def test_all_transitions_there_and_back(client, tmp_path):
    diagnostics = client.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    with running(tmp_path, {}) as node:
        for _ in range(2):
            assert client.state() == "unconfigured"
            assert client.change_state("configure")
            assert client.state() == "inactive"
            for _ in range(2):
                assert client.change_state("activate")
                assert client.state() == "active"
                assert client.change_state("deactivate")
            wait_until(lambda: states(diagnostics)[-1:] == ["inactive"], 5, "diagnostics while inactive")
            assert client.change_state("cleanup")
        assert client.change_state("shutdown")
        assert client.state() == "finalized"
        assert node.is_alive()
        assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"model.path": "/nowhere/bundle"}, "/nowhere/bundle"),
        ({"camera.file": "/nowhere/camera.yaml"}, "/nowhere/camera.yaml"),
        ({"map.path": "/nowhere/map.progeo"}, "folder /nowhere for the map does not exist"),
        ({"map.read_only": True}, "does not exist; check the path"),
        ({"keyframe.max_interval_s": 0.0}, "keyframe.max_interval_s = 0.0: Input should be greater than 0"),
        ({"model.backend": "cuda"}, "model.backend = 'cuda'"),
        ({"profile": "daring"}, "profile 'daring' is unknown; choose one of"),
        ({"adapters": "['telepathy']"}, "adapters.0 = 'telepathy'"),
        ({"qos_overrides./image.subscription.depth": "many"}, "expected a whole number of messages, 1 or more"),
        ({"map.path": "/proc/map.progeo"}, "check the permissions of the file and its folder"),
    ],
)
def test_configure_fails_with_a_sentence(client, tmp_path, parameters, sentence):
    diagnostics = client.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    with running(tmp_path, parameters) as node:
        assert not client.change_state("configure")
        assert client.state() == "unconfigured"
        assert f"configure failed: {sentence}" in node.output or sentence in node.output
        assert "Traceback" not in node.output
        wait_until(lambda: any(sentence in text for text in verdicts(diagnostics)), 5, "the sentence in diagnostics")
        assert node.is_alive()


def test_a_transition_that_the_state_does_not_have_is_refused(client, tmp_path):
    with running(tmp_path, {}) as node:
        assert not client.change_state("activate")
        assert client.change_state("configure")
        assert not client.change_state("configure")
        assert client.state() == "inactive"
        assert "Traceback" not in node.output


def test_a_map_of_another_model_is_refused_and_can_be_replaced(client, tmp_path):
    with MapStore.create(tmp_path / "other.progeo", SPEC):
        pass
    with running(tmp_path, {"map.path": tmp_path / "other.progeo", "autostart": True}) as node:
        wait_until(lambda: "configure failed" in node.output, 20, "the refusal")
        assert "was made by model fake" in node.output
        assert client.state() == "unconfigured"
        assert client.set_parameter("map.path", str(tmp_path / "mine.progeo")) == (True, "")
        assert client.change_state("configure")
        assert client.state() == "inactive"


def test_two_nodes_do_not_write_to_one_map(client, tmp_path):
    with running(tmp_path, {}) as node:
        assert client.change_state("configure")
        with running(tmp_path, {"autostart": True}, "-r", "__ns:=/second") as second:
            wait_until(lambda: "configure failed" in second.output, 20, "the refusal")
            assert "is open for writing in a node already; give each node a map of its own" in second.output
        assert client.change_state("cleanup")
        assert not (tmp_path / "map.progeo.lock").exists()
        assert node.is_alive()


def open_files(pid: int) -> set[str]:
    """What a process has open of its own files."""
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return {str(path) for path in links if ".progeo" in path.name or "bundle" in str(path)}


def test_a_refused_configuration_leaves_nothing_open(client, tmp_path):
    other = tmp_path / "other.progeo"
    with MapStore.create(other, SPEC):
        pass
    with running(tmp_path, {"map.path": other}) as node:
        assert not client.change_state("configure")
        assert open_files(node.process.pid) == set()
        assert client.set_parameter("map.path", str(tmp_path / "mine.progeo"))[0]
        assert client.set_parameter("model.path", "/nowhere/bundle")[0]
        assert not client.change_state("configure")
        assert open_files(node.process.pid) == set()
        assert not (tmp_path / "mine.progeo").exists()
        assert client.set_parameter("model.path", "vlad")[0]
        assert client.change_state("configure")
        assert str(tmp_path / "mine.progeo") in open_files(node.process.pid), "the check sees what is open"


def test_an_inactive_node_does_not_listen_and_keeps_its_map(client, street, tmp_path):
    keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
    player = StreetPlayer(client.node, street)
    with running(tmp_path, {**SHORT_STREET, "autostart": True}):
        player.wait_for_listener()
        player.play(step_s=0.2)
        before = wait_until(lambda: len(keyframes), 10, "a keyframe")
        assert client.change_state("deactivate")
        wait_until(lambda: player.image.get_subscription_count() == 0, 5, "the end of the subscription")
        assert client.ask("save_map", "progeo_msgs/srv/SaveMap", path=str(tmp_path / "copy.progeo")).success
        assert client.change_state("activate")
        player.wait_for_listener()
        player.play(step_s=0.2)
        wait_until(lambda: len(keyframes) > before, 10, "a keyframe after the pause")
    assert {message.session for message in keyframes} == {"run"}, "a pause begins no new session"


def test_ctrl_c_closes_the_map_cleanly_in_every_state(client, tmp_path):
    for steps in ([], ["configure"], ["configure", "activate"]):
        with running(tmp_path, {}) as node:
            client.state()
            assert all(client.change_state(step) for step in steps)
            assert node.interrupt() == 0
            assert "Traceback" not in node.output
            assert not (tmp_path / "map.progeo-wal").exists()


def test_kill_9_loses_no_keyframe_that_was_published(client, street, tmp_path):
    """In a namespace of its own: DDS believes for many seconds that a killed process still offers its services."""
    names = ["image", "depth", "camera_info", "odom"]
    remapped = [text for name in names for text in ("-r", f"{name}:=/{name}")]
    keyframes = client.listen("/killed/keyframes", "progeo_msgs/msg/Keyframe")
    closures = client.listen("/killed/loop_closures", "progeo_msgs/msg/LoopClosure", latched=True)
    player = StreetPlayer(client.node, street)
    with running(tmp_path, {**SHORT_STREET, "autostart": True}, "-r", "__ns:=/killed", *remapped) as node:
        player.wait_for_listener()
        player.play(step_s=0.3, gap_s=2.0)
        wait_until(lambda: closures, 10, "a closure")
        node.process.kill()
        assert node.process.wait(10) == -9
    time.sleep(0.5)
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert {message.id for message in keyframes} <= {info.id for info in store.infos()}
        stored = {(closure.query_id, closure.reference_id) for closure in store.closures()}
        assert {(message.query_id, message.reference_id) for message in closures} <= stored
    player.destroy()


def test_without_progeo_msgs_closures_go_out_in_a_standard_message(client, street, tmp_path):
    hidden = tmp_path / "hidden" / "progeo_msgs"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('hidden by the test', name='progeo_msgs')\n")
    extra = {"PYTHONPATH": os.pathsep.join([str(hidden.parent), environment()["PYTHONPATH"]])}
    poses = client.listen("loop_closure_pose", "geometry_msgs/msg/PoseWithCovarianceStamped", latched=True)
    player = StreetPlayer(client.node, street)
    with running(tmp_path, {**SHORT_STREET, "autostart": True}, extra=extra) as node:
        # DDS believes for many seconds that a node killed by an earlier test still listens.
        wait_until(lambda: client.state() == "active", 20, "activation")
        player.wait_for_listener()
        player.play(step_s=0.4, gap_s=2.0)
        wait_until(lambda: poses, 10, "a closure")
        assert "progeo_msgs is not built" in node.output
        assert client.ask("start_session", "std_srvs/srv/Trigger").success
        session, stamp_ns = poses[0].header.frame_id.split("/")
        assert session == "run"
        assert int(stamp_ns) > 0
