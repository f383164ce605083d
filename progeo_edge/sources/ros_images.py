"""ROS image messages to arrays: pure functions on anything that has the fields of the message.

Encodings: sensor_msgs/image_encodings.h; depth: REP 118 (16UC1 in millimetres, 32FC1 in metres).
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.sources.images import FrameError, decode_image, stretch_to_8_bits, to_image
from progeo_edge.types import Image


class ImageMessage(Protocol):
    """Fields of sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """Fields of sensor_msgs/CompressedImage."""

    format: str
    data: Any


_LAYOUTS: dict[str, tuple[str, int]] = {
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "bgr8": ("u1", 3),
    "8UC3": ("u1", 3),
    "rgb8": ("u1", 3),
    "bgra8": ("u1", 4),
    "8UC4": ("u1", 4),
    "rgba8": ("u1", 4),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "bgr16": ("u2", 3),
    "rgb16": ("u2", 3),
    "bgra16": ("u2", 4),
    "rgba16": ("u2", 4),
    "32FC1": ("f4", 1),
    "yuv422": ("u1", 2),
    "uyvy": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    "yuyv": ("u1", 2),
} | {f"bayer_{order}{bits}": (f"u{bits // 8}", 1) for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
"""Type and channels of each encoding."""

# OpenCV names a Bayer pattern by its second row and column, ROS by its first.
_DEMOSAIC = {
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}

_YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")

_COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")


def image_from_message(message: ImageMessage) -> Image:
    """sensor_msgs/Image to (H, W, 3) BGR or (H, W) grey, uint8.

    Raises:
        FrameError: an encoding that is no camera image, or fewer data than height and step promise.
    """
    encoding = message.encoding
    if encoding == "32FC1":
        raise FrameError("encoding 32FC1 is depth, not a camera image; choose another image topic")
    pixels = _pixels(message)
    if encoding.startswith("bayer_"):
        mosaic = stretch_to_8_bits(pixels) if pixels.dtype == np.uint16 else np.ascontiguousarray(pixels)
        return to_image(cv2.cvtColor(mosaic, _DEMOSAIC[encoding.rstrip("0123456789")]))
    if encoding in _YUV and pixels.shape[1] % 2:
        raise FrameError(f"a {encoding} image of {pixels.shape[1]} columns cannot be: two pixels share their colour")
    if encoding in ("yuv422", "uyvy"):
        return to_image(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_YUV2BGR_UYVY))
    if encoding in ("yuv422_yuy2", "yuyv"):
        return to_image(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_YUV2BGR_YUY2))
    if encoding.startswith("rgb"):
        pixels = pixels[:, :, 2::-1]
    return to_image(pixels)


def image_from_compressed(message: CompressedImageMessage) -> Image:
    """sensor_msgs/CompressedImage (JPEG, PNG ...) to (H, W, 3) BGR or (H, W) grey, uint8.

    Raises:
        FrameError: compressed depth, truncated or undecodable data.
    """
    if "compressedDepth" in message.format:
        raise FrameError("format compressedDepth is depth, not a camera image; choose another image topic")
    return decode_image(bytes(message.data))


def depth_m_from_message(message: ImageMessage) -> NDArray[np.float32]:
    """sensor_msgs/Image in 16UC1, mono16 (millimetres) or 32FC1 (metres) to (H, W) float32 metres.

    Raises:
        FrameError: another encoding, or too few data.
    """
    if message.encoding not in ("16UC1", "mono16", "32FC1"):
        raise FrameError(f"depth has the encoding {message.encoding!r}; expected 16UC1 or 32FC1")
    values = _pixels(message)
    return _metres(values)


def depth_m_from_compressed(message: CompressedImageMessage) -> NDArray[np.float32]:
    """sensor_msgs/CompressedImage of compressed_depth_image_transport (PNG) to (H, W) float32 metres.

    The data start with a header of one int32 and two float32, a and b; 32FC1 depth was stored as a / depth + b.

    Raises:
        FrameError: another format, or undecodable data.
    """
    data = bytes(message.data)
    encoding = message.format.split(";")[0].strip()
    if "compressedDepth" not in message.format or "rvl" in message.format.lower():
        raise FrameError(f"depth has the format {message.format!r}; expected compressedDepth with PNG")
    if len(data) <= _COMPRESSED_DEPTH_HEADER.size:
        raise FrameError(f"compressed depth has {len(data)} bytes; it is truncated")
    _, a, b = _COMPRESSED_DEPTH_HEADER.unpack_from(data)
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8, offset=_COMPRESSED_DEPTH_HEADER.size), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FrameError(f"compressed depth cannot be decoded: {error}") from error
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise FrameError("compressed depth cannot be decoded; it is truncated, or not a 16-bit PNG")
    if encoding != "32FC1":
        return _metres(stored)
    known = stored > 0
    depth_m = np.zeros(stored.shape, np.float32)
    depth_m[known] = a / (stored[known].astype(np.float32) - b)
    return depth_m


def _metres(values: NDArray[Any]) -> NDArray[np.float32]:
    metres: NDArray[np.float32] = values.astype(np.float32)
    if values.dtype == np.uint16:
        metres *= np.float32(0.001)
    return metres


def _pixels(message: ImageMessage) -> NDArray[Any]:
    """(H, W) or (H, W, C) view in native byte order, without the padding of the rows."""
    if message.encoding not in _LAYOUTS:
        raise FrameError(f"encoding {message.encoding!r} is not supported; expected one of {', '.join(_LAYOUTS)}")
    kind, channels = _LAYOUTS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * channels * dtype.itemsize
    if height <= 0 or width <= 0 or step < row_bytes:
        raise FrameError(f"a {width}x{height} {message.encoding} image cannot have rows of {step} bytes")
    data = np.frombuffer(message.data, np.uint8)
    if len(data) < height * step:
        raise FrameError(f"its data are truncated: {len(data)} bytes instead of {height * step}")
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row_bytes])
    pixels: NDArray[Any] = rows.view(dtype).reshape(height, width, channels)
    native = pixels.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(height, width) if channels == 1 else native
