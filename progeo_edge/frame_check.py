"""Whether a frame is what it claims to be, before anything is done with it."""

from __future__ import annotations

import numpy as np

from progeo_edge.errors import InputError
from progeo_edge.geometry import check_transform
from progeo_edge.types import Frame


def check_frame(frame: Frame) -> None:
    """Refuse an image or a pose of a wrong shape, type or value.

    Raises:
        InputError: with what was given and what was expected.
    """
    image = frame.image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.size == 0:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(
            f"frame {frame.name or frame.stamp_ns}: image is {kind}; expected non-empty uint8 (H, W, 3) BGR"
        )
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] != 3):
        raise InputError(
            f"frame {frame.name or frame.stamp_ns}: image has shape {image.shape}; expected (H, W, 3) or (H, W)"
        )
    if frame.T_odom_base is not None:
        check_transform(frame.T_odom_base, f"frame {frame.name or frame.stamp_ns}: T_odom_base")
