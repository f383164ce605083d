"""Image -> model input, exactly as the bundle says. Resizing is part of the model: see `Preprocess.resize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import InputError
from progeo_edge.shrinking import shrink
from progeo_edge.types import Image

_ENLARGE = {
    "area_or_cubic": cv2.INTER_CUBIC,
    "area_or_linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "linear": cv2.INTER_LINEAR,
}


def to_model_input(images: Sequence[Image], spec: Preprocess) -> NDArray[Any]:
    """Resize, order and scale images for a graph.

    Args:
        images: N arrays, (H, W, 3) BGR or (H, W) grey, uint8, of any sizes.
        spec: What the graph takes.

    Returns:
        (N, height_px, width_px, 3) for layout nhwc or (N, 3, height_px, width_px) for nchw, contiguous, of
        `spec.dtype`. float32 values are (x / 255 - mean) / std, or x / 255 when mean and std are None.

    Raises:
        InputError: an image of another shape or type.
    """
    batch = np.empty((len(images), spec.height_px, spec.width_px, 3), dtype=np.uint8)
    for row, image in zip(batch, images, strict=True):
        _write_colours(_fit(check_image(image), spec), spec.color, row)
    values = batch if spec.dtype == "uint8" else _scale(batch, spec)
    if spec.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)


def check_image(image: object) -> Image:
    """Return `image` when it is a non-empty (H, W) or (H, W, 3) uint8 array.

    Raises:
        InputError: anything else, naming shape and type.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"image is a {type(image).__name__}; expected a uint8 array, (H, W, 3) BGR or (H, W) grey")
    shape_is_good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not shape_is_good or image.size == 0:
        raise InputError(
            f"image has shape {image.shape} and dtype {image.dtype}; expected non-empty (H, W, 3) BGR or (H, W) grey "
            "uint8: convert 16-bit, float and BGRA images first"
        )
    return image


def _write_colours(image: Image, color: str, row: Image) -> None:
    """Into the batch, in the graph's order of colours; grey becomes three equal channels only here."""
    if image.ndim == 2:
        cv2.cvtColor(image, cv2.COLOR_GRAY2BGR, dst=row)
    elif color == "rgb":
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=row)
    else:
        row[...] = image


def _fit(image: Image, spec: Preprocess) -> Image:
    if spec.aspect == "crop":
        image = _crop_centre(image, spec)
    if spec.aspect == "pad":
        return _pad(image, spec)
    return _resize(image, spec.width_px, spec.height_px, spec.resize)


def _crop_centre(image: Image, spec: Preprocess) -> Image:
    height, width = image.shape[:2]
    scale = min(width / spec.width_px, height / spec.height_px)
    keep_width = max(1, round(spec.width_px * scale))
    keep_height = max(1, round(spec.height_px * scale))
    left, top = (width - keep_width) // 2, (height - keep_height) // 2
    return image[top : top + keep_height, left : left + keep_width]


def _pad(image: Image, spec: Preprocess) -> Image:
    height, width = image.shape[:2]
    scale = min(spec.width_px / width, spec.height_px / height)
    inner_width = max(1, round(width * scale))
    inner_height = max(1, round(height * scale))
    left, top = (spec.width_px - inner_width) // 2, (spec.height_px - inner_height) // 2
    canvas = np.zeros((spec.height_px, spec.width_px, *image.shape[2:]), dtype=np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = _resize(image, inner_width, inner_height, spec.resize)
    return canvas


def _resize(image: Image, width: int, height: int, policy: str) -> Image:
    # One axis may shrink while the other grows; OpenCV's INTER_AREA averages only when both shrink.
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    if policy == "area_or_cubic":
        image = shrink(image, *smaller)
    elif policy == "area_or_linear":
        image = _resized(image, *smaller, cv2.INTER_AREA)
    return _resized(image, width, height, _ENLARGE[policy])


def _resized(image: Image, width: int, height: int, interpolation: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    result: Image = cv2.resize(image, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)
    return result


def _scale(batch: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.float32]:
    values: NDArray[np.float32] = batch.astype(np.float32) / np.float32(255.0)
    if spec.mean is not None and spec.std is not None:
        values -= np.asarray(spec.mean, dtype=np.float32)
        values /= np.asarray(spec.std, dtype=np.float32)
    return values
