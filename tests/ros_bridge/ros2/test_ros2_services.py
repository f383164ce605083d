"""Services answer: with what was asked for, or with a sentence why not."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from progeo_edge.map_store import MapStore

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from tests.ros_bridge.learned import NUM_QUERIES, teach  # noqa: E402
from tests.ros_bridge.ros2.ros2_client import SHORT_STREET, running, wait_until  # noqa: E402
from tests.ros_bridge.ros2.street_player import StreetPlayer  # noqa: E402


@pytest.fixture
def player(client, street):
    return StreetPlayer(client.node, street)


@pytest.fixture(scope="module")
def known_map(client, street, tmp_path_factory):
    """A map of one drive, made by the node."""
    tmp_path = tmp_path_factory.mktemp("known")
    player = StreetPlayer(client.node, street)
    with running(tmp_path, {**SHORT_STREET, "autostart": True}) as node:
        keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
        player.wait_for_listener()
        player.play(step_s=0.3)
        wait_until(lambda: len(keyframes) >= 6, 10, "6 keyframes")
        assert node.interrupt() == 0
    return tmp_path / "map.progeo"


def test_an_unconfigured_node_says_so(client, tmp_path):
    with running(tmp_path, {}):
        for name, kind in [("query", "progeo_msgs/srv/Query"), ("clear", "std_srvs/srv/Trigger")]:
            answer = client.ask(name, kind)
            assert not answer.success
            assert answer.message == "the node is not configured; configure it first"


def test_an_inactive_node_has_no_pose_to_wait_for(client, tmp_path):
    with running(tmp_path, {}):
        assert client.change_state("configure")
        answer = client.ask("relocalize", "progeo_msgs/srv/Relocalize", timeout_s=30.0)
        assert not answer.success
        assert answer.message == "the node takes no images; activate it"
        assert not client.ask("set_paused", "std_srvs/srv/SetBool", data=True).success


def test_query_answers_without_storing(client, player, known_map, tmp_path):
    with running(tmp_path, {**SHORT_STREET, "autostart": True, "map.path": known_map, "map.read_only": True}):
        player.wait_for_listener()
        answer = client.ask("query", "progeo_msgs/srv/Query", image=player.image_message(2, 5_000_000_000))
        assert answer.success
        assert answer.candidates.header.stamp.sec == 5
        assert answer.candidates.status.value == answer.candidates.status.ACCEPTED
        best = answer.candidates.candidates[0]
        assert best.similarity > 0.95
        assert best.reference_session == "run"
        broken = player.image_message(2, 1)
        broken.height = 0
        answer = client.ask("query", "progeo_msgs/srv/Query", image=broken)
        assert not answer.success
        assert answer.message


def test_relocalize_waits_for_the_image_that_answers(client, player, known_map, tmp_path):
    poses = client.listen("relocalization_pose", "geometry_msgs/msg/PoseWithCovarianceStamped")
    parameters = {**SHORT_STREET, "autostart": True, "map.path": known_map, "map.read_only": True}
    with running(tmp_path, parameters) as node:
        player.wait_for_listener()
        late = threading.Timer(1.5, lambda: player.play(step_s=0.2))
        late.start()
        request = {"timeout_s": 15.0}
        answer = client.call(
            "/progeo/relocalize",
            "progeo_msgs/srv/Relocalize",
            client.types.make("progeo_msgs/srv/Relocalize_Request", **request),
        )
        late.join()
        assert answer.success, answer.message
        assert answer.pose.header.frame_id == "map"
        assert answer.closure.query_id == -1
        assert answer.status.value == answer.status.ACCEPTED
        assert answer.probability > 0.95
        assert answer.num_images >= 1
        p = answer.pose.pose.pose.position
        offsets = [np.linalg.norm(T[:3, 3] - [p.x, p.y, p.z]) for T in player.poses]
        assert min(offsets) < 0.2
        assert wait_until(lambda: poses, 5, "relocalization_pose")
        assert node.is_alive()


def test_relocalize_ends_with_a_reason_after_its_time(client, player, known_map, tmp_path):
    parameters = {**SHORT_STREET, "autostart": True, "map.path": known_map, "map.read_only": True}
    request = client.types.make("progeo_msgs/srv/Relocalize_Request", timeout_s=1.0)
    with running(tmp_path, parameters):
        player.wait_for_listener()
        answer = client.call("/progeo/relocalize", "progeo_msgs/srv/Relocalize", request)
        assert (answer.success, answer.message[:22]) == (False, "no image was processed")
        assert client.ask("set_paused", "std_srvs/srv/SetBool", data=True).success
        answer = client.call("/progeo/relocalize", "progeo_msgs/srv/Relocalize", request)
        assert answer.message == "the node is paused; end the pause first"


def test_maps_are_saved_loaded_merged_and_cleared(client, player, known_map, tmp_path):
    with running(tmp_path, {**SHORT_STREET, "autostart": True}):
        keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
        player.wait_for_listener()
        player.play(step_s=0.3)
        wait_until(lambda: len(keyframes) >= 6, 10, "6 keyframes")
        copy = tmp_path / "copy.progeo"
        saved = client.ask("save_map", "progeo_msgs/srv/SaveMap", path=str(copy))
        assert saved.success, saved.message
        assert not client.ask("save_map", "progeo_msgs/srv/SaveMap", path=str(copy)).success
        assert client.ask("save_map", "progeo_msgs/srv/SaveMap", path=str(copy), overwrite=True).success
        merged = client.ask("merge_map", "progeo_msgs/srv/MergeMap", path=str(known_map))
        assert merged.success, merged.message
        with MapStore.open(known_map, read_only=True) as known:
            assert merged.num_keyframes == saved.num_keyframes + len(known)
        again = client.ask("merge_map", "progeo_msgs/srv/MergeMap", path=str(known_map))
        assert not again.success
        assert "both hold the session" in again.message
        missing = client.ask("load_map", "progeo_msgs/srv/LoadMap", path="/nowhere/map.progeo")
        assert not missing.success
        assert "does not exist" in missing.message
        session = client.ask("start_session", "std_srvs/srv/Trigger")
        assert session.success, session.message
        cleared = client.ask("clear", "std_srvs/srv/Trigger")
        assert cleared.success, cleared.message
        loaded = client.ask("load_map", "progeo_msgs/srv/LoadMap", path=str(copy))
        assert loaded.success, loaded.message
        assert loaded.num_keyframes == saved.num_keyframes
        before = len(keyframes)
        player.play(step_s=0.3)
        wait_until(lambda: len(keyframes) > before, 10, "keyframes in the loaded map")


def test_calibrate_answers_for_what_the_map_has_learned(client, known_map, tmp_path):
    path = tmp_path / "learned.progeo"
    path.write_bytes(known_map.read_bytes())
    with MapStore.open(path) as store:
        teach(store)
    with running(tmp_path, {"map.path": path}):
        assert client.change_state("configure")
        answer = client.ask("calibrate", "progeo_msgs/srv/Calibrate", max_false_accepts_per_hour=10.0)
        assert answer.success, answer.message
        assert (answer.verdict, answer.num_queries) == (answer.GOOD, NUM_QUERIES)
        assert answer.false_per_hour == pytest.approx(10.0)
        assert 0.3 < answer.min_similarity < 0.9
        assert "which impostors pass 10 times an hour" in answer.message


def test_calibrate_says_what_is_missing(client, tmp_path):
    with running(tmp_path, {}):
        assert client.change_state("configure")
        answer = client.ask("calibrate", "progeo_msgs/srv/Calibrate")
        assert not answer.success
        assert "no keyframe was compared with another place yet" in answer.message
        assert answer.verdict == answer.UNKNOWN


def test_a_pause_drops_images_and_ends(client, player, tmp_path):
    keyframes = client.listen("keyframes", "progeo_msgs/msg/Keyframe")
    with running(tmp_path, {**SHORT_STREET, "autostart": True}):
        player.wait_for_listener()
        assert client.ask("set_paused", "std_srvs/srv/SetBool", data=True).success
        player.play(step_s=0.1)
        assert keyframes == []
        assert client.ask("set_paused", "std_srvs/srv/SetBool", data=False).success
        player.play(step_s=0.1)
        wait_until(lambda: keyframes, 10, "a keyframe after the pause")
