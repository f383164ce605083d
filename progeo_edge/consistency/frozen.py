"""A camera that has frozen delivers the same picture over and over, and every place looks like the last one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import KeyframeConfig, RecognisableConfig
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.types import Frame, Image, Transform

_SAMPLES = 160
"""Rows and columns that are looked at. Pixels are picked and not averaged: the sensor's noise, by which a camera that
works gives itself away even where nothing moves, would be lost in a mean."""


class FrozenCamera:
    """Compares every frame with the first one of those that look exactly like it."""

    def __init__(self, recognisable: RecognisableConfig, keyframe: KeyframeConfig) -> None:
        """Args: recognisable: when two pictures are one; keyframe: what counts as motion."""
        self._config = recognisable
        self._keyframe = keyframe
        self._pixels: NDArray[np.int16] | None = None
        self._stamp_ns = 0
        self._T_odom_base: Transform | None = None

    def is_frozen(self, frame: Frame) -> bool:
        """Whether the picture has stayed the same while the robot moved; without odometry: for too long."""
        pixels = _pick(frame.image)
        if not self._is_the_same(pixels):
            self._pixels, self._stamp_ns, self._T_odom_base = pixels, frame.stamp_ns, frame.T_odom_base
            return False
        if frame.T_odom_base is None or self._T_odom_base is None:
            return (frame.stamp_ns - self._stamp_ns) * 1e-9 > self._config.frozen_after_s
        T_first_base = invert(self._T_odom_base) @ frame.T_odom_base
        rotation_deg = float(np.degrees(rotation_angle(T_first_base[:3, :3])))
        has_driven = float(np.linalg.norm(T_first_base[:3, 3])) >= max(self._keyframe.min_translation_m, 0.1)
        return has_driven or rotation_deg >= max(self._keyframe.min_rotation_deg, 1.0)

    def _is_the_same(self, pixels: NDArray[np.int16]) -> bool:
        if self._pixels is None or self._pixels.shape != pixels.shape or self._config.frozen_difference == 0:
            return False
        return float(np.abs(pixels - self._pixels).mean()) <= self._config.frozen_difference


def _pick(image: Image) -> NDArray[np.int16]:
    step_y, step_x = (max(1, size // _SAMPLES) for size in image.shape[:2])
    return image[::step_y, ::step_x].astype(np.int16)
