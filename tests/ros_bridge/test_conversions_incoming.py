"""What the bridge adds to the runtime's reading of messages; every encoding is tested with the sources."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from progeo_edge.geometry import invert
from progeo_edge.sources.images import FrameError
from progeo_ros.conversions.incoming import camera_of, depth_m_of, image_of, odometry_of, transforms_of
from progeo_ros.conversions.standard import image_message
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import (
    IMAGE,
    SECOND,
    TYPES,
    camera_info,
    compressed,
    depth,
    image,
    odometry,
    pose,
    same_pose,
    transforms,
    turned,
)


@pytest.mark.parametrize("pixels", [IMAGE, IMAGE[:, :, 1]], ids=["bgr8", "mono8"])
@pytest.mark.parametrize("ros", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS1_NOETIC])
def test_an_image_survives_the_way_out_and_in(pixels, ros):
    types = RosbagsTypes(get_typestore(ros))
    sent = types.to_bytes(image_message(types, np.ascontiguousarray(pixels), 3, "cam"))
    np.testing.assert_array_equal(image_of(types.from_bytes(sent, "sensor_msgs/msg/Image")), pixels)


@pytest.mark.parametrize(
    "buffer", [bytes, bytearray, lambda data: array.array("B", data), lambda data: np.frombuffer(data, np.uint8)]
)
def test_plain_images_are_views_of_the_buffer_of_every_ros(buffer):
    data = buffer(IMAGE.tobytes())
    message = SimpleNamespace(height=48, width=64, encoding="bgr8", is_bigendian=0, step=192, data=data)
    pixels = image_of(message)
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(pixels, IMAGE)


def test_padded_rows_are_copied_without_the_padding():
    rows = np.pad(IMAGE.reshape(48, 192), ((0, 0), (0, 8)), constant_values=7)
    message = SimpleNamespace(height=48, width=64, encoding="bgr8", is_bigendian=0, step=200, data=rows.tobytes())
    np.testing.assert_array_equal(image_of(message), IMAGE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"height": 0}, "64x0"),
        ({"width": 0}, "0x48"),
        ({"step": 0}, "rows of 0 bytes"),
        ({"step": 191}, "rows of 191 bytes"),
        ({"data": b""}, "truncated: 0 bytes instead of 9216"),
        ({"data": IMAGE.tobytes()[:-1]}, "truncated: 9215 bytes instead of 9216"),
        ({"height": 2**32 - 1}, "truncated"),
        ({"encoding": ""}, "encoding '' is not supported"),
        ({"encoding": "nv12"}, "encoding 'nv12' is not supported"),
        ({"encoding": "32FC1"}, "is depth"),
        ({"encoding": "yuyv", "width": 63}, "63 columns"),
    ],
)
def test_an_unusable_image_is_refused_with_a_sentence(change, reason):
    fields = {"height": 48, "width": 64, "encoding": "bgr8", "is_bigendian": 0, "step": 192, "data": IMAGE.tobytes()}
    with pytest.raises(FrameError, match=reason):
        image_of(SimpleNamespace(**{**fields, **change}))


def test_data_longer_than_needed_are_no_problem():
    message = SimpleNamespace(
        height=48, width=64, encoding="bgr8", is_bigendian=0, step=192, data=IMAGE.tobytes() + b"tail"
    )
    np.testing.assert_array_equal(image_of(message), IMAGE)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("pixels", [IMAGE, IMAGE[:, :, 0]], ids=["colour", "grey"])
def test_compressed_images(suffix, pixels):
    smooth = cv2.GaussianBlur(pixels, (0, 0), 6)
    data = cv2.imencode(suffix, smooth)[1].tobytes()
    decoded = image_of(compressed(SECOND, data, f"bgr8; {suffix[1:]} compressed bgr8"))
    assert decoded.shape == smooth.shape
    np.testing.assert_allclose(decoded.astype(int), smooth, atol=0 if suffix == ".png" else 12)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_cut_compressed_images_are_refused(suffix, share):
    data = cv2.imencode(suffix, IMAGE)[1].tobytes()
    with pytest.raises(FrameError):
        image_of(compressed(SECOND, data[: int(share * len(data))]))


def test_compressed_depth_is_no_image_and_the_other_way_round():
    with pytest.raises(FrameError, match="compressedDepth is depth"):
        image_of(compressed(SECOND, b"", "16UC1; compressedDepth png"))
    with pytest.raises(FrameError, match="expected compressedDepth"):
        depth_m_of(compressed(SECOND, b"", "jpeg"))
    with pytest.raises(FrameError, match="depth has the encoding 'bgr8'"):
        depth_m_of(image(SECOND))


def test_depth_of_both_transports():
    np.testing.assert_array_equal(depth_m_of(depth(SECOND, 2.5)), np.full((48, 64), 2.5, np.float32))
    stored = np.full((4, 6), 1500, np.uint16)
    data = struct.pack("<iff", 0, 0.0, 0.0) + cv2.imencode(".png", stored)[1].tobytes()
    np.testing.assert_allclose(depth_m_of(compressed(SECOND, data, "16UC1; compressedDepth png")), 1.5)


# -- calibration -----------------------------------------------------------------------------------------------------


def test_camera_of_a_calibrated_camera():
    camera = camera_of(camera_info(fx=61.0), rectified=False, T_base_camera=turned(0.2))
    assert camera is not None
    assert (camera.width_px, camera.height_px, camera.K[0, 0], camera.T_base_camera[0, 3]) == (64, 48, 61.0, 0.2)


def test_rectified_images_take_the_projection_without_distortion():
    info = camera_info(fx=61.0, baseline=0.1)
    info.d[:] = 0.3
    info.p[0] = info.p[5] = 55.0
    camera = camera_of(info, rectified=True, T_base_camera=np.eye(4))
    assert camera is not None and camera.K[0, 0] == 55.0 and camera.distortion.size == 0
    camera = camera_of(info, rectified=False, T_base_camera=np.eye(4))
    assert camera is not None and camera.K[0, 0] == 61.0 and camera.distortion[0] == 0.3


@pytest.mark.parametrize(
    "info", [camera_info(fx=0.0), camera_info(fx=float("nan")), camera_info(size=(0, 0)), camera_info(model="omni")]
)
def test_an_uncalibrated_camera_is_none(info, caplog):
    assert camera_of(info, rectified=False, T_base_camera=np.eye(4)) is None
    assert "give a camera" in caplog.text


# -- odometry and tf -------------------------------------------------------------------------------------------------


def test_odometry_is_read_with_its_frames():
    T = turned(1.0, -2.0, yaw=0.7)
    found = odometry_of(odometry(5 * SECOND + 3, T, child="/base", parent="/odom"))
    same_pose(found.T_odom_base, T)
    assert (found.stamp_ns, found.odom_frame, found.base_frame, found.problem) == (5 * SECOND + 3, "odom", "base", "")


@pytest.mark.parametrize(
    ("field", "value"), [("position.x", float("nan")), ("position.z", float("inf")), ("orientation.y", float("nan"))]
)
def test_odometry_that_is_not_finite_is_none_with_a_reason(field, value):
    message = odometry(SECOND, turned())
    part, name = field.split(".")
    setattr(getattr(message.pose.pose, part), name, value)
    found = odometry_of(message)
    assert found.T_odom_base is None and f"{value:.4g}" in found.problem and "expected finite" in found.problem


def test_a_zero_quaternion_is_no_orientation():
    message = odometry(SECOND, turned())
    message.pose.pose.orientation = TYPES.make("geometry_msgs/msg/Quaternion", w=0.0)
    found = odometry_of(message)
    assert found.T_odom_base is None and "quaternion (0, 0, 0, 0)" in found.problem


def test_a_quaternion_nearly_of_unit_norm_is_normalised():
    message = odometry(SECOND, turned(yaw=0.7))
    for name in "xyzw":
        setattr(message.pose.pose.orientation, name, 1.01 * getattr(message.pose.pose.orientation, name))
    same_pose(odometry_of(message).T_odom_base, turned(yaw=0.7))


def test_transforms_keep_every_stamp_and_say_which_are_usable():
    first, second = transforms(SECOND, ("/a", "b", turned(1.0))), transforms(2 * SECOND, ("a", "b", turned(2.0)))
    broken = transforms(SECOND, ("a", "c", turned()))
    broken.transforms[0].transform.rotation = TYPES.make("geometry_msgs/msg/Quaternion", w=0.0)
    message = TYPES.make(
        "tf2_msgs/msg/TFMessage", transforms=[*first.transforms, *broken.transforms, *second.transforms]
    )
    found = transforms_of(message)
    assert [(t.parent, t.child, t.stamp_ns, t.is_usable) for t in found] == [
        ("a", "b", SECOND, True),
        ("a", "c", SECOND, False),
        ("a", "b", 2 * SECOND, True),
    ]
    same_pose(found[2].T_parent_child, turned(2.0))


def test_poses_survive_the_way_out_and_in():
    for yaw in np.linspace(-np.pi, np.pi, 9):
        T = turned(1.0, 2.0, yaw=yaw, pitch=0.3)
        message = TYPES.from_bytes(TYPES.to_bytes(odometry(SECOND, T)), "nav_msgs/msg/Odometry")
        found = odometry_of(message).T_odom_base
        assert found is not None
        np.testing.assert_allclose(invert(found) @ T, np.eye(4), atol=1e-9)
    assert pose(turned()).orientation.w == 1.0
