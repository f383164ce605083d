"""What a node does in every ROS, in one that only remembers: what goes out, what is said, and what is left open."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import pytest

from progeo_edge.errors import InputError
from progeo_edge.map_store import MapStore
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.operation import Operation
from tests.ros_bridge.fake_ros import FakeRos
from tests.ros_bridge.messages import SECOND, image
from tests.small_world import settings

PIXELS = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
SETTINGS = settings("keyframe.every_frame=true")


def node_config(folder, **more: object) -> NodeConfig:
    inputs = {"odometry": "none", "max_rate_hz": 1000.0}
    values = {"model": {"path": "vlad"}, "input": inputs, "camera": {"wait_s": 0.0}}
    return NodeConfig.model_validate({**values, "map": {"path": str(folder / "map.progeo")}, **more})


@pytest.fixture
def ros():
    return FakeRos()


@pytest.fixture
def operation(tmp_path, ros):
    operation = Operation(node_config(tmp_path), SETTINGS, ros)
    operation.activate()
    yield operation
    operation.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def work(operation: Operation, ros: FakeRos, stamp_s: int = 1) -> None:
    """An image goes in, and all that comes of it goes out."""
    assert ros.send_image is not None
    before = num_told(operation)
    ros.send_image(image(stamp_s * SECOND, PIXELS))
    wait_until(lambda: num_told(operation) > before)
    operation.pipeline.stop()
    operation.pipeline.start()


def said(operation: Operation) -> dict[str, str]:
    """What diagnostics say."""
    (status,) = operation.tick().status
    return {"message": status.message, **{pair.key: pair.value for pair in status.values}}


def num_told(operation: Operation) -> int:
    """What became of images so far: processed, or an error."""
    values = said(operation)
    return int(values["images processed"]) + int(values["errors"])


def test_what_nobody_listens_to_is_not_built(operation, ros):
    ros.listeners = {"keyframes"}
    work(operation, ros)
    assert len(ros.sent["keyframes"]) == 1
    assert ros.sent["loop_candidates"] == ros.sent["global_descriptor"] == []
    assert "/tf" not in ros.sent


def test_a_topic_that_fails_leaves_the_others_and_is_logged_once_with_its_traceback(operation, ros, caplog):
    ros.listeners = {"loop_candidates", "keyframes"}
    ros.broken = {"loop_candidates"}
    work(operation, ros, 1)
    work(operation, ros, 2)
    assert len(ros.sent["keyframes"]) == 2
    (record,) = [r for r in caplog.records if "no publisher" in r.message]
    assert (record.levelno, record.message) == (logging.ERROR, "topic loop_candidates: no publisher")
    assert record.exc_info
    assert said(operation)["errors"] == "2"
    assert "topic loop_candidates: no publisher" in said(operation)["message"]


def test_a_broken_image_is_a_sentence_without_a_traceback(operation, ros, caplog, monkeypatch):
    def refuse(*_: object) -> None:
        raise InputError("the picture is torn")

    monkeypatch.setattr(FrameAssembler, "decode", refuse)
    work(operation, ros)
    (record,) = [r for r in caplog.records if "torn" in r.message]
    assert (record.levelno, record.message) == (logging.WARNING, "an image is left out: the picture is torn")
    assert not record.exc_info


def test_a_lasting_problem_is_logged_once_though_its_numbers_change(operation, caplog, monkeypatch):
    ages = iter(range(100))
    monkeypatch.setattr(FrameAssembler, "problems", property(lambda _: [f"odometry is late: {next(ages)} s"]))
    for _ in range(3):
        operation.tick()
    assert len([r for r in caplog.records if "odometry is late" in r.message]) == 1


def test_events_go_to_the_log(operation, caplog, monkeypatch):
    monkeypatch.setattr(FrameAssembler, "take_events", lambda _: ["stamps went back"])
    operation.tick()
    assert "stamps went back" in caplog.messages


def test_pausing_needs_an_active_node_and_shows(operation, ros):
    assert operation.pause(True)
    assert said(operation)["state"] == "paused"
    assert operation.pause(False)
    assert said(operation)["state"] == "active"
    operation.deactivate()
    assert not operation.pause(True)
    assert said(operation)["state"] == "inactive"
    assert ros.send_image is None


def test_a_clock_that_does_not_run_is_said_until_it_does(operation, ros):
    ros.clock_ns = 0
    assert "/clock brings no time" in said(operation)["message"]
    ros.clock_ns = SECOND
    assert "/clock" not in said(operation)["message"]


def test_in_a_shutdown_nothing_is_sent_and_the_keyframe_is_kept(operation, ros):
    ros.listeners, ros.up = {"keyframes"}, False
    work(operation, ros)
    assert ros.sent["keyframes"] == []
    assert operation.recogniser.num_keyframes == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_map_to_odom_goes_out_only_for_a_map_that_does_not_grow(tmp_path, ros, monkeypatch, read_only):
    monkeypatch.setattr("progeo_ros.operation.MapFrame.message", lambda *_: "map to odom")
    Operation(node_config(tmp_path), SETTINGS, ros).close()
    map_settings = {"path": str(tmp_path / "map.progeo"), "read_only": read_only}
    operation = Operation(node_config(tmp_path, map=map_settings, frames={"publish_tf": True}), SETTINGS, ros)
    operation.activate()
    work(operation, ros)
    assert ros.sent["/tf"] == (["map to odom"] if read_only else [])
    operation.close()


def test_closing_leaves_nothing_open(tmp_path, ros):
    operation = Operation(node_config(tmp_path, adapters=["rtabmap_descriptors", "pose_graph"]), SETTINGS, ros)
    operation.activate()
    operation.close()
    assert (ros.sent, ros.heard, ros.send_image) == ({}, {}, None)
    with MapStore.open(tmp_path / "map.progeo"):
        pass


def test_what_fails_half_way_leaves_nothing_open(tmp_path, ros, monkeypatch):
    def fail(*_: object) -> None:
        assert ros.sent
        raise InputError("no adapter today")

    monkeypatch.setattr("progeo_ros.operation.open_adapters", fail)
    with pytest.raises(InputError, match="no adapter today"):
        Operation(node_config(tmp_path), SETTINGS, ros)
    assert ros.sent == {}
    with MapStore.open(tmp_path / "map.progeo"):
        pass
