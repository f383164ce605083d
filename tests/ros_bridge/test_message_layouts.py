"""Every message and service of progeo_msgs: parsed, written and read back byte for byte, in ROS 2 and ROS 1."""

from __future__ import annotations

import re
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from progeo_edge.calibration import Separability
from progeo_edge.errors import InputError
from progeo_edge.types import PoseKind, ScaleSource, Status
from progeo_ros.conversions.outgoing import (
    DTYPE_CODES,
    POSE_KIND_CODES,
    SCALE_SOURCE_CODES,
    STATUS_CODES,
    VERDICT_CODES,
)
from progeo_ros.definitions import message_definitions, service_definitions
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.wire_format import Wire

STORES = {"humble": Stores.ROS2_HUMBLE, "jazzy": Stores.ROS2_JAZZY, "noetic": Stores.ROS1_NOETIC}
NAMES = [
    *message_definitions(),
    *(f"{name}_{part}" for name in service_definitions() for part in ("Request", "Response")),
]


@cache
def types_of(ros: str) -> RosbagsTypes:
    return RosbagsTypes(get_typestore(STORES[ros]))


def base_values(kind: str) -> st.SearchStrategy:
    if kind == "string":
        return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    if kind == "bool":
        return st.booleans()
    if kind.startswith("float"):
        return st.floats(width=32 if kind == "float32" else 64)
    bits = int(re.sub(r"\D", "", kind) or 8)
    low = -(2 ** (bits - 1)) if kind.startswith("int") else 0
    return st.integers(low, 2**bits - 1 + low)


def values_of(types: RosbagsTypes, kind) -> st.SearchStrategy:
    node, inner = kind
    if node == Nodetype.NAME:
        return messages_of(types, inner)
    if node == Nodetype.BASE:
        return base_values(inner[0])
    element, length = inner
    lengths = {"min_size": length, "max_size": length} if node == Nodetype.ARRAY else {"max_size": 3}
    return st.lists(values_of(types, element), **lengths)


def messages_of(types: RosbagsTypes, name: str) -> st.SearchStrategy:
    fields = {field: values_of(types, kind) for field, kind in types.store.fielddefs[name][1]}
    return st.fixed_dictionaries(fields).map(lambda values: types.make(name, **values))


@pytest.mark.parametrize("ros", STORES)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_format_and_come_back(ros, name):
    types = types_of(ros)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(messages_of(types, name))
    def check(message):
        data = types.to_bytes(message)
        assert data == Wire(types.store.fielddefs, ros1=ros == "noetic").of(message, message.__msgtype__)
        again = types.from_bytes(data, message.__msgtype__)
        assert types.to_bytes(again) == data

    check()


@pytest.mark.parametrize("ros", STORES)
def test_every_definition_has_the_fields_of_its_file(ros):
    store = types_of(ros).store
    for name, text in message_definitions().items():
        lines = [re.sub(r"\s*#.*", "", line) for line in text.splitlines()]
        fields = [line.split()[1] for line in lines if line and "=" not in line]
        assert [field for field, _ in store.fielddefs[name][1]] == fields


def constants(message: str, prefix: str = "") -> dict[str, int]:
    return constants_of(message_definitions()[f"progeo_msgs/msg/{message}"], prefix)


def constants_of(text: str, prefix: str = "") -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"^uint8 {prefix}(\w+)=(\d+)", text, re.MULTILINE)}


def test_constants_are_those_of_the_runtime():
    assert constants("Status") == {status.value: code for status, code in STATUS_CODES.items()}
    assert set(STATUS_CODES) == set(Status)
    assert constants("Verification", "POSE_") == {kind.value: code for kind, code in POSE_KIND_CODES.items()}
    assert set(POSE_KIND_CODES) == set(PoseKind)
    assert constants("Verification", "SCALE_") == {kind.value: code for kind, code in SCALE_SOURCE_CODES.items()}
    assert set(SCALE_SOURCE_CODES) == set(ScaleSource)
    assert constants("GlobalDescriptor") == {name.upper(): code for name, code in DTYPE_CODES.items()}
    _, answer = service_definitions()["progeo_msgs/srv/Calibrate"]
    assert constants_of(answer) == {"UNKNOWN": 0, **{verdict.value: code for verdict, code in VERDICT_CODES.items()}}
    assert set(VERDICT_CODES) == set(Separability)


def test_an_unknown_field_or_type_is_named():
    types = types_of("jazzy")
    with pytest.raises(InputError, match="no field 'stamps'; it has stamp, frame_id"):
        types.make("std_msgs/msg/Header", stamps=3)
    with pytest.raises(InputError, match="foreign_msgs/msg/Thing is unknown"):
        types.make("foreign_msgs/msg/Thing")
    with pytest.raises(InputError, match="36 float64 got 6 values"):
        types.make("geometry_msgs/msg/PoseWithCovariance", covariance=np.ones(6))
