from __future__ import annotations

import logging
import sys
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge.errors import ModelError
from progeo_edge.types import Descriptor, Image
from progeo_ros.adapters import Action, Publish
from progeo_ros.adapters.rtabmap_descriptors import RtabmapDescriptors, compressed_matrix
from progeo_ros.config import InputConfig, NodeConfig
from progeo_ros.message_types import make_header
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.adapters.foreign_messages import RTABMAP, foreign_types, through_the_wire
from tests.ros_bridge.adapters.outcomes import outcome, seconds

TYPES = foreign_types(RTABMAP)
PICTURE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def uncompressed_by_rtabmap(data: bytes) -> NDArray[np.float32]:
    """`rtabmap::uncompressData` in Python: the last three native ints are rows, cols and OpenCV's type."""
    trailer = [int.from_bytes(data[-12 + 4 * i : len(data) - 8 + 4 * i], sys.byteorder, signed=True) for i in range(3)]
    height, width, kind = trailer
    depth, channels = kind & 7, (kind >> 3) + 1
    assert (depth, channels) == (cv2.CV_32F, 1)
    # It hands zlib the whole buffer, trailer and all: the stream must end by itself.
    stream = zlib.decompressobj()
    values = stream.decompress(data)
    assert stream.eof and len(stream.unused_data) == 12
    assert len(values) == height * width * 4
    return np.frombuffer(values, np.float32).reshape(height, width)


def similarity_by_rtabmap(a: Any, b: Any) -> float:
    """`Signature::compareTo` for one descriptor on each side."""
    assert a.type == 1 and b.type == 1, "any other type is never compared"
    first, second = uncompressed_by_rtabmap(bytes(a.data)), uncompressed_by_rtabmap(bytes(b.data))
    assert first.shape == second.shape
    similarity = (float((first * second).sum()) + 1.0) / 2.0
    assert similarity >= 0.0, "Global descriptors should be normalized!"
    return similarity


class Brightness:
    """An encoder of four numbers, whose norm is not one."""

    def __init__(self) -> None:
        self.images: list[Image] = []

    def __call__(self, image: Image) -> Descriptor:
        self.images.append(image)
        return np.array([*image.reshape(-1, 3).mean(axis=0), 1.0], dtype=np.float32)


def rgbd_image(
    at_s: float = 1.0, *, types: RosbagsTypes = TYPES, compressed: bool = False, picture: Image = PICTURE
) -> Any:
    header = make_header(types, seconds(at_s), "camera")
    rgb: dict[str, Any]
    if compressed:
        data = cv2.imencode(".png", picture)[1].tobytes()
        rgb = {"rgb_compressed": types.make("sensor_msgs/msg/CompressedImage", header=header, format="png", data=data)}
    else:
        height, width = picture.shape[:2]
        rgb = {
            "rgb": types.make(
                "sensor_msgs/msg/Image",
                header=header,
                height=height,
                width=width,
                encoding="bgr8",
                step=3 * width,
                data=picture.tobytes(),
            )
        }
    depth = types.make("sensor_msgs/msg/Image", height=1, width=2, encoding="16UC1", step=4, data=bytes([1, 2, 3, 4]))
    return types.make("rtabmap_msgs/msg/RGBDImage", header=header, depth=depth, **rgb)


def describe(adapter: RtabmapDescriptors, message: Any) -> list[Action]:
    (subscription,) = adapter.subscriptions()
    assert (subscription.topic, subscription.msgtype) == ("rgbd_image", "rtabmap_msgs/msg/RGBDImage")
    return list(subscription.callback(message))


def described(adapter: RtabmapDescriptors, message: Any, types: RosbagsTypes = TYPES) -> Any:
    (action,) = describe(adapter, message)
    assert isinstance(action, Publish)
    assert (action.topic, action.msgtype) == ("rgbd_image/described", "rtabmap_msgs/msg/RGBDImage")
    return through_the_wire(types, action.message)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ros1", [False, True])
