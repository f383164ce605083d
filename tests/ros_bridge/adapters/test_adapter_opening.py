from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from progeo_edge.types import Descriptor, Image
from progeo_ros.adapters.opening import open_adapters
from progeo_ros.config import AdapterName, NodeConfig
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.adapters.foreign_messages import POSE_GRAPH, RTABMAP, SWARM_SLAM, foreign_types
from tests.ros_bridge.adapters.outcomes import outcome, seconds

ALL: tuple[AdapterName, ...] = get_args(AdapterName)


def encode(image: Image) -> Descriptor:
    return np.array([1.0], np.float32)


class RegisteredTypes(RosbagsTypes):
    """Knows that the service is there by its request."""

    def has(self, name: str) -> bool:
        return super().has(name) or super().has(f"{name}_Request")


def all_types() -> RosbagsTypes:
    return RegisteredTypes(foreign_types(RTABMAP, POSE_GRAPH, SWARM_SLAM).store)


def test_all_adapters_in_the_order_of_the_setting(tmp_path: Path) -> None:
    names = (*ALL, "recorder", ALL[0])
    adapters = open_adapters(NodeConfig(adapters=names), all_types(), tmp_path / "map.progeo", encode)
    assert tuple(adapter.name for adapter in adapters) == ALL
    for adapter in adapters:
        assert list(adapter.on_outcome(outcome(1.0))) == []
        assert list(adapter.on_tick(seconds(1.0))) == []
        assert all(isinstance(count, int) for count in adapter.counters().values())
        adapter.close()


def test_missing_messages_are_said_in_one_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        adapters = open_adapters(NodeConfig(adapters=ALL), RosbagsTypes(), tmp_path / "map.progeo", encode)
    assert [adapter.name for adapter in adapters] == ["cuvslam", "stamped_pairs", "recorder"]
    left_out = [name for name in ALL if name not in ("cuvslam", "stamped_pairs", "recorder")]
    assert len(caplog.records) == len(left_out)
    for record, name, package in zip(
        caplog.records,
        left_out,
        ("rtabmap-msgs", "rtabmap-msgs", "pose-graph-tools-msgs", "cslam-common-interfaces"),
        strict=True,
    ):
        text = record.getMessage()
        assert record.levelno == logging.WARNING and "\n" not in text
        assert name in text and f"ros-$ROS_DISTRO-{package}" in text and package.replace("-", "_") in text


def test_what_this_program_does_not_give_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = NodeConfig(adapters=("rtabmap_descriptors", "recorder"))
    with caplog.at_level(logging.WARNING):
        assert open_adapters(config, all_types(), None) == ()
    assert "no encoder" in caplog.text and "map.path" in caplog.text


def test_a_folder_that_cannot_be_made_leaves_the_recorder_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    config = NodeConfig(adapters=("recorder",))
    with caplog.at_level(logging.WARNING):
        assert open_adapters(config, all_types(), tmp_path / "file" / "map.progeo") == ()
    assert "cannot be made" in caplog.text


def test_none_by_default() -> None:
    assert open_adapters(NodeConfig(), all_types(), None) == ()
