"""Bytes and arrays of any camera to the one image form of the project: uint8, BGR or grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm", ".jp2"))

MIN_STRETCH_LEVELS = 256
"""A 16-bit image that spans fewer levels is stretched as if it spanned this many, so that noise stays dark."""


class FrameError(Exception):
    """One frame cannot be used; the source counts it and goes on."""


def read_image(path: Path) -> Image:
    """Decode an image file to (H, W, 3) BGR or (H, W) grey, uint8.

    Raises:
        FrameError: missing, unreadable, truncated, or not an image.
    """
    return decode_image(_read_bytes(path))


def decode_image(data: bytes) -> Image:
    """Decode JPEG, PNG, TIFF ... to (H, W, 3) BGR or (H, W) grey, uint8; EXIF orientation is applied.

    Raises:
        FrameError: truncated, or not an image.
    """
    return to_image(_decode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH))


def read_depth_m(path: Path, units_per_m: float) -> NDArray[np.float32]:
    """Decode a 16-bit depth image to (H, W) float32 metres; 0 stays 0 (unknown).

    Raises:
        FrameError: unreadable, or not a single-channel 16-bit image.
    """
    depth = _decode(_read_bytes(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if depth.dtype != np.uint16 or depth.ndim != 2:
        raise FrameError(f"depth {path.name} is {depth.dtype} of shape {depth.shape}; expected one 16-bit channel")
    depth_m: NDArray[np.float32] = depth.astype(np.float32)
    depth_m /= np.float32(units_per_m)
    return depth_m


def to_image(pixels: NDArray[Any]) -> Image:
    """Any decoded array to (H, W, 3) BGR or (H, W) grey uint8; alpha is dropped, 16 bits are stretched to 8.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA; uint8 or uint16.

    Raises:
        FrameError: empty, or of another type or number of channels.
    """
    if pixels.size == 0:
        raise FrameError(f"the image is empty (shape {pixels.shape})")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise FrameError(f"the image has shape {pixels.shape}; expected one, three or four channels")
    if pixels.dtype == np.uint16:
        pixels = stretch_to_8_bits(pixels)
    if pixels.dtype != np.uint8:
        raise FrameError(f"the image holds {pixels.dtype}; expected 8 or 16 bits per channel")
    return np.ascontiguousarray(pixels)


def stretch_to_8_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Map the 0.5 and 99.5 percentiles of all channels together to 0 and 255.

    Sixteen-bit files hold anything from 10-bit cameras to 14-bit thermal ones, and say nothing about it: a fixed
    shift by eight bits would turn most of them black. A span under 256 levels is not stretched to the full range.
    """
    sample = pixels[:: max(1, pixels.shape[0] // 480), :: max(1, pixels.shape[1] // 640)]
    low, high = np.percentile(sample, [0.5, 99.5])
    gain = np.float32(255.0 / max(high - low, MIN_STRETCH_LEVELS))
    stretched: NDArray[np.float32] = np.clip((pixels.astype(np.float32) - np.float32(low)) * gain, 0, 255)
    return stretched.astype(np.uint8)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f"the file cannot be read: {error.strerror or error}") from error


def _decode(data: bytes, flags: int) -> NDArray[Any]:
    if not data:
        raise FrameError("the image is empty (0 bytes)")
    if _is_cut_jpeg(data):
        raise FrameError(f"the JPEG is truncated after {len(data)} bytes")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise FrameError(f"the image cannot be decoded: {error.err or error}") from error
    if pixels is None:
        raise FrameError(f"the image cannot be decoded ({len(data)} bytes; truncated, or not an image)")
    return cast("NDArray[Any]", pixels)


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end marker: some OpenCV versions fill the missing part with grey and say nothing.

    Searching the whole file would find the end of an embedded thumbnail, so the segments before the scan are walked
    (ITU-T T.81, annex B).
    """
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) < 0
        if marker == 0xFF:
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