def test_rtabmap_reads_what_we_write(compressed: bool, ros1: bool) -> None:
    types = foreign_types(RTABMAP, ros1=ros1)
    encode = Brightness()
    adapter = RtabmapDescriptors(NodeConfig(), types, encode)
    received = described(adapter, rgbd_image(types=types, compressed=compressed), types)
    descriptor = received.global_descriptor
    assert descriptor.type == 1 and len(descriptor.info) == 0
    assert descriptor.header.stamp == received.header.stamp
    row = uncompressed_by_rtabmap(bytes(descriptor.data))
    assert row.shape == (1, 4) and row.dtype == np.float32
    expected = np.array([*PICTURE.reshape(-1, 3).mean(axis=0), 1.0])
    np.testing.assert_allclose(row[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(encode.images[0], PICTURE)
    # All else is as it was.
    assert bytes(received.depth.data) == bytes([1, 2, 3, 4])


def test_similarity_of_two_images() -> None:
    adapter = RtabmapDescriptors(NodeConfig(), TYPES, Brightness())
    first = described(adapter, rgbd_image(1.0)).global_descriptor
    same = described(adapter, rgbd_image(2.0)).global_descriptor
    blue = np.zeros_like(PICTURE)
    blue[:, :, 0] = 255
    other = described(adapter, rgbd_image(3.0, picture=blue)).global_descriptor
    assert similarity_by_rtabmap(first, same) == pytest.approx(1.0, abs=1e-6)
    assert 0.5 < similarity_by_rtabmap(first, other) < 0.95


@given(st.integers(1, 8), st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_any_matrix_survives(rows: int, cols: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    np.testing.assert_array_equal(uncompressed_by_rtabmap(compressed_matrix(matrix)), matrix)
    np.testing.assert_array_equal(uncompressed_by_rtabmap(compressed_matrix(matrix.T)), matrix.T)


def test_every_image_is_described_keyframe_or_not() -> None:
    adapter = RtabmapDescriptors(NodeConfig(input=InputConfig(max_rate_hz=30.0)), TYPES, Brightness())
    assert list(adapter.on_outcome(outcome(1.0, None))) == []
    sizes = {
        uncompressed_by_rtabmap(bytes(described(adapter, rgbd_image(number / 10)).global_descriptor.data)).shape
        for number in range(20)
    }
    assert sizes == {(1, 4)} and adapter.counters()["described"] == 20


def test_an_image_without_descriptor_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    def fails(image: Image) -> Descriptor:
        raise ModelError("the engine is gone")

    truncated = rgbd_image()
    truncated.rgb.data = truncated.rgb.data[:-1]
    cases: list[tuple[Any, Any]] = [
        (fails, rgbd_image()),
        (Brightness(), truncated),
        (Brightness(), TYPES.make("rtabmap_msgs/msg/RGBDImage")),
        (Brightness(), object()),
        (lambda image: np.zeros(4, np.float32), rgbd_image()),
        (lambda image: np.full(4, np.nan, np.float32), rgbd_image()),
    ]
    for encode, message in cases:
        adapter = RtabmapDescriptors(NodeConfig(), TYPES, encode)
        with caplog.at_level(logging.WARNING):
            assert describe(adapter, message) == []
        assert adapter.counters() == {"not_described": 1}
    assert len(caplog.records) == len(cases) and "the engine is gone" in caplog.text


def test_images_of_a_fast_camera_are_dropped_before_they_are_decoded() -> None:
    encode = Brightness()
    adapter = RtabmapDescriptors(NodeConfig(input=InputConfig(max_rate_hz=10.0)), TYPES, encode)
    for number in range(31):
        describe(adapter, rgbd_image(number / 30))
    assert adapter.counters() == {"described": 11, "dropped_by_rate": 20} and len(encode.images) == 11
    assert len(describe(adapter, rgbd_image(0.0))) == 1, "a bag that was started again"
