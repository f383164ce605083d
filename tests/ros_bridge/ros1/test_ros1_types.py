"""Messages of ROS 1 as genpy makes them, held to rosbags, which knows the format without ROS."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from progeo_edge.errors import InputError
from progeo_ros.message_types import MessageTypes, make_header, stamp_ns_of
from progeo_ros.rosbags_types import RosbagsTypes

STAMP_NS = 1_700_000_000_123_456_789


@pytest.fixture
def genpy_types(ros1_packages: Path) -> Any:
    from progeo_ros.ros1.types import GenpyTypes

    return GenpyTypes()


@pytest.fixture(scope="module")
def rosbags_types() -> RosbagsTypes:
    return RosbagsTypes(get_typestore(Stores.ROS1_NOETIC))


def image(types: MessageTypes) -> Any:
    data = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    header = make_header(types, STAMP_NS, "camera")
    return types.make("sensor_msgs/msg/Image", header=header, height=2, width=4, step=12, encoding="bgr8", data=data)


def odometry(types: MessageTypes) -> Any:
    position = types.make("geometry_msgs/msg/Point", x=np.float64(1.5), y=-2.0)
    pose = types.make("geometry_msgs/msg/Pose", position=position)
    with_covariance = types.make(
        "geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.arange(36.0).reshape(6, 6)
    )
    header = make_header(types, STAMP_NS, "odom")
    return types.make("nav_msgs/msg/Odometry", header=header, child_frame_id="base_link", pose=with_covariance)


def diagnostics(types: MessageTypes) -> Any:
    values = [types.make("diagnostic_msgs/msg/KeyValue", key="größe", value="7")]
    status = types.make("diagnostic_msgs/msg/DiagnosticStatus", level=2, name="progeo", values=values)
    return types.make("diagnostic_msgs/msg/DiagnosticArray", header=make_header(types, STAMP_NS, ""), status=[status])


def candidates(types: MessageTypes) -> Any:
    candidate = types.make(
        "progeo_msgs/msg/Candidate",
        reference_session="run",
        reference_id=np.int64(-1),
        reference_stamp=types.time(STAMP_NS),
        similarity=np.float32(0.25),
        status=types.make("progeo_msgs/msg/Status", value=10),
    )
    return types.make(
        "progeo_msgs/msg/LoopCandidates",
        header=make_header(types, STAMP_NS, "base_link"),
        candidates=[candidate, candidate],
        stages=["gate", "encode"],
        stages_ms=np.array([1.0, 2.5], np.float32),
    )


def descriptor(types: MessageTypes) -> Any:
    data = np.array([0.6, 0.8], np.float32).tobytes()
    return types.make("progeo_msgs/msg/GlobalDescriptor", keyframe_id=3, dimension=2, data=data)


def answer(types: MessageTypes) -> Any:
    return types.make("progeo_msgs/srv/Query_Response", success=True, message="known", candidates=candidates(types))


@pytest.mark.parametrize("make", [image, odometry, diagnostics, candidates, descriptor, answer])
def test_bytes_are_those_of_rosbags(genpy_types: Any, rosbags_types: RosbagsTypes, make: Any) -> None:
    buffer = io.BytesIO()
    make(genpy_types).serialize(buffer)
    assert buffer.getvalue() == rosbags_types.to_bytes(make(rosbags_types))


def test_a_message_is_read_back(genpy_types: Any) -> None:
    buffer = io.BytesIO()
    candidates(genpy_types).serialize(buffer)
    again = genpy_types.make("progeo_msgs/msg/LoopCandidates").deserialize(buffer.getvalue())
    assert stamp_ns_of(again.candidates[1].reference_stamp) == STAMP_NS
    assert again.candidates[1].status.value == again.candidates[1].status.FEW_INLIERS
    assert again.stages == ["gate", "encode"]


def test_catkin_gives_the_same_checksums_as_the_definitions(genpy_types: Any, rosbags_types: RosbagsTypes) -> None:
    names = [name for name in rosbags_types.store.types if name.startswith("progeo_msgs/msg/")]
    assert len(names) == 7
    for name in names:
        _, checksum = rosbags_types.store.generate_msgdef(name, ros_version=1)
        assert genpy_types.message_class(name)._md5sum == checksum, name


def test_definitions_are_installed_as_ros_1_writes_them(ros1_packages: Path) -> None:
    folder = ros1_packages / "share" / "progeo_msgs"
    assert "\ntime reference_stamp\n" in (folder / "msg" / "LoopClosure.msg").read_text()
    assert len(list(folder.glob("srv/*.srv"))) == 6


def test_a_byte_may_come_as_ros_2_has_it(genpy_types: Any) -> None:
    assert genpy_types.make("diagnostic_msgs/msg/DiagnosticStatus", level=b"\x02").level == 2


def test_what_is_not_there_is_said(genpy_types: Any) -> None:
    assert genpy_types.has("sensor_msgs/msg/Image")
    assert not genpy_types.has("sensor_msgs/msg/Picture")
    assert not genpy_types.has("rtabmap_msgs_absent/srv/AddLink")
    with pytest.raises(InputError, match="build the package rtabmap_msgs_absent"):
        genpy_types.make("rtabmap_msgs_absent/srv/AddLink_Request")
    with pytest.raises(InputError, match="has no field 'colour'; it has header, height"):
        genpy_types.make("sensor_msgs/msg/Image", colour="bgr8")


def test_an_array_of_fixed_size_must_be_full(genpy_types: Any) -> None:
    with pytest.raises(InputError, match="a field of 36 float64 got 35 values"):
        genpy_types.make("geometry_msgs/msg/PoseWithCovariance", covariance=np.zeros(35))


def test_a_service_has_its_class(genpy_types: Any) -> None:
    service = genpy_types.message_class("progeo_msgs/srv/Query")
    assert service._request_class is type(genpy_types.make("progeo_msgs/srv/Query_Request"))
