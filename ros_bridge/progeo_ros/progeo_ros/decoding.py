"""Pixels of a complete image, with its depth and right image."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera
from progeo_edge.sources.images import FrameError
from progeo_edge.types import Frame
from progeo_ros.assembled import AssembledFrame, Pending
from progeo_ros.conversions.incoming import depth_m_of, image_of

P = TypeVar("P", np.uint8, np.float32)


def decode(pending: Pending, problems: MutableMapping[str, str]) -> AssembledFrame:
    """Pixels of a complete image.

    Args:
        pending: Not decoded yet.
        problems: Where it is noted that depth or right image cannot be used; the frame is then without.

    Raises:
        FrameError: the image cannot be decoded, is empty, or has another shape than the camera was calibrated for.
    """
    image = image_of(pending.message)
    _check_size(image, pending.camera)
    frame = Frame(
        pending.stamp_ns,
        image,
        "",
        pending.T_odom_base,
        _beside("depth", pending.depth, depth_m_of, image.shape, problems),
        _beside("right", pending.right, image_of, image.shape, problems),
        pending.camera_name,
    )
    return AssembledFrame(
        frame,
        pending.camera if pending.rig is None else pending.rig or None,
        pending.camera_frame,
        pending.base_frame,
        pending.odom_frame,
        pending.arrival_ns,
        pending.generation,
    )


def _check_size(image: NDArray[np.uint8], camera: Camera | None) -> None:
    """Intrinsics scale with the size of the image, but not with its shape."""
    if camera is None:
        return
    height_px, width_px = image.shape[:2]
    try:
        camera.for_image_size(width_px, height_px)
    except InputError as error:
        raise FrameError(str(error)) from error


def _beside(
    name: str,
    message: Any | None,  # noqa: ANN401
    convert: Callable[[Any], NDArray[P]],
    shape: tuple[int, ...],
    problems: MutableMapping[str, str],
) -> NDArray[P] | None:
    """Depth or right image; a frame without it is still a frame."""
    if message is None:
        return None
    try:
        pixels = convert(message)
    except FrameError as error:
        problems[name] = f"{name} cannot be used: {error}"
        return None
    if pixels.shape[:2] != shape[:2]:
        problems[name] = (
            f"{name} is {pixels.shape[1]}x{pixels.shape[0]} px, the image {shape[1]}x{shape[0]}: it is not used; "
            f"register it to the image"
        )
        return None
    problems.pop(name, None)
    return pixels
