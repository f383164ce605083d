"""The node in a real ROS 1: images go in by one process, closures come out to another."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.geometry import invert, rotation_angle, transform_from_quaternion
from progeo_edge.map_store import MapStore
from tests.ros_bridge.ros1.ros1_system import Ros1, wait_until, write_recording
from tests.small_world import LIGHT, NUM_POSES, two_passes

CLOSURES = "loop_closures:progeo_msgs/LoopClosure"
CANDIDATES = "loop_candidates:progeo_msgs/LoopCandidates"
KEYFRAMES = "keyframes:progeo_msgs/Keyframe"
CLOSURE_POSES = "loop_closure_pose:geometry_msgs/PoseWithCovarianceStamped"
NUM_IMAGES = 2 * NUM_POSES
METRIC, BY_DEPTH, NOT_KNOWN = 3, 1, 0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "two_passes.npz")


@pytest.fixture(scope="module")
def ros(tmp_path_factory: pytest.TempPathFactory, progeo_msgs: Path) -> Iterator[Ros1]:
    system = Ros1(tmp_path_factory.mktemp("ros1"), progeo_msgs)
    yield system
    system.close()


def parameters(map_path: Path, **more: Any) -> dict[str, Any]:
    """As a parameter file of ROS 1 has them: nested, and some with dots."""
    light = {name: float(value) for name, value in (item.split("=") for item in LIGHT)}
    whole = {name: int(value) for name, value in light.items() if not name.endswith(("_m", "_ms"))}
    return {
        "map": {"path": str(map_path), "session": "survey"},
        "input": {"depth": True},
        **light,
        **whole,
        **more,
    }


# -- the normal course -------------------------------------------------------------------------------------------


def test_a_street_driven_twice_gives_its_closures_also_to_those_who_come_late(
    ros: Ros1, recording: Path, tmp_path: Path
) -> None:
    ros.set_parameters("/drive/progeo", parameters(tmp_path / "map.progeo", **{"gate.min_similarity": 0.125}))
    player = ros.play("/drive", recording, "--last", str(NUM_IMAGES))
    early = ros.listen("/drive", "early", CLOSURES, KEYFRAMES, CANDIDATES)
    node = ros.start_node("/drive")
    assert ros.finish(player) == 0

    closures = early.wait_for("loop_closures", NUM_POSES)
    pairs = [(message["query_id"], message["reference_id"]) for message in closures]
    assert {(NUM_POSES + i, i) for i in range(NUM_POSES)} <= set(pairs)
    for message in closures:
        _check_closure(message)
    assert [message["id"] for message in early.heard("keyframes")] == list(range(NUM_IMAGES))
    assert {message["min_similarity"] for message in early.heard("loop_candidates")} == {0.125}

    late = ros.listen("/drive", "late", CLOSURES)
    assert late.wait_for("loop_closures", len(closures)) == [
        {**message, "header": {**message["header"], "seq": seq}}
        for message, seq in zip(closures, _sequence(late.heard("loop_closures")), strict=True)
    ]

    node.send_signal(signal.SIGTERM)
    assert ros.finish(node) == 0
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert [info.id for info in store.infos()] == list(range(NUM_IMAGES))
        assert [(closure.query_id, closure.reference_id) for closure in store.closures()] == pairs


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
    pose = verification["t_reference_query"]["pose"]
    T = transform_from_quaternion(list(pose["position"].values()), list(pose["orientation"].values()))
    T_true = invert(truth[frames[reference_id].stamp_ns]) @ truth[frames[query_id].stamp_ns]
    T_error = invert(T_true) @ T
    # The same place; or one metres ahead, where the depth is coarse.
    assert np.linalg.norm(T_error[:3, 3]) < (0.03 if query_id == reference_id + NUM_POSES else 0.3)
    assert np.degrees(rotation_angle(T_error[:3, :3])) < 1.0


def _sequence(messages: list[Any]) -> list[int]:
    """Numbers that rospy gives to what it sends."""
    return [message["header"]["seq"] for message in messages]


# -- what may go wrong -------------------------------------------------------------------------------------------


def test_a_node_that_is_killed_has_every_keyframe_it_told_of_in_the_map(
    ros: Ros1, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "map.progeo"
    ros.set_parameters("/killed/progeo", parameters(path))
    player = ros.play("/killed", recording, "--last", str(NUM_POSES + 2))
    listener = ros.listen("/killed", "witness", KEYFRAMES, CLOSURES)
    node = ros.start_node("/killed")
    listener.wait_for("keyframes", 3)
    node.kill()
    ros.finish(node)
    player.kill()
    told = [message["id"] for message in listener.heard("keyframes")]
    with MapStore.open(path, read_only=True) as store:
        assert set(told) <= {info.id for info in store.infos()}


def test_without_progeo_msgs_calibration_and_odometry_there_are_standard_messages(
    ros: Ros1, recording: Path, tmp_path: Path
) -> None:
    ros.set_parameters("/bare/progeo", parameters(tmp_path / "map.progeo", **{"camera.wait_s": 0.0}))
    node = ros.start_node("/bare", with_messages=False)
    player = ros.play("/bare", recording, "--period-s", "0.3", "--last", str(NUM_IMAGES), "--no-camera-info", "--nan-odometry")
    assert ros.finish(player) == 0
    node.send_signal(signal.SIGTERM)
    assert ros.finish(node) == 0
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert len(store.closures()) > 0
        assert all(info.T_odom_base is None for info in store.infos())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"search": {"top_q": 3}}, "setting 'search.top_q' is unknown; did you mean 'search.top_k'?"),
        ({"input.max_rate_hz": "fast"}, "input.max_rate_hz = 'fast'"),
        ({"map": {"path": "/absent/map.progeo", "read_only": True}}, "/absent/map.progeo"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_one_sentence(ros: Ros1, values: dict[str, Any], sentence: str) -> None:
    ros.set_parameters("/wrong/progeo", values)
    node = ros.start_node("/wrong")
    assert ros.finish(node) == 2
    lines = ros.errors("node-wrong").read_text().splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]
