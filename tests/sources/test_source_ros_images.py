from __future__ import annotations

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from progeo_edge.sources.images import FrameError
from progeo_edge.sources.ros_images import (
    depth_m_from_compressed,
    depth_m_from_message,
    image_from_compressed,
    image_from_message,
)

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (6, 10, 3), np.uint8)
GREY = BGR[:, :, 1]
ALPHA = np.full((6, 10, 1), 77, np.uint8)


def message(pixels: np.ndarray, encoding: str, *, padding: int = 0, bigendian: bool = False) -> SimpleNamespace:
    """`pixels` in the order and type of the encoding; stored in the byte order asked for, with padded rows."""
    height, width = pixels.shape[:2]
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.ascontiguousarray(stored).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xEE)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=rows.shape[1],
        data=rows.tobytes(),
    )


EIGHT_BITS = {
    "mono8": (GREY, GREY),
    "8UC1": (GREY, GREY),
    "bgr8": (BGR, BGR),
    "8UC3": (BGR, BGR),
    "rgb8": (BGR[:, :, ::-1], BGR),
    "bgra8": (np.dstack([BGR, ALPHA]), BGR),
    "8UC4": (np.dstack([BGR, ALPHA]), BGR),
    "rgba8": (np.dstack([BGR[:, :, ::-1], ALPHA]), BGR),
}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", EIGHT_BITS)
def test_eight_bits_are_exact(encoding, padding):
    stored, expected = EIGHT_BITS[encoding]
    image = image_from_message(message(stored, encoding, padding=padding))
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "bgr16", "rgb16", "bgra16", "rgba16"])
def test_sixteen_bits_keep_the_picture(encoding, padding, bigendian):
    ramp = np.linspace(1000, 4000, 60).reshape(6, 10)
    channels = [ramp, ramp[::-1], ramp[:, ::-1], np.full((6, 10), 65535.0)]
    bgr = np.dstack(channels[:3])
    if encoding in ("mono16", "16UC1"):
        stored, expected = ramp, ramp
    else:
        order = {"bgr": [0, 1, 2], "rgb": [2, 1, 0]}[encoding[:3]] + ([3] if "a16" in encoding else [])
        stored, expected = np.dstack([channels[index] for index in order]), bgr
    image = image_from_message(message(stored.astype(np.uint16), encoding, padding=padding, bigendian=bigendian))
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    np.testing.assert_allclose(image, (expected - 1000) / 3000 * 255, atol=4)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_colour(order, bits):
    colour = {"b": 40, "g": 120, "r": 220}
    tile = np.array([[colour[order[0]], colour[order[1]]], [colour[order[2]], colour[order[3]]]])
    mosaic = np.tile(tile, (8, 8)).astype(f"u{bits // 8}")
    if bits == 16:
        mosaic = mosaic * np.uint16(257)
    image = image_from_message(message(mosaic, f"bayer_{order}{bits}", padding=4, bigendian=bits == 16))
    inner = image[3:-3, 3:-3].reshape(-1, 3)
    assert np.ptp(inner, axis=0).max() <= 1
    if bits == 8:
        np.testing.assert_allclose(inner[0], [40, 120, 220], atol=1)
    else:
        np.testing.assert_allclose(inner[0], [0, 113, 255], atol=2)


@pytest.mark.parametrize(("encoding", "luma"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_yuv(encoding, luma):
    pixels = np.full((4, 6, 2), 128, np.uint8)
    pixels[:, :, luma] = np.array([16, 235] * 3)
    image = image_from_message(message(pixels, encoding, padding=2))
    np.testing.assert_allclose(image[:, 0], 0, atol=1)
    np.testing.assert_allclose(image[:, 1], 255, atol=1)


@pytest.mark.parametrize("bigendian", [False, True])
def test_depth(bigendian):
    millimetres = np.array([[0, 500], [1234, 65535]], np.uint16)
    depth = depth_m_from_message(message(millimetres, "16UC1", padding=2, bigendian=bigendian))
    np.testing.assert_allclose(depth, [[0, 0.5], [1.234, 65.535]], rtol=1e-6)
    metres = np.array([[0.0, np.nan], [1.5, 80.0]], np.float32)
    depth = depth_m_from_message(message(metres, "32FC1", padding=4, bigendian=bigendian))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, metres)


def test_compressed_depth():
    header = struct.pack("<iff", 0, 100.0, 5.0)
    stored = np.array([[0, 55], [105, 25]], np.uint16)
    png = cv2.imencode(".png", stored)[1].tobytes()
    floats = SimpleNamespace(format="32FC1; compressedDepth png", data=header + png)
    np.testing.assert_allclose(depth_m_from_compressed(floats), [[0, 2.0], [1.0, 5.0]])
    integers = SimpleNamespace(format="16UC1; compressedDepth", data=header + png)
    np.testing.assert_allclose(depth_m_from_compressed(integers), stored / 1000, rtol=1e-6)
    for name, data in [("16UC1; compressedDepth", header + png[:40]), ("16UC1; compressedDepth", b"12"), ("jpeg", png)]:
        with pytest.raises(FrameError):
            depth_m_from_compressed(SimpleNamespace(format=name, data=data))


def test_depth_is_no_camera_image():
    with pytest.raises(FrameError, match="depth"):
        image_from_message(message(np.ones((2, 2), np.float32), "32FC1"))
    with pytest.raises(FrameError, match="depth"):
        image_from_compressed(SimpleNamespace(format="16UC1; compressedDepth", data=b"123"))
    with pytest.raises(FrameError, match="expected 16UC1 or 32FC1"):
        depth_m_from_message(message(BGR, "bgr8"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "nv21"}, "encoding 'nv21' is not supported"),
        ({"step": 29}, "cannot have rows of 29 bytes"),
        ({"height": 0}, "10x0"),
        ({"width": 0}, "0x6"),
        ({"height": 7}, "truncated: 180 bytes instead of 210"),
        ({"data": b""}, "truncated: 0 bytes"),
    ],
)
def test_messages_that_promise_too_much(change, reason):
    broken = message(BGR, "bgr8")
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(FrameError, match=reason):
        image_from_message(broken)
