"""Arrays of a map packed into blobs: little-endian, without padding, described in docs/map.md."""

from __future__ import annotations

import struct
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.types import Image, LocalFeatures, ScaleSource, Transform

FIXED_POINT_STEPS = 32
"""Pixel coordinates are stored in 1/32 px: a rounding error of 0.009 px, far below that of any keypoint."""

FEATURE_KINDS = {"orb": 32, "sift": 128}
"""Known local features and the bytes of one descriptor."""

JPEG_QUALITY = 85

_FLOAT32, _FIXED_POINT = 0, 1
_HEADER = struct.Struct("<BBHIII")
_SCALE_SOURCES = (ScaleSource.NONE, ScaleSource.DEPTH, ScaleSource.STEREO, ScaleSource.ODOM)


def pack_transform(T: Transform) -> bytes:
    """Upper three rows, row by row, as 12 float64."""
    return np.ascontiguousarray(T[:3], dtype="<f8").tobytes()


def unpack_transform(data: bytes) -> Transform:
    """Inverse of `pack_transform`."""
    return np.vstack([np.frombuffer(data, dtype="<f8").reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])


def pack_pixels(pixels: NDArray[np.float32]) -> bytes:
    """One byte for the coding, then the values: uint16 in 1/32 px where all fit, else float32."""
    values = np.asarray(pixels, dtype=np.float32)
    steps = np.rint(values * FIXED_POINT_STEPS)
    if steps.size == 0 or (np.all(steps >= 0) and np.all(steps <= 65535)):
        return bytes([_FIXED_POINT]) + steps.astype("<u2").tobytes()
    return bytes([_FLOAT32]) + values.astype("<f4").tobytes()


def unpack_pixels(data: bytes) -> NDArray[np.float32]:
    """Inverse of `pack_pixels`, as (N, 2) float32."""
    if data[0] == _FIXED_POINT:
        values = np.frombuffer(data, dtype="<u2", offset=1).astype(np.float32) / FIXED_POINT_STEPS
    else:
        values = np.frombuffer(data, dtype="<f4", offset=1).astype(np.float32)
    return values.astype(np.float32).reshape(-1, 2)


def pack_features(features: LocalFeatures) -> bytes:
    """Header (kind, scale source, flags, count, width, height), keypoints, sizes, descriptors, points.

    Raises:
        InputError: unknown kind, or arrays that do not belong together.
    """
    check_features(features)
    steps = np.rint(np.column_stack([features.keypoints_px, features.sizes_px]) * FIXED_POINT_STEPS)
    fixed = len(features) == 0 or bool(np.all(steps >= 0) and np.all(steps <= 65535))
    flags = (1 if fixed else 0) | (2 if features.points_m is not None else 0)
    kind = list(FEATURE_KINDS).index(features.kind)
    scale_source = _SCALE_SOURCES.index(features.point_scale_source)
    width, height = features.image_size_px
    pixels = [steps[:, :2], steps[:, 2]] if fixed else [features.keypoints_px, features.sizes_px]
    blocks = [_HEADER.pack(kind, scale_source, flags, len(features), width, height)]
    blocks += [np.ascontiguousarray(block, dtype="<u2" if fixed else "<f4").tobytes() for block in pixels]
    blocks.append(np.ascontiguousarray(features.descriptors).tobytes())
    if features.points_m is not None:
        blocks.append(np.ascontiguousarray(features.points_m, dtype="<f4").tobytes())
    return b"".join(blocks)


def unpack_features(data: bytes) -> LocalFeatures:
    """Inverse of `pack_features`; pixels within 1/64 px."""
    kind, scale_source, flags, count, width, height = _HEADER.unpack_from(data)
    name = list(FEATURE_KINDS)[kind]
    offset = _HEADER.size

    def take(dtype: str, columns: int) -> NDArray[Any]:
        nonlocal offset
        block = np.frombuffer(data, dtype=dtype, count=count * columns, offset=offset)
        offset += block.nbytes
        return block.reshape(count, columns)

    coding, steps = ("<u2", FIXED_POINT_STEPS) if flags & 1 else ("<f4", 1)
    keypoints = take(coding, 2).astype(np.float32) / np.float32(steps)
    sizes = take(coding, 1).astype(np.float32).ravel() / np.float32(steps)
    descriptors = take("|u1", FEATURE_KINDS[name]).copy()
    points = take("<f4", 3).astype(np.float32) if flags & 2 else None
    return LocalFeatures(name, keypoints, sizes, descriptors, (width, height), points, _SCALE_SOURCES[scale_source])


def check_features(features: LocalFeatures) -> None:
    """Make sure that the arrays of local features belong together.

    Raises:
        InputError: naming the first array that does not.
    """
    if features.kind not in FEATURE_KINDS:
        raise InputError(f"local features of kind {features.kind!r} are unknown; expected {' or '.join(FEATURE_KINDS)}")
    n = len(features.keypoints_px)
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "keypoints_px": (features.keypoints_px, (n, 2)),
        "sizes_px": (features.sizes_px, (n,)),
        "descriptors": (features.descriptors, (n, FEATURE_KINDS[features.kind])),
    }
    if features.points_m is not None:
        expected["points_m"] = (features.points_m, (n, 3))
    for name, (array, shape) in expected.items():
        if np.shape(array) != shape:
            raise InputError(f"features.{name} has shape {np.shape(array)}; expected {shape} for {n} keypoints")
    if features.descriptors.dtype != np.uint8:
        raise InputError(f"features.descriptors are {features.descriptors.dtype}; expected uint8")
    if not np.all(np.isfinite(features.keypoints_px)) or not np.all(np.isfinite(features.sizes_px)):
        raise InputError("features hold a keypoint that is not finite; leave it out")


def encode_thumbnail(image: Image) -> bytes:
    """JPEG of a (H, W) or (H, W, 3) uint8 image.

    Raises:
        InputError: another shape or type.
    """
    if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(f"thumbnail is {image.dtype} {image.shape}; expected uint8 (H, W) or (H, W, 3)")
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise InputError(f"thumbnail of shape {image.shape} cannot be coded as JPEG; expected at most 65500 px a side")
    return data.tobytes()


def decode_thumbnail(data: bytes) -> Image:
    """Inverse of `encode_thumbnail`, with JPEG's loss."""
    return cast(Image, cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED))
