"""The node in a real ROS 1: images go in by one process, closures come out to another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.geometry import invert, rotation_angle, transform_from_quaternion
from progeo_edge.map_store import MapStore
from tests.ros_bridge.ros1.ros1_system import Ros1, write_recording
from tests.small_world import LIGHT, NUM_POSES, two_passes

CLOSURES = "loop_closures:progeo_msgs/LoopClosure"
CANDIDATES = "loop_candidates:progeo_msgs/LoopCandidates"
KEYFRAMES = "keyframes:progeo_msgs/Keyframe"
ALL = str(2 * NUM_POSES)


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
    light = dict(item.split("=") for item in LIGHT)
    return {
        "map": {"path": str(map_path), "session": "survey"},
        "input": {"depth": True},
        **{name: float(value) if "_m" in name or "_ms" in name else int(value) for name, value in light.items()},
        **more,
    }


def test_a_street_driven_twice_gives_its_closures(ros: Ros1, recording: Path, tmp_path: Path) -> None:
    ros.set_parameters("/drive/progeo", parameters(tmp_path / "map.progeo"))
    player = ros.play("/drive", recording, "--last", ALL)
    early = ros.listen("/drive", "early", CLOSURES, KEYFRAMES)
    node = ros.start_node("/drive")
    assert ros.finish(player) == 0
    closures = early.wait_for("loop_closures", NUM_POSES)
    pairs = [(message["query_id"], message["reference_id"]) for message in closures]
    assert {(NUM_POSES + i, i) for i in range(NUM_POSES)} <= set(pairs)
    for message in closures:
        check(message)
    late = ros.listen("/drive", "late", CLOSURES)
    assert late.wait_for("loop_closures", len(closures)) == closures
    node.send_signal(signal.SIGTERM)
    assert ros.finish(node) == 0


def check(message: Any) -> None:
    frames, truth = two_passes()
    query_id, reference_id = message["query_id"], message["reference_id"]
    assert (message["query_session"], message["reference_session"]) == ("survey", "survey")
    assert query_id >= NUM_POSES > reference_id
    assert message["header"]["stamp"] == frames[query_id].stamp_ns
    assert message["reference_stamp"] == frames[reference_id].stamp_ns
    assert message["header"]["frame_id"] == "base_link"
    verification = message["verification"]
    assert (verification["pose_kind"], verification["scale_source"]) == (3, 1)  # METRIC by DEPTH
    pose = verification["t_reference_query"]["pose"]
    T = transform_from_quaternion(list(pose["position"].values()), list(pose["orientation"].values()))
    T_true = invert(truth[frames[reference_id].stamp_ns]) @ truth[frames[query_id].stamp_ns]
    T_error = invert(T_true) @ T
    assert np.linalg.norm(T_error[:3, 3]) < 0.03
    assert np.degrees(rotation_angle(T_error[:3, :3])) < 0.3
