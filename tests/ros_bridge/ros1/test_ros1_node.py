"""The node in a real ROS 1: images go in by one process, closures come out to another."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from progeo_edge.geometry import invert, rotation_angle, transform_from_quaternion
from progeo_edge.map_store import MapStore
from progeo_edge.types import Transform
from tests.ros_bridge.ros1.ros1_system import Ros1, wait_until, write_recording
from tests.small_world import LIGHT, NUM_POSES, two_passes

CLOSURES = "loop_closures:progeo_msgs/LoopClosure"
CANDIDATES = "loop_candidates:progeo_msgs/LoopCandidates"
KEYFRAMES = "keyframes:progeo_msgs/Keyframe"
CLOSURE_POSES = "loop_closure_pose:geometry_msgs/PoseWithCovarianceStamped"
MAP_POSES = "relocalization_pose:geometry_msgs/PoseWithCovarianceStamped"
DIAGNOSTICS = "/diagnostics:diagnostic_msgs/DiagnosticArray"
TF = "/tf:tf2_msgs/TFMessage"
NUM_IMAGES = 2 * NUM_POSES
NO_POSE, METRIC, BY_DEPTH, ACCEPTED = 0, 3, 1, 0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "two_passes.npz")


@pytest.fixture(scope="module")
def drive(ros: Ros1, recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """Both passes, driven with a node that is ended as usual."""
    return Drive(ros, recording, tmp_path_factory.mktemp("drive"))


class Drive:
    """What one run told, and what it left."""

    def __init__(self, ros: Ros1, recording: Path, folder: Path) -> None:
        self.map_path, self.copy_path, self.graph = folder / "map.progeo", folder / "copy.progeo", folder / "graph"
        more = {
            "gate.min_similarity": 0.125,
            "adapters": ["recorder", "pose_graph"],
            "recorder": {"folder": str(self.graph)},
        }
        ros.set_parameters("/drive/progeo", parameters(self.map_path, **more))
        player = ros.play("/drive", recording, "--last", str(NUM_IMAGES))
        early = ros.listen("/drive", "early", CLOSURES, KEYFRAMES, CANDIDATES, DIAGNOSTICS)
        node = ros.start_node("/drive")
        assert ros.finish(player) == 0, ros.errors("node-drive").read_text()
        self.candidates = early.wait_for("loop_candidates", NUM_IMAGES)
        self.keyframes = early.wait_for("keyframes", NUM_IMAGES)
        self.closures = early.wait_for("loop_closures", NUM_POSES)
        late = ros.listen("/drive", "late", CLOSURES)
        self.answers = ros.call(
            "/drive",
            recording,
            ("progeo/query", "progeo_msgs/Query", {"image": NUM_POSES}),
            ("progeo/save_map", "progeo_msgs/SaveMap", {"path": str(self.copy_path)}),
            ("progeo/save_map", "progeo_msgs/SaveMap", {"path": str(self.copy_path)}),
            ("progeo/calibrate", "progeo_msgs/Calibrate", {"max_false_accepts_per_hour": 10.0}),
            ("progeo/set_paused", "std_srvs/SetBool", {"data": True}),
            ("progeo/relocalize", "progeo_msgs/Relocalize", {"timeout_s": 1.0}),
        )
        self.closures_told_late = late.wait_for("loop_closures", len(self.closures))

        def told() -> list[dict[str, Any]]:
            return statuses(early.heard("/diagnostics"), "drive/progeo")

        # A quick machine is through before there are three of them.
        wait_until(lambda: len(told()) >= 3 and told()[-1]["images processed"] == str(NUM_IMAGES), "no diagnostics")
        self.diagnostics = told()
        node.send_signal(signal.SIGTERM)
        self.exit_code = ros.finish(node)
        self.log = ros.errors("node-drive").read_text()


def parameters(map_path: Path, **more: Any) -> dict[str, Any]:
    """As a parameter file has them: some nested, some with dots."""
    light = {name: float(value) for name, value in (item.split("=") for item in LIGHT)}
    whole = {name: int(value) for name, value in light.items() if not name.endswith(("_m", "_ms"))}
    return {"map": {"path": str(map_path), "session": "survey"}, "input": {"depth": True}, **light, **whole, **more}


def statuses(arrays: list[Any], node: str) -> list[dict[str, Any]]:
    """What a node said of itself: "message", "level", and every value by its key."""
    return [
        {**{item["key"]: item["value"] for item in status["values"]}, **status, "stamp": array["header"]["stamp"]}
        for array in arrays
        for status in array["status"]
        if status["name"] == f"{node}: place recognition"
    ]


# -- the normal course -------------------------------------------------------------------------------------------


def test_a_street_driven_twice_gives_its_closures_near_the_truth(drive: Drive) -> None:
    assert {(NUM_POSES + i, i) for i in range(NUM_POSES)} <= set(_pairs(drive.closures))
    for message in drive.closures:
        _check_closure(message)


def test_late_joiners_get_all_closures(drive: Drive) -> None:
    assert _pairs(drive.closures_told_late) == _pairs(drive.closures)
    assert [m["verification"] for m in drive.closures_told_late] == [m["verification"] for m in drive.closures]


def test_every_image_has_an_answer_with_the_gate_of_the_parameters(drive: Drive) -> None:
    stamps = [frame.stamp_ns for frame in two_passes()[0]]
    assert [message["header"]["stamp"] for message in drive.candidates] == stamps
    assert {message["min_similarity"] for message in drive.candidates} == {0.125}


def test_a_node_that_is_ended_leaves_a_complete_map(drive: Drive) -> None:
    assert drive.exit_code == 0
    assert [message["id"] for message in drive.keyframes] == list(range(NUM_IMAGES))
    with MapStore.open(drive.map_path, read_only=True) as store:
        assert [info.id for info in store.infos()] == list(range(NUM_IMAGES))
        assert [(closure.query_id, closure.reference_id) for closure in store.closures()] == _pairs(drive.closures)


def test_services_answer(drive: Drive) -> None:
    query, saved, saved_again, calibrated, paused, relocalized = drive.answers
    assert query["success"]
    assert query["candidates"]["status"]["value"] == ACCEPTED
    assert query["candidates"]["candidates"][0]["reference_id"] in (0, NUM_POSES)
    assert (saved["success"], saved["num_keyframes"]) == (True, NUM_IMAGES)
    with MapStore.open(drive.copy_path, read_only=True) as store:
        assert len(store.infos()) == NUM_IMAGES
    assert not saved_again["success"]
    assert "exists already" in saved_again["message"]
    assert (calibrated["success"], calibrated["verdict"]) == (False, 0)
    assert "drive" in calibrated["message"], "a street of six places is too short to learn from"
    assert paused["success"]
    assert not relocalized["success"]
    assert "paused" in relocalized["message"]


def test_diagnostics_come_about_once_a_second(drive: Drive) -> None:
    times_s = np.array([status["stamp"] for status in drive.diagnostics]) * 1e-9
    assert len(times_s) >= 3
    assert 0.7 < np.median(np.diff(times_s)) < 3
    last = drive.diagnostics[-1]
    assert last["images processed"] == str(NUM_IMAGES)
    assert last["loop closures"] == str(len(drive.closures))
    assert last["map"] == str(drive.map_path)


def test_adapters_work_or_say_why_not(drive: Drive) -> None:
    edges = [line for line in (drive.graph / "graph.g2o").read_text().splitlines() if line.startswith("EDGE_SE3:QUAT")]
    assert len(edges) == NUM_IMAGES - 1 + len(drive.closures)
    assert "adapter pose_graph is left out" in drive.log


def test_the_launch_file_finds_the_place_in_a_known_map_by_simulated_time(
    ros: Ros1, recording: Path, drive: Drive, tmp_path: Path
) -> None:
    """With a parameter file of ROS 2, compressed images, other names of topics, and the transform from map to odom."""
    path = tmp_path / "params.yaml"
    settings = {"map.read_only": True, "frames": {"publish_tf": True}, "verification.working_size_px": 320}
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": settings}}))
    launch = ros.launch(
        *("image:=/eye/image_raw/compressed", "depth:=/eye/depth", "odom:=/wheels/odom", f"map:={drive.copy_path}"),
        *(f"params_file:={path}", "namespace:=/again", "use_sim_time:=true"),
    )
    listener = ros.listen("/again", "again", MAP_POSES, TF, CLOSURES, DIAGNOSTICS)
    first, last = NUM_POSES, NUM_POSES + 3
    remaps = ("image:=/eye/image_raw", "depth:=/eye/depth", "camera_info:=/eye/camera_info", "odom:=/wheels/odom")
    player = ros.play(
        "/again", recording, "--first", str(first), "--last", str(last), "--clock", "--compressed", *remaps
    )
    assert ros.finish(player) == 0, ros.errors("launch").read_text()
    poses = listener.wait_for("relocalization_pose", last - first)
    frames = two_passes()[0][first:last]
    for message, frame in zip(poses, frames, strict=True):
        assert message["header"]["stamp"] == frame.stamp_ns
        assert message["header"]["frame_id"] == "map"
        assert frame.T_odom_base is not None
        _check_pose(message["pose"]["pose"], frame.T_odom_base)
    assert {message["query_id"] for message in listener.heard("loop_closures")} == {-1}
    transforms = [item for message in listener.wait_for("/tf", 3) for item in message["transforms"]]
    assert {(item["header"]["frame_id"], item["child_frame_id"]) for item in transforms} == {("map", "odom")}
    stamps = {frame.stamp_ns for frame in frames}
    wait_until(
        lambda: (
            stamps & {status["stamp"] for status in statuses(listener.heard("/diagnostics"), "again/progeo")} != set()
        ),
        "diagnostics do not take the time from /clock",
    )
    launch.send_signal(signal.SIGINT)
    assert ros.finish(launch) == 0


def _pairs(messages: list[Any]) -> list[tuple[int, int]]:
    return [(message["query_id"], message["reference_id"]) for message in messages]


def _check_closure(message: Any) -> None:
    frames, truth = two_passes()
    query_id, reference_id = message["query_id"], message["reference_id"]
    assert query_id >= NUM_POSES > reference_id
    assert (message["query_session"], message["reference_session"]) == ("survey", "survey")
    assert message["header"]["stamp"] == frames[query_id].stamp_ns
    assert message["reference_stamp"] == frames[reference_id].stamp_ns
    assert message["header"]["frame_id"] == "base_link"
    verification = message["verification"]
    assert (verification["pose_kind"], verification["scale_source"]) == (METRIC, BY_DEPTH)
    T_true = invert(truth[frames[reference_id].stamp_ns]) @ truth[frames[query_id].stamp_ns]
    # The same place; or one metres ahead, where the depth is coarse.
    max_error_m = 0.03 if query_id == reference_id + NUM_POSES else 0.3
    _check_pose(verification["t_reference_query"]["pose"], T_true, max_error_m)


def _check_pose(pose: Any, T_true: Transform, max_error_m: float = 0.03) -> None:
    T = transform_from_quaternion(list(pose["position"].values()), list(pose["orientation"].values()))
    T_error = invert(T_true) @ T
    assert np.linalg.norm(T_error[:3, 3]) < max_error_m
    assert np.degrees(rotation_angle(T_error[:3, :3])) < 1.0


# -- less than all there is ----------------------------------------------------------------------------------------


def test_without_progeo_msgs_closures_come_as_standard_messages(ros: Ros1, recording: Path, tmp_path: Path) -> None:
    ros.set_parameters("/standard/progeo", parameters(tmp_path / "map.progeo"))
    node = ros.start_node("/standard", with_messages=False)
    player = ros.play("/standard", recording, "--last", str(NUM_IMAGES), "--period-s", "0.3")
    assert ros.finish(player) == 0
    listener = ros.listen("/standard", "standard", CLOSURE_POSES)
    frames, truth = two_passes()
    stamp_of = {frame.stamp_ns: frame for frame in frames}
    for message in listener.wait_for("loop_closure_pose", 3):
        query_ns = message["header"]["stamp"]
        session, _, reference_ns = message["header"]["frame_id"].partition("/")
        assert session == "survey"
        assert {query_ns, int(reference_ns)} <= set(stamp_of)
        _check_pose(message["pose"]["pose"], invert(truth[int(reference_ns)]) @ truth[query_ns], max_error_m=0.3)
    node.send_signal(signal.SIGTERM)
    assert ros.finish(node) == 0


def test_keyframes_of_another_without_calibration_and_valid_odometry_are_recognised_and_the_lack_is_told(
    ros: Ros1, recording: Path, tmp_path: Path
) -> None:
    few = {
        "camera.wait_s": 0.2,
        "exclusion.keyframes": 3,
        "motion.method": "none",
        "input.external_keyframes": True,
    }
    ros.set_parameters("/bare/progeo", parameters(tmp_path / "map.progeo", **few))
    listener = ros.listen("/bare", "bare", CLOSURES, DIAGNOSTICS)
    node = ros.start_node("/bare")
    lacks = ("--no-camera-info", "--nan-odometry")
    player = ros.play("/bare", recording, "--last", str(NUM_IMAGES), *lacks, "--keyframes")
    assert ros.finish(player) == 0, ros.errors("node-bare").read_text()
    closures = listener.wait_for("loop_closures", 3)
    assert {message["verification"]["pose_kind"] for message in closures} == {NO_POSE}

    def told() -> str:
        return " ".join(status["message"] for status in statuses(listener.heard("/diagnostics"), "bare/progeo"))

    wait_until(lambda: "no camera_info" in told() and "odom is not usable" in told(), "diagnostics do not say it")
    assert node.poll() is None
    node.send_signal(signal.SIGTERM)
    assert ros.finish(node) == 0


# -- what may go wrong ---------------------------------------------------------------------------------------------


def test_a_node_that_is_killed_has_every_keyframe_it_told_of_in_the_map(
    ros: Ros1, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "map.progeo"
    ros.set_parameters("/killed/progeo", parameters(path))
    player = ros.play("/killed", recording, "--last", str(NUM_IMAGES))
    listener = ros.listen("/killed", "witness", KEYFRAMES)
    node = ros.start_node("/killed")
    listener.wait_for("keyframes", 3)
    node.kill()
    ros.finish(node)
    player.kill()
    told = {message["id"] for message in listener.heard("keyframes")}
    with MapStore.open(path, read_only=True) as store:
        assert told <= {info.id for info in store.infos()}


def test_a_wrong_parameter_ends_the_node_with_one_sentence(ros: Ros1) -> None:
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "unknown": ({"search": {"top_q": 3}}, "setting 'search.top_q' is unknown; did you mean 'search.top_k'?"),
        "type": ({"input.max_rate_hz": "fast"}, "input.max_rate_hz = 'fast'"),
        "map": ({"map": {"path": "/absent/map.progeo", "read_only": True}}, "/absent/map.progeo does not exist"),
    }
    for name, (values, _) in wrong.items():
        ros.set_parameters(f"/{name}/progeo", values)
    nodes = {name: ros.start_node(f"/{name}") for name in wrong}
    for name, (_, sentence) in wrong.items():
        assert ros.finish(nodes[name]) == 2
        lines = ros.errors(f"node-{name}").read_text().splitlines()
        assert len(lines) == 1
        assert sentence in lines[0]
